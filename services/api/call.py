"""One request on its way through the gateway, and what handlers are given to answer it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from aiohttp import web

from cloacina.store.identity import TenantRow
from cloacina.telemetry import scope
from services.api.access import Level
from services.api.routing import Route

if TYPE_CHECKING:
    from services.api.app import Gateway
    from services.api.quotas import Quotas
    from services.api.upstream import Upstream


@dataclass(frozen=True, slots=True)
class Principal:
    """Whose key a request shows.

    Args:
        key_id: UUID of the key.
        name: its name.
        tenant_id: the tenant it belongs to; ``None`` for a god-mode key.
        role: "read", "write" or "admin".
        level: the role's level.
        is_admin: god mode: every tenant, and the platform itself.
        expires_at: when the key stops being valid, microseconds since the epoch; ``None`` for never.
        session_id: the session of a person who is logged in; ``None`` for an API key.
    """

    key_id: str
    name: str
    tenant_id: str | None
    role: str
    level: Level
    is_admin: bool
    expires_at: int | None = None
    session_id: str | None = None


@dataclass(slots=True)
class Call:
    """What a handler gets.

    Args:
        http: the request as aiohttp has it.
        gateway: what the handler works with.
        route: the table's entry.
        path: path parameters, decoded.
        caller: whose request it is; ``None`` on public routes.
        tenant: the tenant in the path, or else the caller's; ``None`` where there is neither.
    """

    http: web.BaseRequest
    gateway: Gateway
    route: Route
    path: dict[str, str]
    caller: Principal | None = None
    tenant: TenantRow | None = None

    @property
    def quotas(self) -> Quotas:
        """What the tenant may use. A god-mode key is held to it as well: what it starts, the tenant has."""
        assert self.tenant is not None, "the route has a tenant"
        return self.gateway.quotas.of(self.tenant)

    @property
    def tenant_id(self) -> str:
        """The tenant in the path."""
        return self.path["tenant_id"]

    async def ask(self, upstream: Upstream, method: Any, request: Any) -> Any:
        """Calls a service behind the gateway, within ``api_rpc_deadline_s``.

        Args:
            upstream: the service.
            method: of its stub.
            request: the message.

        Raises:
            CloacinaError: what the service said; `Unavailable` when it cannot be reached or is too slow.
        """
        return await upstream.client.call(method, request, deadline_s=self.gateway.settings.api_rpc_deadline_s)

    def bind(self, **ids: Any) -> None:
        """Adds ids to the scope for the rest of the request, its access line and span included.

        Args:
            ids: fields of `cloacina.telemetry.scope.Scope`.
        """
        scope.attach(replace(scope.current(), **ids))
