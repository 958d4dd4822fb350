"""What the gateway measures of identity: logins, the cache of keys, refusals by quota."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

LOGIN_OUTCOMES = ("ok", "refused", "throttled")
LOGIN_METHODS = ("password", "oidc")
QUOTAS = ("requests", "executions", "package_bytes")


class IdentityMetrics:
    """Counters with every label they will ever have, from the start.

    Args:
        registry: where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._logins = Counter(
            "cloacina_api_logins_total",
            "Attempts to log in.",
            ["method", "outcome"],
            registry=registry,
        )
        for method in LOGIN_METHODS:
            for outcome in LOGIN_OUTCOMES:
                self._logins.labels(method, outcome)
        lookups = Counter(
            "cloacina_api_key_lookups_total",
            "Keys that were shown, by whether the cache knew them.",
            ["result"],
            registry=registry,
        )
        self._hit, self._miss = lookups.labels("hit"), lookups.labels("miss")
        self._refusals = Counter(
            "cloacina_api_quota_refusals_total",
            "Requests that were refused because a tenant's quota is used up.",
            ["quota"],
            registry=registry,
        )
        for quota in QUOTAS:
            self._refusals.labels(quota)

    def login(self, method: str, outcome: str) -> None:
        """Counts an attempt to log in: a value of `LOGIN_METHODS` and one of `LOGIN_OUTCOMES`."""
        self._logins.labels(method, outcome).inc()

    def looked_up(self, *, hit: bool) -> None:
        """Counts a key that was shown."""
        (self._hit if hit else self._miss).inc()

    def refused(self, quota: str) -> None:
        """Counts a refusal: a value of `QUOTAS`."""
        self._refusals.labels(quota).inc()
