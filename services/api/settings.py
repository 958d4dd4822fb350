"""Settings of the gateway."""

from __future__ import annotations

import ipaddress
from typing import Self

from pydantic import Field, field_validator, model_validator

from cloacina.runtime.http_settings import HttpSettings
from cloacina.runtime.settings import ServiceSettings
from services.api.throttle import Network


class GatewaySettings(HttpSettings, ServiceSettings):
    """Every field's variable is ``CLOACINA_`` and its name in capitals."""

    api_port: int = Field(8080, ge=0, le=65535, description="port of the HTTP API and /metrics; 0 for any")
    api_rpc_port: int = Field(9200, ge=0, le=65535, description="port of the gateway's own gRPC server; 0 for any")
    scheduler_target: str = Field(
        "127.0.0.1:9201",
        min_length=1,
        description="host:port of the scheduler's gRPC server; of several, separated by commas, and of a host name all "
        "addresses it has",
    )
    reconciler_target: str = Field("127.0.0.1:9202", min_length=1, description="gRPC target of the reconciler")
    executor_target: str = Field(
        "127.0.0.1:9203", description="gRPC targets of the executors, comma-separated, for /v1/health/status"
    )
    bootstrap_key: str = Field(
        "", description="the first god-mode key; empty to make one and write it to <home>/bootstrap-key", repr=False
    )
    api_auth_cache_s: float = Field(
        5.0, ge=0, le=300, description="seconds a key is believed before the store is asked again"
    )
    api_max_in_flight: int = Field(1024, ge=1, description="requests handled at once; more are answered 503")
    tenant_share: float = Field(
        0.75,
        gt=0,
        le=1,
        description="share of each limit on what may be in flight, wait or live that one tenant may take",
    )
    api_keepalive_s: float = Field(
        75.0, gt=0, description="seconds a connection may be idle or take for a request's head (above those of proxies)"
    )
    api_body_timeout_s: float = Field(
        30.0, gt=0, description="seconds a JSON body may take, and an upload may stand still"
    )
    api_upload_timeout_s: float = Field(300.0, gt=0, description="seconds an upload may take in all")
    api_rpc_deadline_s: float = Field(5.0, gt=0, description="seconds a call to another service may take")
    api_ws_max_connections: int = Field(1024, ge=1, description="WebSockets open at once; more are answered 503")
    api_ws_window: int = Field(256, ge=1, description="pushes over a WebSocket that may be unacknowledged at once")
    api_ws_stall_s: float = Field(
        30.0, gt=0, description="seconds a WebSocket's client may leave its window full, or read nothing"
    )
    api_session_key_s: float = Field(
        3600.0,
        ge=60,
        description="seconds the key of a person who is logged in is valid, unless it is refreshed before",
    )
    api_session_s: float = Field(43200.0, ge=60, description="seconds after which a session ends, refreshed or not")
    api_login_attempts: int = Field(
        10,
        ge=1,
        description="failed attempts to log in that an account has in a window; an address has 5 times as many",
    )
    api_login_window_s: float = Field(900.0, ge=1, description="seconds until failed attempts to log in are forgotten")
    api_trusted_proxies: str = Field(
        "",
        description="networks of proxies whose X-Forwarded-For says who the client is, comma-separated (10.0.0.0/8, …)",
    )
    api_tenant_request_rate: float = Field(
        0.0,
        ge=0,
        description="requests a second that a tenant may send over all gateways, unless it has its own; 0 for any",
    )
    api_tenant_executions: int = Field(
        0, ge=0, le=2**31, description="executions that a tenant may have unfinished, unless it has its own; 0 for any"
    )
    api_tenant_package_bytes: int = Field(
        0, ge=0, le=2**62, description="bytes that a tenant's archives may have, unless it has its own; 0 for any"
    )
    api_tenant_drain_s: float = Field(
        10.0, ge=0, le=3600, description="seconds that executions may go on when their tenant is removed"
    )
    oidc_issuer: str = Field(
        "",
        pattern=r"\A\z|^https://\S+$|^http://(127\.0\.0\.1|localhost)(:\d+)?(/\S*)?$",
        description="address of the OpenID provider that people may log in with; empty for none",
    )
    oidc_client_id: str = Field("", description="this gateway's name at the OpenID provider")
    oidc_client_secret: str = Field("", description="its secret there; empty for a public client", repr=False)
    oidc_redirect_url: str = Field(
        "", description="where the provider sends people back to: this gateway's /v1/auth/oidc/callback, from outside"
    )
    oidc_tenant_claim: str = Field("cloacina_tenant", min_length=1, description="claim that names a person's tenant")
    oidc_role_claim: str = Field("cloacina_role", min_length=1, description="claim that names a person's role")
    trace_ui_url: str = Field(
        "",
        pattern=r"\A\z|^https?://\S*\{trace_id\}\S*$",
        description="address of a trace in your tracing UI, with {trace_id} in it; empty for no links",
    )

    @model_validator(mode="after")
    def _oidc_is_whole(self) -> Self:
        if self.oidc_issuer and not (self.oidc_client_id and self.oidc_redirect_url):
            raise ValueError("with CLOACINA_OIDC_ISSUER set CLOACINA_OIDC_CLIENT_ID and CLOACINA_OIDC_REDIRECT_URL too")
        return self

    @field_validator("api_trusted_proxies")
    @classmethod
    def _are_networks(cls, value: str) -> str:
        _networks(value)
        return value

    @property
    def trusted_networks(self) -> tuple[Network, ...]:
        """The proxies whose word is taken."""
        return _networks(self.api_trusted_proxies)

    @property
    def executor_targets(self) -> tuple[str, ...]:
        """The executors, one by one."""
        return tuple(target.strip() for target in self.executor_target.split(",") if target.strip())


def _networks(value: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(network.strip()) for network in value.split(",") if network.strip())
