"""What survives the end of a runner: in order, killed, and at the exit of a program that forgets to end it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import cloaca
from cloacina.store.database import StoreUnavailable
from cloacina.store.executions import Batch
from tests.embedded import interrupted_program
from tests.embedded.conftest import StartRunner, wait_for

_PROGRAM = Path(interrupted_program.__file__)


def _ran(folder: Path) -> list[str]:
    file = folder / "ran"
    return file.read_text().split() if file.exists() else []


@pytest.fixture
def killed(tmp_path: Path, url: str) -> str:
    """The execution of a program that was killed while its second task ran."""
    program = subprocess.Popen(
        [sys.executable, str(_PROGRAM), url.removeprefix("sqlite://"), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=_PROGRAM.parents[2],
        env={"PYTHONPATH": str(_PROGRAM.parents[2])},
    )
    try:
        assert program.stdout is not None
        execution_id = program.stdout.readline().strip()
        wait_for(lambda: "second" in _ran(tmp_path))
        program.send_signal(signal.SIGKILL)
    finally:
        program.kill()
        program.wait()
    (tmp_path / "go_on").touch()
    return execution_id


def test_an_execution_goes_on_after_its_process_was_killed(
    killed: str, start: StartRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupted_program, "FOLDER", tmp_path)
    interrupted_program.register()
    result = start().result(killed, timeout_s=10)
    assert result.status == "Completed"
    assert result.final_context.to_dict() == {"number": 7, "first": "done", "second": "done", "third": "done"}
    assert _ran(tmp_path) == ["first", "second", "second", "third"]  # what had completed did not run again


def test_an_execution_waits_until_its_workflow_is_registered(
    killed: str, start: StartRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = start(max_concurrent_tasks=1)
    with cloaca.WorkflowBuilder("other"):

        @cloaca.task()
        def other(context):
            return context

    assert runner.execute("other", cloaca.Context()).status == "Completed"  # it takes no slot while it waits
    with pytest.raises(TimeoutError):
        runner.result(killed, timeout_s=0.05)
    monkeypatch.setattr(interrupted_program, "FOLDER", tmp_path)
    interrupted_program.register()
    assert runner.result(killed, timeout_s=10).status == "Completed"


def test_an_execution_that_waits_for_its_workflow_can_be_cancelled(killed: str, start: StartRunner) -> None:
    runner = start()
    runner.cancel_execution(killed)
    assert runner.result(killed, timeout_s=10).status == "Cancelled"


def test_a_task_that_its_workflow_no_longer_has_fails_and_is_named(killed: str, start: StartRunner) -> None:
    with cloaca.WorkflowBuilder("interrupted"):

        @cloaca.task()
        def renamed(context):
            return context

    result = start().result(killed, timeout_s=10)
    assert result.status == "Failed"
    assert "as it is registered now has no task 'second'; it has renamed" in result.error_message


def test_without_recovery_unfinished_executions_stay_as_they_are(
    killed: str, start: StartRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupted_program, "FOLDER", tmp_path)
    interrupted_program.register()
    without = start(enable_recovery=False)
    with pytest.raises(TimeoutError):
        without.result(killed, timeout_s=0.1)
    assert _ran(tmp_path) == ["first", "second"]
    without.shutdown()
    assert start().result(killed, timeout_s=10).status == "Completed"


def test_a_retry_that_was_due_comes_after_a_restart(start: StartRunner) -> None:
    attempts: list[int] = []

    def register() -> None:
        with cloaca.WorkflowBuilder("retried"):

            @cloaca.task(retry_attempts=2, retry_delay_ms=50, retry_jitter=False)
            def fails_once(context):
                attempts.append(1)
                if len(attempts) == 1:
                    raise ConnectionError("away")

    register()
    first = start()
    execution_id = first.submit("retried", cloaca.Context())
    wait_for(lambda: attempts)
    first.shutdown()
    assert start().result(execution_id, timeout_s=10).status == "Completed"
    assert len(attempts) == 2


@pytest.mark.parametrize("failing", [1, 3])
def test_a_store_that_fails_for_a_while_loses_no_result(
    runner: cloaca.DefaultRunner, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    ran: list[str] = []
    store = runner._service.store
    commit = store.commit
    failures = [0]

    async def fails(batch: Batch) -> None:
        if ran and failures[0] < failing:
            failures[0] += 1
            raise StoreUnavailable("the disk is away")
        await commit(batch)

    monkeypatch.setattr(store, "commit", fails)
    with cloaca.WorkflowBuilder("steps"):

        @cloaca.task()
        def first(context):
            ran.append("first")

        @cloaca.task(dependencies=[first])
        def second(context):
            ran.append("second")

    assert runner.execute("steps", cloaca.Context()).status == "Completed"
    assert failures == [failing]
    assert ran == ["first", "second"]  # its result was told again, so it did not run again


def test_shutdown_lets_running_tasks_end(start: StartRunner) -> None:
    runner = start()
    began, go_on = threading.Event(), threading.Event()

    with cloaca.WorkflowBuilder("draining"):

        @cloaca.task()
        def ends(context):
            began.set()
            go_on.wait(20)
            context.set("ended", True)
            return context

    execution_id = runner.submit("draining", cloaca.Context())
    assert began.wait(10)
    threading.Timer(0.1, go_on.set).start()
    runner.shutdown()
    result = start().result(execution_id, timeout_s=10)
    assert result.final_context["ended"] is True


def test_what_does_not_end_in_its_grace_runs_again_at_the_next_start(start: StartRunner) -> None:
    runner = start()
    began: list[int] = []
    go_on = threading.Event()

    with cloaca.WorkflowBuilder("slow"):

        @cloaca.task()
        def slow(context):
            began.append(1)
            go_on.wait(20)

    execution_id = runner.submit("slow", cloaca.Context())
    wait_for(lambda: began)
    runner.shutdown(grace_s=0.05)
    go_on.set()
    assert start().result(execution_id, timeout_s=10).status == "Completed"
    assert len(began) == 2


def test_a_deferred_task_does_not_hold_up_a_shutdown_and_asks_again_after_it(start: StartRunner) -> None:
    runner = start()
    asked: list[int] = []
    arrived = threading.Event()

    with cloaca.WorkflowBuilder("patient"):

        @cloaca.task()
        def waits(context, handle):
            def there() -> bool:
                asked.append(1)
                return arrived.is_set()

            handle.defer_until(there, poll_interval_ms=5)

    execution_id = runner.submit("patient", cloaca.Context())
    wait_for(lambda: asked)
    runner.shutdown(grace_s=30)
    arrived.set()
    assert start().result(execution_id, timeout_s=10).status == "Completed"


def test_callers_who_wait_are_told_of_a_shutdown(start: StartRunner) -> None:
    runner = start()
    began, go_on = threading.Event(), threading.Event()
    errors: list[str] = []

    with cloaca.WorkflowBuilder("waited_for"):

        @cloaca.task()
        def slow(context):
            began.set()
            go_on.wait(20)

    def call() -> None:
        try:
            runner.execute("waited_for", cloaca.Context())
        except ValueError as error:
            errors.append(str(error))

    caller = threading.Thread(target=call)
    caller.start()
    assert began.wait(10)
    runner.shutdown(grace_s=0.05)
    go_on.set()
    caller.join(10)
    assert len(errors) == 1
    assert "the runner was shut down before execution" in errors[0]


def test_a_runner_begins_again_after_its_shutdown(runner: cloaca.DefaultRunner) -> None:
    with cloaca.WorkflowBuilder("again"):

        @cloaca.task()
        def only(context):
            return context

    first = runner.submit("again", cloaca.Context())
    runner.shutdown()
    runner.shutdown()
    with pytest.raises(ValueError, match="has been shut down"):
        runner.execute("again", cloaca.Context())
    runner.start()
    assert runner.result(first).status == "Completed"
    assert runner.execute("again", cloaca.Context()).status == "Completed"


def test_runners_on_different_databases_do_not_see_each_other(start: StartRunner, tmp_path: Path) -> None:
    with cloaca.WorkflowBuilder("apart"):

        @cloaca.task()
        def only(context):
            return context

    runners = [start(f"sqlite://{tmp_path / f'{number}.db'}") for number in range(3)] + [start(":memory:")]
    ids = [runner.submit("apart", cloaca.Context({"number": number})) for number, runner in enumerate(runners)]
    for number, runner in enumerate(runners):
        assert runner.result(ids[number]).final_context["number"] == number
        with pytest.raises(ValueError, match="there is no execution"):
            runner.result(ids[number - 1])


def test_a_second_runner_on_a_file_is_refused_with_the_reason(runner: cloaca.DefaultRunner, url: str) -> None:
    with pytest.raises(RuntimeError, match="in use by process"):
        cloaca.DefaultRunner(url)


def test_a_program_that_forgets_the_shutdown_ends_all_the_same(tmp_path: Path) -> None:
    program = (
        "import cloaca, threading\n"
        "with cloaca.WorkflowBuilder('forgotten'):\n"
        "    @cloaca.task()\n"
        "    def only(context):\n"
        "        context.set('done', True)\n"
        "        return context\n"
        f"runner = cloaca.DefaultRunner('sqlite://{tmp_path / 'forgotten.db'}')\n"
        "print(runner.execute('forgotten', cloaca.Context()).status)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=_PROGRAM.parents[2],
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "Completed\n", "")
    assert not (tmp_path / "forgotten.db-wal").exists()  # the database was closed in order
