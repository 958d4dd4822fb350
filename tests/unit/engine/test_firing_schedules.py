"""Schedules: each firing once and only once, through crashes, failing commits, pauses and clocks that are set."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson
import pytest
from engine_bench import Bench, ExecutorEnd, StubbornDatabase, definition, disk_full, succeeded, until

from cloacina.domain.schedules import CatchUp, ScheduleKind
from cloacina.engine.model import Definition, Origin, PollAnswer
from cloacina.engine.schedule_book import Wanted
from cloacina.engine.schedule_metrics import ScheduleMetrics
from cloacina.engine.schedules import Schedules
from cloacina.errors import Conflict, InvalidRequest, NotFound, Unavailable
from cloacina.store.executions import ExecutionSummary
from cloacina.store.schedules import ScheduleStore

_SECOND = 1_000_000
_START = 1_790_000_000 * _SECOND
_NIGHTLY = Wanted("nightly", ScheduleKind.CRON, ("flow",), "* * * * * *", "UTC", source="flow")
_INBOX = Wanted("inbox", ScheduleKind.TRIGGER, ("flow",), poll_interval_ms=20, source="flow", package_digest="sha")


class SteppedClock:
    """A wall clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = _START

    def __call__(self) -> int:
        return self.now


class Known:
    """The workflows that there are."""

    def __init__(self) -> None:
        self.definitions: dict[str, Definition] = {"flow": definition(), "other": definition(name="other")}
        self.away = False

    def prepare(
        self,
        tenant_id: str,
        workflow_name: str,
        values: Mapping[str, Any],
        bound: Mapping[str, Any],
        stamped: Mapping[str, Any],
    ) -> tuple[Definition, bytes]:
        if self.away:
            raise Unavailable("not known yet")
        if workflow_name not in self.definitions:
            raise NotFound(f"there is no workflow {workflow_name!r}")
        return self.definitions[workflow_name], orjson.dumps({**values, **bound, **stamped})


class Stand:
    """An engine with schedules."""

    def __init__(self, database: StubbornDatabase, clock: SteppedClock, known: Known) -> None:
        self.clock = clock
        self.known = known
        self.bench = Bench(database, clock=clock)
        self.schedules = Schedules(
            self.bench.engine,
            ScheduleStore(database),
            known,
            ScheduleMetrics(self.bench.registry),
            poll_timeout_s=5.0,
            clock=clock,
        )

    async def start(self) -> None:
        await self.bench.engine.start()
        self.schedules.start()

    async def stop(self) -> None:
        await self.schedules.stop()
        await self.bench.engine.stop()

    def set_clock(self, now: int) -> None:
        """Sets the wall clock, and has the timers notice at once, not within their 30 seconds."""
        self.clock.now = now
        self.schedules._crons._ring()

    async def executions(self) -> list[ExecutionSummary]:
        """All executions, oldest first."""
        return (await self.bench.store.list_executions("acme", limit=1000))[0][::-1]

    async def firing_times(self) -> list[str]:
        """The instants that executions were started for."""
        rows = [await self.bench.execution(each.execution_id) for each in await self.executions()]
        return sorted(orjson.loads(row.input)["scheduled_time"] for row in rows)

    async def until_fired(self, number: int) -> list[ExecutionSummary]:
        """Waits for so many executions; no more may come."""
        async with asyncio.timeout(10):
            while len(found := await self.executions()) < number:
                await asyncio.sleep(0.002)
        assert len(found) == number
        return found

    def fires(self, kind: str, outcome: str) -> float:
        return self.bench.metric("cloacina_schedule_fires_total", kind=kind, outcome=outcome)


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
def known() -> Known:
    return Known()


@pytest.fixture
async def stands(database: StubbornDatabase, clock: SteppedClock, known: Known) -> AsyncIterator[Any]:
    """Starts an engine with schedules; a second call is its successor after a crash."""
    started: list[Stand] = []

    async def begin() -> Stand:
        stand = Stand(database, clock, known)
        await stand.start()
        started.append(stand)
        return stand

    yield begin
    database.failures.clear()
    database.let_go()
    for stand in started:
        await stand.stop()


@pytest.fixture
async def stand(stands: Any) -> Stand:
    return await stands()


# Cron


async def test_a_firing_its_execution_and_the_next_instant_are_one_transaction(
    stand: Stand, database: StubbornDatabase
) -> None:
    row = await stand.schedules.register("acme", _NIGHTLY)
    assert row.next_run_at == _START + _SECOND
    before = len(database.writes)
    stand.set_clock(_START + _SECOND)
    (fired,) = await stand.until_fired(1)
    assert len(database.writes) == before + 1
    (stored,) = await ScheduleStore(database).load()
    assert (stored.next_run_at, stored.last_run_at, stored.last_outcome) == (
        _START + 2 * _SECOND,
        _START + _SECOND,
        "fired",
    )
    assert fired.trigger_origin == "cron"
    execution = await stand.bench.execution(fired.execution_id)
    assert orjson.loads(execution.input) == {
        "scheduled_time": "2026-09-21T14:13:21+00:00",
        "schedule_id": row.schedule_id,
        "schedule_timezone": "UTC",
        "schedule_expression": "* * * * * *",
    }
    (record,) = await ScheduleStore(database).list_firings(row.tenant_id, row.schedule_id, limit=10)
    assert (record.firing.execution_id, record.firing.scheduled_at) == (fired.execution_id, _START + _SECOND)
    assert stand.fires("cron", "fired") == 1
    assert stand.bench.metric("cloacina_schedule_lag_seconds_count") == 1


async def test_each_firing_has_a_request_id_of_its_own(stand: Stand, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "cloacina.engine")
    await stand.schedules.register("acme", _NIGHTLY)
    for number in (1, 2):
        stand.set_clock(_START + number * _SECOND)
        await stand.until_fired(number)
    ids = {each.request_id for each in await stand.executions()}
    assert len(ids) == 2
    assert all(ids)
    assert [record.getMessage() for record in caplog.records].count("a schedule fired") == 2


async def test_missed_firings_follow_the_policy(stands: Any, clock: SteppedClock) -> None:
    first = await stands()
    await first.schedules.register("acme", _NIGHTLY)
    await first.schedules.register(
        "acme", _NIGHTLY._replace(name="all", catch_up=CatchUp.RUN_ALL, catch_up_cap=3, params=b'{"who":"all"}')
    )
    await first.stop()
    clock.now = _START + 10 * _SECOND
    second = await stands()
    await second.until_fired(4)
    assert await second.firing_times() == [
        "2026-09-21T14:13:28+00:00",
        "2026-09-21T14:13:29+00:00",
        "2026-09-21T14:13:30+00:00",
        "2026-09-21T14:13:30+00:00",
    ]
    assert (second.fires("cron", "fired"), second.fires("cron", "caught_up")) == (2, 2)
    assert second.fires("cron", "skipped") == 9 + 7


async def test_a_commit_that_fails_loses_no_firing_and_repeats_none(stand: Stand, database: StubbornDatabase) -> None:
    await stand.schedules.register("acme", _NIGHTLY)
    database.failures = [disk_full(), disk_full()]
    stand.set_clock(_START + _SECOND)
    await until(lambda: not database.failures, "both failures")
    await stand.until_fired(1)
    stand.set_clock(_START + 2 * _SECOND)
    await stand.until_fired(2)
    assert await stand.firing_times() == ["2026-09-21T14:13:21+00:00", "2026-09-21T14:13:22+00:00"]


async def test_a_schedule_that_changes_while_a_change_of_it_is_written_keeps_both(
    stand: Stand, stands: Any, database: StubbornDatabase
) -> None:
    executor = await stand.bench.join()
    registered = await stand.schedules.register("acme", _NIGHTLY)
    database.hold()
    changing = [asyncio.create_task(stand.schedules.set_cadence(registered.schedule_id, "0 0 3 * * *", "UTC"))]
    await until(lambda: database.held)
    changing.append(asyncio.create_task(stand.schedules.set_cadence(registered.schedule_id, "0 0 4 * * *", "UTC")))
    await until(lambda: (row := stand.schedules.get(registered.schedule_id)) is not None and "4" in (row.cron or ""))
    assert database.held == 1
    database.let_go()
    first, second = await asyncio.gather(*changing)
    assert (first.schedule_id, second.cron) == (registered.schedule_id, "0 0 4 * * *")
    assert not executor.closed, "both were stored"
    (stored,) = await ScheduleStore(database).load()
    assert (stored.cron, stored.next_run_at) == (second.cron, second.next_run_at)


async def test_a_crash_between_firings_loses_none_and_repeats_none(stands: Any, clock: SteppedClock) -> None:
    """A new engine on the same store at every second, as after a `kill -9`: the old one never says goodbye."""
    stand = await stands()
    await stand.schedules.register("acme", _NIGHTLY)
    for number in range(1, 6):
        await stand.schedules.stop()
        stand = await stands()
        stand.set_clock(_START + number * _SECOND)
        await stand.until_fired(number)
    assert len(set(await stand.firing_times())) == 5


async def test_a_clock_that_is_set_back_fires_nothing_again(stand: Stand) -> None:
    await stand.schedules.register("acme", _NIGHTLY)
    stand.set_clock(_START + 5 * _SECOND)
    await stand.until_fired(1)
    stand.set_clock(_START)
    stand.set_clock(_START + 5 * _SECOND)
    stand.set_clock(_START + 6 * _SECOND)
    await stand.until_fired(2)
    assert await stand.firing_times() == ["2026-09-21T14:13:25+00:00", "2026-09-21T14:13:26+00:00"]


async def test_what_comes_due_in_a_pause_is_not_caught_up(stand: Stand, stands: Any) -> None:
    row = await stand.schedules.register("acme", _NIGHTLY)
    paused = await stand.schedules.set_paused(row.schedule_id, True)
    assert paused.paused_at == _START
    stand.set_clock(_START + 5 * _SECOND)
    await stand.stop()
    stand = await stands()  # it stays paused over a restart
    resumed = await stand.schedules.set_paused(row.schedule_id, False)
    assert (resumed.paused_at, resumed.next_run_at) == (None, _START + 6 * _SECOND)
    stand.set_clock(_START + 6 * _SECOND)
    await stand.until_fired(1)
    assert await stand.firing_times() == ["2026-09-21T14:13:26+00:00"]


async def test_a_workflow_that_is_gone_is_a_visible_failure_and_the_schedule_goes_on(
    stand: Stand, known: Known, caplog: pytest.LogCaptureFixture
) -> None:
    row = await stand.schedules.register("acme", _NIGHTLY)
    gone = known.definitions.pop("flow")
    stand.set_clock(_START + _SECOND)
    await until(lambda: stand.fires("cron", "failed") == 1)
    now = stand.schedules.find("acme", "nightly")
    assert (now.last_outcome, now.last_error) == ("failed", "there is no workflow 'flow'")
    assert any(
        record.levelno == logging.WARNING and "could not start" in record.getMessage() for record in caplog.records
    )
    (record,) = await ScheduleStore(stand.bench.database).list_firings(row.tenant_id, row.schedule_id, limit=10)
    assert (record.firing.execution_id, record.firing.outcome) == (None, "failed")
    known.definitions["flow"] = gone
    stand.set_clock(_START + 2 * _SECOND)
    await stand.until_fired(1)
    assert stand.schedules.find("acme", "nightly").last_error is None


async def test_a_firing_waits_for_a_workflow_that_is_not_known_yet(stand: Stand, known: Known) -> None:
    await stand.schedules.register("acme", _NIGHTLY)
    known.away = True
    stand.set_clock(_START + _SECOND)
    for _ in range(50):
        await asyncio.sleep(0)
    known.away = False
    stand.set_clock(_START + 2 * _SECOND)
    await stand.until_fired(1)
    assert await stand.firing_times() == ["2026-09-21T14:13:22+00:00"]
    assert stand.fires("cron", "skipped") == 1


async def test_all_workflows_of_a_schedule_are_started(stand: Stand) -> None:
    await stand.schedules.register("acme", _NIGHTLY._replace(workflows=("flow", "other")))
    stand.set_clock(_START + _SECOND)
    fired = await stand.until_fired(2)
    assert {each.workflow_name for each in fired} == {"flow", "other"}
    assert len({each.request_id for each in fired}) == 1


# Following packages


async def test_schedules_follow_their_packages(stand: Stand) -> None:
    schedules, key = stand.schedules, ("acme", "flow")
    await schedules.follow({key: [_NIGHTLY, _INBOX]}, complete=True)
    first = schedules.find("acme", "nightly")
    await schedules.set_paused(first.schedule_id, True)
    stand.set_clock(_START + 90 * _SECOND)
    await schedules.follow({key: [_NIGHTLY._replace(package_id="p2")]}, complete=False)
    same = schedules.find("acme", "nightly")
    assert (same.schedule_id, same.next_run_at, same.paused_at) == (first.schedule_id, first.next_run_at, _START)
    assert same.package_id == "p2"
    with pytest.raises(NotFound, match="no trigger 'inbox'"):
        schedules.find("acme", "inbox")
    await schedules.follow({key: [_NIGHTLY._replace(cron="30 * * * * *")]}, complete=False)
    other = schedules.find("acme", "nightly")
    assert (other.schedule_id, other.next_run_at) == (first.schedule_id, _START + 130 * _SECOND)
    await schedules.register("acme", _NIGHTLY._replace(name="own", source=""))
    await schedules.follow({}, complete=True)
    assert [row.name for row in schedules.of_tenant("acme")] == ["own"]
    assert [row.name for row in await ScheduleStore(stand.bench.database).load()] == ["own"]


async def test_what_cannot_be_a_schedule_is_refused(stand: Stand) -> None:
    await stand.schedules.register("acme", _NIGHTLY)
    with pytest.raises(Conflict, match="'nightly' already"):
        await stand.schedules.register("acme", _NIGHTLY)
    for wrong in ("61 * * * *", "0 0 30 2 *"):
        with pytest.raises(InvalidRequest):
            await stand.schedules.register("acme", _NIGHTLY._replace(name="wrong", cron=wrong))
    assert len(stand.schedules) == 1
    await stand.bench.submit()  # the engine is well


# Manual


async def test_a_manual_fire_starts_it_now_under_the_request_that_asked(stand: Stand, known: Known) -> None:
    row = await stand.schedules.register("acme", _NIGHTLY._replace(params=b'{"a":1}'))
    await stand.schedules.set_paused(row.schedule_id, True)
    ((workflow, execution_id),) = await stand.schedules.fire(row.schedule_id, {"b": 2}, Origin("asked"))
    execution = await stand.bench.execution(execution_id)
    assert (workflow, execution.request_id, execution.trigger_origin) == ("flow", "asked", "manual")
    assert orjson.loads(execution.input) == {
        "a": 1,
        "b": 2,
        "trigger_name": "nightly",
        "triggered_at": "2026-09-21T14:13:20+00:00",
        "manual_fire": True,
    }
    del known.definitions["flow"]
    with pytest.raises(InvalidRequest, match="there is no workflow 'flow'") as refused:
        await stand.schedules.fire(row.schedule_id, {}, Origin("asked"))
    assert refused.value.code == "trigger_event_invalid"


# Triggers


async def polled(executor: ExecutorEnd, number: int = 1) -> int:
    """The id of the `number`-th poll, once it is there."""
    await until(lambda: len(executor.polls) >= number, f"poll {number}")
    return executor.polls[number - 1].poll_id


async def test_a_trigger_is_polled_and_a_no_writes_nothing(stand: Stand, database: StubbornDatabase) -> None:
    executor = await stand.bench.join()
    await stand.schedules.register("acme", _INBOX)
    poll_id = await polled(executor)
    order = executor.polls[0]
    assert (order.tenant_id, order.trigger, order.workflow_name, order.package_digest) == (
        "acme",
        "inbox",
        "flow",
        "sha",
    )
    assert order.origin.request_id
    before = len(database.writes)
    stand.bench.engine.report_polled(poll_id, PollAnswer())
    assert await polled(executor, 2) > poll_id
    assert len(database.writes) == before
    assert await stand.executions() == []
    assert stand.bench.engine.figures()["free_slots"] == 1


async def test_a_trigger_that_fires_starts_its_workflow(stand: Stand) -> None:
    executor = await stand.bench.join()
    row = await stand.schedules.register("acme", _INBOX)
    stand.bench.engine.report_polled(await polled(executor), PollAnswer(True, b'{"file":"a.csv"}'))
    (fired,) = await stand.until_fired(1)
    assert fired.trigger_origin == "trigger"
    assert fired.request_id == executor.polls[0].origin.request_id
    execution = await stand.bench.execution(fired.execution_id)
    assert orjson.loads(execution.input) == {
        "file": "a.csv",
        "trigger_name": "inbox",
        "triggered_at": "2026-09-21T14:13:20+00:00",
    }
    (record,) = await ScheduleStore(stand.bench.database).list_firings(row.tenant_id, row.schedule_id, limit=1)
    assert record.firing.context_hash is not None
    assert stand.fires("trigger", "fired") == 1


async def test_the_same_context_is_not_started_twice_while_it_is_unfinished(
    stand: Stand, database: StubbornDatabase
) -> None:
    executor = await stand.bench.join()
    await stand.schedules.register("acme", _INBOX)
    same, other = PollAnswer(True, b'{"a":1,"b":2}'), PollAnswer(True, b'{"a":2}')
    stand.bench.engine.report_polled(await polled(executor, 1), same)
    stand.bench.engine.report_polled(await polled(executor, 2), PollAnswer(True, b'{"b":2,"a":1}'))
    await until(lambda: stand.fires("trigger", "skipped") == 1)
    assert stand.schedules.find("acme", "inbox").last_outcome == "skipped"
    stand.bench.engine.report_polled(await polled(executor, 3), other)
    await stand.until_fired(2)
    database.failures = [disk_full()]  # what is unfinished is known again after a reload
    with pytest.raises(Unavailable):
        await stand.bench.submit()
    await until(lambda: stand.bench.engine.healthy)
    executor = await stand.bench.join(slots=2)
    stand.bench.engine.report_polled(await polled(executor, 1), same)
    await until(lambda: stand.fires("trigger", "skipped") == 2)
    for number in (1, 2):
        assignment = await executor.next(number)
        stand.bench.engine.report(executor, succeeded(assignment))
        await stand.bench.ended(assignment.live.execution_id)
    stand.bench.engine.report_polled(await polled(executor, 2), same)
    await stand.until_fired(3)


async def test_a_trigger_may_allow_the_same_context(stand: Stand) -> None:
    executor = await stand.bench.join()
    await stand.schedules.register("acme", _INBOX._replace(allow_concurrent=True))
    for number in (1, 2):
        stand.bench.engine.report_polled(await polled(executor, number), PollAnswer(True))
    await stand.until_fired(2)


async def test_a_trigger_that_fails_is_visible_and_polled_again(
    stand: Stand, database: StubbornDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    executor = await stand.bench.join()
    await stand.schedules.register("acme", _INBOX)
    for number in (1, 2):
        answer = PollAnswer(error="ValueError: boom", details="Traceback: here")
        stand.bench.engine.report_polled(await polled(executor, number), answer)
    await until(lambda: stand.fires("trigger", "failed") == 2)
    await polled(executor, 3)
    row = stand.schedules.find("acme", "inbox")
    assert (row.last_outcome, row.last_error) == ("failed", "ValueError: boom")
    (stored,) = await ScheduleStore(database).load()
    assert stored.last_error == "ValueError: boom"
    lines = [record for record in caplog.records if record.getMessage() == "a trigger could not be polled"]
    assert [record.levelno for record in lines] == [logging.WARNING] * 2
    assert lines[0].__dict__["_exception"] == "Traceback: here"


async def test_a_poll_whose_executor_is_gone_is_made_again_elsewhere(stand: Stand) -> None:
    executor = await stand.bench.join("gone")
    await stand.schedules.register("acme", _INBOX)
    lost = await polled(executor)
    stand.bench.engine.leave("gone", executor)
    other = await stand.bench.join("there")
    stand.bench.engine.report_polled(await polled(other), PollAnswer(True))
    await stand.until_fired(1)
    stand.bench.engine.report_polled(lost, PollAnswer(True, b'{"too":"late"}'))
    await polled(other, 2)
    assert len(await stand.executions()) == 1


async def test_an_answer_is_not_lost_while_the_store_cannot_be_written(
    stand: Stand, database: StubbornDatabase
) -> None:
    executor = await stand.bench.join()
    await stand.schedules.register("acme", _INBOX)
    poll_id = await polled(executor)
    database.failures = [disk_full()]
    stand.bench.engine.report_polled(poll_id, PollAnswer(True, b'{"file":"a"}'))
    await stand.until_fired(1)


async def test_a_paused_trigger_is_not_polled(stand: Stand) -> None:
    executor = await stand.bench.join()
    row = await stand.schedules.register("acme", _INBOX)
    poll_id = await polled(executor)
    await stand.schedules.set_paused(row.schedule_id, True)
    stand.bench.engine.report_polled(poll_id, PollAnswer(True))
    await until(lambda: stand.schedules._polls.of(row.schedule_id) is None, "the end of the poll")
    await stand.schedules.set_paused(row.schedule_id, False)
    await polled(executor, 2)
    assert await stand.executions() == []
