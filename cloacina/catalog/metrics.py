"""Packages by state, as whoever loads them measures them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Gauge


def show_packages(registry: CollectorRegistry, packages: Mapping[str, Callable[[], float]]) -> None:
    """Adds the packages by state.

    Args:
        registry: where.
        packages: gives how many are in a state, by state; asked at each scrape.
    """
    states = Gauge("cloacina_reconciler_packages", "Package versions by state.", ["state"], registry=registry)
    for state, count in packages.items():
        states.labels(state).set_function(count)
