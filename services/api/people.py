"""What handlers need for people, in contrast to keys: accounts, passwords, sessions, the limit on attempts."""

from __future__ import annotations

from dataclasses import dataclass

from cloacina.store.accounts import AccountStore
from services.api.identity_metrics import IdentityMetrics
from services.api.oidc import OidcLogin
from services.api.passwords import Passwords
from services.api.sessions import Sessions
from services.api.settings import GatewaySettings
from services.api.throttle import LoginThrottle


@dataclass(frozen=True, slots=True)
class People:
    """Everything about accounts.

    Args:
        accounts: the store.
        passwords: hashes and checks them.
        sessions: who is logged in.
        throttle: limits attempts to log in.
        oidc: logs people in with an OpenID provider.
        metrics: what they are counted in.
    """

    accounts: AccountStore
    passwords: Passwords
    sessions: Sessions
    throttle: LoginThrottle
    oidc: OidcLogin
    metrics: IdentityMetrics

    @classmethod
    def assemble(cls, accounts: AccountStore, settings: GatewaySettings, metrics: IdentityMetrics) -> People:
        """All of it with the settings of a gateway."""
        return cls(
            accounts=accounts,
            passwords=Passwords(),
            sessions=Sessions(accounts, settings.api_session_key_s, settings.api_session_s),
            throttle=LoginThrottle(accounts, settings.api_login_attempts, settings.api_login_window_s),
            oidc=OidcLogin(accounts, settings),
            metrics=metrics,
        )
