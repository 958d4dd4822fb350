"""What a tenant may use: requests a second, unfinished executions, bytes of packages. By setting, and by tenant."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cloacina.errors import CloacinaError, RateLimited
from cloacina.store.identity import TenantRow
from services.api.allowances import RequestAllowances
from services.api.identity_metrics import IdentityMetrics
from services.api.settings import GatewaySettings

_CODES = {"execution_quota_exceeded": "executions", "package_quota_exceeded": "package_bytes"}
"""What services say of a quota that is used up."""


@dataclass(frozen=True, slots=True)
class Quotas:
    """Limits of one tenant; 0 for none.

    Args:
        requests_per_s: requests, at all gateways together; a second's worth may come at once.
        executions: executions that are unfinished.
        package_bytes: bytes of the archives of its packages.
    """

    requests_per_s: float
    executions: int
    package_bytes: int


class QuotaKeeper:
    """Tells tenants' quotas, and holds the one that gateways hold themselves: requests a second.

    Args:
        settings: the defaults.
        metrics: what refusals are counted in.
        allowances: what tenants may send.
    """

    def __init__(self, settings: GatewaySettings, metrics: IdentityMetrics, allowances: RequestAllowances) -> None:
        self._default = Quotas(
            settings.api_tenant_request_rate, settings.api_tenant_executions, settings.api_tenant_package_bytes
        )
        self._metrics = metrics
        self._allowances = allowances

    def of(self, tenant: TenantRow) -> Quotas:
        """The limits of a tenant."""
        default = self._default
        return Quotas(
            default.requests_per_s if tenant.requests_per_s is None else tenant.requests_per_s,
            default.executions if tenant.max_executions is None else tenant.max_executions,
            default.package_bytes if tenant.max_package_bytes is None else tenant.max_package_bytes,
        )

    async def admit(self, tenant: TenantRow) -> None:
        """Counts a request.

        Raises:
            RateLimited: there were too many (code request_quota_exceeded).
            Unavailable: the store cannot be read or written.
        """
        rate = self.of(tenant).requests_per_s
        if not rate:
            return
        wait_s = await self._allowances.take(tenant.name, rate)
        if wait_s:
            self._metrics.refused("requests")
            raise RateLimited(
                f"the tenant {tenant.name} may send {rate:g} requests a second",
                code="request_quota_exceeded",
                retry_after_s=max(1, math.ceil(wait_s)),
            )

    def notice(self, error: CloacinaError) -> None:
        """Counts what a service refused because a quota is used up."""
        quota = _CODES.get(error.code)
        if quota is not None:
            self._metrics.refused(quota)
