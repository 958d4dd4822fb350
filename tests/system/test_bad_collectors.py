"""A trace collector that is away, refuses or says nothing, over HTTP: no request is a millisecond slower for it."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

import pytest

from bench.collectors import Target, measure, targets

pytestmark = pytest.mark.xdist_group("bad collectors")
_BOUND_S = 0.001
_REQUESTS = 30
_ROUNDS = 4


@pytest.fixture(scope="module")
def systems(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Target]]:
    with targets(tmp_path_factory.mktemp("collectors"), ("none", "quick", "away", "refusing", "silent")) as made:
        measure(made, 20)
        yield made


def test_no_request_is_a_millisecond_slower_for_a_bad_collector(systems: dict[str, Target]) -> None:
    """The requests go to all in turn, so that what else the machine does hits all alike; of some rounds the best
    counts, since it was disturbed least."""
    rounds = [measure(systems, _REQUESTS) for _ in range(_ROUNDS)]

    def slower(request: str, kind: str, than: str) -> float:
        return min(median(found[request][kind]) - median(found[request][than]) for found in rounds)

    for kind in ("away", "refusing", "silent"):
        for request in ("GET", "execute"):
            assert slower(request, kind, "quick") < _BOUND_S, (request, kind)
        assert slower("GET", kind, "none") < _BOUND_S, kind  # tracing and all
