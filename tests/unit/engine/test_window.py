"""What short tasks may be under way while another tenant works without a queue."""

from __future__ import annotations

import asyncio

from engine_bench import Bench, definition, succeeded, until
from hypothesis import given, settings
from hypothesis import strategies as st

from cloacina.engine.window import ENGAGED_S, YOUNG_S, ClaimWindow

SIZE = 4
_steps = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.sampled_from(["claim", "end", "light"]),
        st.floats(0, YOUNG_S, allow_nan=False),
        st.one_of(st.none(), st.integers(0, 100_000)),
    ),
    max_size=60,
)


def engaged() -> ClaimWindow:
    """A window while the tenant "light" works without a queue, at time 0."""
    window = ClaimWindow(SIZE)
    light(window)
    return window


def light(window: ClaimWindow, tenant: str = "light", now: float = 0.0) -> None:
    """The tenant had one task, and it is done."""
    window.claimed(tenant, 10_000, now, queue=False)
    window.ended(10_000)


def fill(window: ClaimWindow, tenant: str, now: float = 0.0, first: int = 1) -> int:
    """Claims all that the tenant may; how many that is."""
    claimed = 0
    while window.allows(tenant, now) and claimed < 1000:
        window.claimed(tenant, first + claimed, now, queue=True)
        claimed += 1
    return claimed


@settings(max_examples=300, deadline=None)
@given(steps=_steps)
def test_nothing_is_held_back_for_longer_than_a_claim_is_young(steps: list[tuple[str, str, float, int | None]]) -> None:
    window, now, claims = ClaimWindow(SIZE), 0.0, 0
    for tenant, what, passed, run_us in steps:
        now += passed
        window.lapse(now)
        if what == "claim":
            claims += 1
            if window.allows(tenant, now):
                window.claimed(tenant, claims, now, queue=True)
        elif what == "end":
            window.ended(claims, run_us)
        else:
            light(window, tenant, now)
        opens_at = window.opens_at
        assert opens_at is None or now < opens_at <= now + YOUNG_S
        assert window.allows(tenant, now) or opens_at is not None, "somebody is waited for"
        assert window.allows("nobody yet", now), "who has nothing under way may always claim"
    window.lapse(now + YOUNG_S)
    assert len(window) == 0
    assert all(window.allows(tenant, now + YOUNG_S) for tenant in "abc")


@settings(max_examples=100, deadline=None)
@given(ends=st.permutations(range(1, 31)), runs=st.lists(st.integers(0, 10**7), min_size=30, max_size=30))
def test_what_ends_gives_back_what_it_counted(ends: list[int], runs: list[int]) -> None:
    """Also when what a claim counts has been learned anew in between."""
    window = engaged()
    for claim in range(1, 31):
        window.claimed("ab"[claim % 2], claim, 0.0, queue=True)
    for claim, run_us in zip(ends, runs, strict=True):
        window.ended(claim, run_us)
        window.ended(claim, run_us)
    assert len(window) == 0
    for claim in range(100, 100 + SIZE):
        window.claimed("c", claim, 0.0, queue=True)
    assert not window.allows("c", 0.0), "no more and no less than at first"


def test_one_tenant_is_never_held_back() -> None:
    window = ClaimWindow(SIZE)
    light(window, "only")
    assert fill(window, "only") == 1000
    assert len(window) == 0


def test_tenants_with_queues_are_held_back_while_another_has_none_and_a_while_after() -> None:
    window = engaged()
    assert fill(window, "busy") == SIZE
    assert window.allows("light", 0.0)
    assert fill(window, "busier", first=100) == 2, "an equal share, though there is no room"
    assert not window.allows("busy", ENGAGED_S - 1)
    assert window.allows("busy", ENGAGED_S)


def test_it_is_off_with_0() -> None:
    window = ClaimWindow(0)
    light(window)
    assert fill(window, "busy") == 1000


def test_tasks_that_run_for_long_get_more_and_short_ones_less_again() -> None:
    window = engaged()
    for claim in range(1, 100):
        window.claimed("busy", claim, 0.0, queue=True)
        window.ended(claim, 100_000)
    assert fill(window, "busy", first=1000) > 8 * SIZE
    window.clear()
    for claim in range(1, 100):
        window.claimed("busy", claim, 0.0, queue=True)
        window.ended(claim, 0)
    assert fill(window, "busy", first=2000) <= SIZE + 1


async def test_short_tasks_leave_slots_free_and_results_make_room(start) -> None:
    bench: Bench = await start(shared_claims=4)
    executor = await bench.join(slots=40)
    await bench.submit(definition(tenant_id="light"))
    await until(lambda: len(executor.assigned) == 1)
    bench.engine.report(executor, succeeded(executor.assigned[0]))
    of = definition(tenant_id="busy")
    await asyncio.gather(*(bench.submit(of) for _ in range(40)))
    done = 1
    while bench.engine.figures()["active_workflows"]:
        await until(lambda: len(executor.assigned) > done or not bench.engine.figures()["active_workflows"])
        for assignment in executor.assigned[done:]:
            bench.engine.report(executor, succeeded(assignment))
            done += 1
    assert done == 41
    assert bench.metric("cloacina_scheduler_held_back_total") > 0
    assert bench.metric("cloacina_scheduler_shared_claims") == 0


async def test_tasks_that_take_their_time_get_every_slot(start) -> None:
    """Nothing ends, nothing is reported, and yet they are claimed."""
    bench: Bench = await start(shared_claims=4)
    executor = await bench.join(slots=40)
    await bench.submit(definition(tenant_id="light"))
    await until(lambda: len(executor.assigned) == 1)
    of = definition(tenant_id="busy")
    await asyncio.gather(*(bench.submit(of) for _ in range(60)))
    await until(lambda: len(executor.assigned) == 40, "every slot to be taken")
    assert bench.engine.figures()["free_slots"] == 0
