"""A trace collector that is away, refuses or says nothing, over HTTP: no request is a millisecond slower for it."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

import pytest

from bench.collectors import Target, measure, targets

pytestmark = pytest.mark.xdist_group("bad collectors")
_BOUND_S = 0.001
_REQUESTS = 30
_ROUNDS = 10


@pytest.fixture(scope="module")
def systems(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Target]]:
    with targets(tmp_path_factory.mktemp("collectors"), ("quick", "away", "refusing", "silent")) as made:
        measure(made, 20)
        yield made


def test_no_request_is_a_millisecond_slower_for_a_bad_collector(systems: dict[str, Target]) -> None:
    """Than for one that takes everything at once. The requests go to all in turn, so that what else the machine does
    hits all alike; of some rounds the best counts, since it was disturbed least."""
    best: dict[tuple[str, str], float] = {}
    for _ in range(_ROUNDS):
        found = measure(systems, _REQUESTS)
        for kind in ("away", "refusing", "silent"):
            for request in ("GET", "execute"):
                slower = median(found[request][kind]) - median(found[request]["quick"])
                best[request, kind] = min(slower, best.get((request, kind), slower))
        if max(best.values()) < _BOUND_S:
            break
    assert max(best.values()) < _BOUND_S, best
