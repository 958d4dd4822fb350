"""Two schedulers on one PostgreSQL, as processes: whatever is asked, wherever it arrives, and whoever dies or hangs."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import psutil
import pytest

from cloacina.cli.client import ApiFailure, read_bootstrap_key
from cloacina.cli.supervisor import PORTS
from cloacina.rpc.v1 import scheduler_pb2, scheduler_pb2_grpc
from tests.postgres import PostgresServer
from tests.system.running import RunningSystem, free_ports, wait_until, write_package
from tests.system.test_crashes import QUICK, SLOW

pytestmark = pytest.mark.xdist_group("schedulers")

LEASE_S = 2.0
_ENVIRONMENT = {
    "CLOACINA_LEASE_S": str(LEASE_S),
    "CLOACINA_HEARTBEAT_S": "0.5",
    "CLOACINA_SLOTS": "8",
    "CLOACINA_API_TENANT_DRAIN_S": "0.5",
}
_TICKING = """
import cloaca


@cloaca.trigger(on="ticking", cron="* * * * * *")
def every_second():
    pass


@cloaca.task(id="tick")
def tick(context):
    return context
"""


class Schedulers(RunningSystem):
    """The system with two schedulers."""

    def scheduler(self, number: int) -> psutil.Process:
        """One of them, as it is now."""
        return self.process("scheduler" if number == 1 else f"scheduler-{number}")

    def states(self) -> list[Any]:
        """What each says of itself."""
        found = self.client.call("GET", "/v1/health/status")["services"]
        return [each for each in found if each["service"] == "scheduler"]

    def both_serve(self) -> bool:
        """Whether both are well, and know of each other."""
        try:
            states = self.states()
        except ApiFailure:
            return False
        return len(states) == 2 and all(
            each["status"] == "ok" and each["figures"]["owners"] == 2 and each["figures"]["registry_followed"]
            for each in states
        )

    def number_of(self, instance_id: str) -> int:
        """Which of the two has an instance id."""
        state = next(each for each in self.states() if each["instance_id"] == instance_id)
        return 1 if state["target"].endswith(f":{self.ports['CLOACINA_SCHEDULER_RPC_PORT']}") else 2

    def metric_of(self, number: int, name: str) -> float:
        """A sample of one scheduler."""
        service = "scheduler" if number == 1 else f"scheduler_{number}"
        return self.metric(service, name)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer) -> Iterator[Schedulers]:
    """The running system, for all tests of this module."""
    home = tmp_path_factory.mktemp("schedulers") / "home"
    environment = {**_ENVIRONMENT, "CLOACINA_DATABASE_URL": postgres_server.new_database()}
    with Schedulers(home, environment, schedulers=2) as running:
        folder = home.parent
        for name, code in (("quick", QUICK), ("slow", SLOW)):
            running.upload(write_package(folder, name, code))
        wait_until(running.both_serve, "two schedulers that know of each other")
        yield running


@contextmanager
def load(system: RunningSystem, threads: int = 3) -> Iterator[list[str]]:
    """Inside of the block executions are begun all the time; those that were acknowledged are listed."""
    acknowledged: list[str] = []
    problems: list[BaseException] = []
    stop = threading.Event()

    def submit(thread: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            try:
                acknowledged.append(system.execute("quick", {"number": number}))
            except ApiFailure as failure:
                if failure.status != 503:
                    problems.append(failure)
                    return

    submitters = [threading.Thread(target=submit, args=(number,)) for number in range(threads)]
    for submitter in submitters:
        submitter.start()
    try:
        yield acknowledged
    finally:
        stop.set()
        for submitter in submitters:
            submitter.join(60)
    assert problems == []


def all_complete(system: RunningSystem, executions: list[str]) -> None:
    for execution_id in executions:
        assert system.wait_for_end(execution_id, 60)["status"] == "Completed"


def test_each_shows_who_it_is_and_what_it_owns(system: Schedulers) -> None:
    states = system.states()
    assert len({each["instance_id"] for each in states}) == 2
    assert len({each["figures"]["epoch"] for each in states}) == 2
    assert sorted(each["figures"]["keeps_schedules"] for each in states) == [0.0, 1.0]
    wait_until(lambda: all(each["figures"]["executors"] == 1 for each in system.states()), "the executor at both")


def test_a_request_may_reach_any_scheduler(system: Schedulers, tmp_path: Path) -> None:
    """The gateway calls them in turn; so half of what is asked arrives where the execution is not."""
    begun = [system.execute("slow", {"folder": str(tmp_path)}) for _ in range(4)]
    path = "/v1/tenants/public/executions"
    for execution_id in begun:
        for _ in range(2):
            assert system.client.call("POST", f"{path}/{execution_id}/pause")["status"] == "Paused"
            explained = system.client.call("GET", f"{path}/{execution_id}/explain")
            assert explained["status"] == "Paused"
            assert system.client.call("POST", f"{path}/{execution_id}/resume")["status"] == "Running"
    cancelled = begun.pop()
    system.client.call("POST", f"{path}/{cancelled}/cancel")
    (tmp_path / "go").touch()
    for execution_id in begun:
        assert system.wait_for_end(execution_id)["status"] == "Completed"
    assert system.wait_for_end(cancelled)["status"] == "Cancelled"
    for _ in range(2):
        with pytest.raises(ApiFailure) as failure:
            system.client.call("POST", f"{path}/{cancelled}/pause")
        assert failure.value.status == 409
    answered = 'cloacina_scheduler_forwards_total{outcome="answered"}'
    assert system.metric_of(1, answered) + system.metric_of(2, answered) > 0


def test_either_scheduler_explains_a_running_execution(system: Schedulers, tmp_path: Path) -> None:
    """Asked directly, so that one of the two is certainly not its owner."""
    execution_id = system.execute("slow", {"folder": str(tmp_path)})
    request = scheduler_pb2.GetExecutionRequest(tenant_id="public", execution_id=execution_id)
    metadata = (("authorization", f"Bearer {(system.home / 'rpc-token').read_text().strip()}"),)
    answered = 'cloacina_scheduler_forwards_total{outcome="answered"}'
    said = []

    def explain(number: int) -> Any:
        variable = "CLOACINA_SCHEDULER_RPC_PORT" if number == 1 else f"CLOACINA_SCHEDULER_{number}_RPC_PORT"
        with grpc.insecure_channel(f"127.0.0.1:{system.ports[variable]}") as channel:
            stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
            return stub.ExplainExecution(request, metadata=metadata, timeout=10)

    wait_until(lambda: "running" in [cause.kind for cause in explain(1).causes], "that its task runs")
    before = system.metric_of(1, answered), system.metric_of(2, answered)
    for number in (1, 2):
        found = explain(number)
        said.append([(cause.kind, cause.task_name, cause.since, dict(cause.ids)) for cause in found.causes])
        assert found.execution.status == "Running"
    assert said[0] == said[1]
    assert said[0][0][0] == "running"
    passed_on = [system.metric_of(number, answered) - before[number - 1] for number in (1, 2)]
    assert sorted(passed_on) == [0, 1], "the one that does not own it asked the other, and only that"
    (tmp_path / "go").touch()
    assert system.wait_for_end(execution_id)["status"] == "Completed"


def test_a_key_names_one_execution_whichever_scheduler_it_reaches(system: Schedulers) -> None:
    found: list[str] = []

    def submit(key: str) -> None:
        path = "/v1/tenants/public/workflows/quick/execute"
        answer = system.client.call("POST", path, {"context": {"number": 1}}, headers={"Idempotency-Key": key})
        found.append(str(answer["execution_id"]))

    for number in range(4):
        found.clear()
        threads = [threading.Thread(target=submit, args=(f"key-{number}",)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(found) == 6
        assert len(set(found)) == 1


def test_a_tenant_is_removed_from_both_and_can_be_made_again(system: Schedulers, tmp_path: Path) -> None:
    package = write_package(tmp_path, "slow", SLOW)
    path = "/v1/tenants/passing/workflows/slow/execute"
    for _ in range(2):
        system.client.call("POST", "/v1/tenants", {"name": "passing"})
        system.upload(package, "passing")
        begun: list[str] = []

        def is_at_both(begun: list[str] = begun) -> bool:
            answer = system.client.call("POST", path, {"context": {"folder": str(tmp_path)}})
            begun.append(answer["execution_id"])
            return all(system.metric_of(number, "cloacina_active_workflows") > 0 for number in (1, 2))

        wait_until(is_at_both, "executions at both schedulers")
        system.client.call("DELETE", "/v1/tenants/passing")
        with pytest.raises(ApiFailure) as failure:
            system.client.call("GET", f"/v1/tenants/passing/executions/{begun[0]}")
        assert failure.value.status in (403, 404)
        left = [system.metric_of(number, "cloacina_active_workflows") for number in (1, 2)]
        assert left == [0, 0]


def test_one_that_is_killed_under_load_loses_nothing(system: Schedulers) -> None:
    with load(system) as acknowledged:
        wait_until(lambda: len(acknowledged) > 30, "acknowledged executions")
        killed = system.scheduler(2)
        os.kill(killed.pid, signal.SIGKILL)
        before = len(acknowledged)
        wait_until(lambda: len(acknowledged) > before + 30, "executions while one scheduler is dead")
    all_complete(system, acknowledged)
    wait_until(system.both_serve, "the return of the one that was killed")


def test_followers_get_everything_whichever_scheduler_they_reach_and_whoever_dies(
    system: Schedulers, tmp_path: Path
) -> None:
    """The gateway asks the schedulers in turn: of two who follow an execution one reaches its owner, one does not."""
    begun: list[str] = []

    def both_have_some() -> bool:
        begun.append(system.execute("slow", {"folder": str(tmp_path)}))
        return all(system.metric_of(number, "cloacina_active_workflows") > 0 for number in (1, 2))

    wait_until(both_have_some, "executions at both schedulers")
    followed = [each for each in begun for _ in range(2)]
    seen: list[list[tuple[int, str]]] = [[] for _ in followed]

    async def follow(session: aiohttp.ClientSession, execution_id: str, events: list[tuple[int, str]]) -> None:
        async with session.ws_connect(f"/v1/ws/delivery/exec_events:{execution_id}") as ws:
            async for message in ws:
                frame = json.loads(message.data)
                if frame["type"] == "push":
                    event = json.loads(base64.b64decode(frame["payload_b64"]))
                    events.append((frame["id"], event["event_type"]))
                    await ws.send_json({"type": "ack", "protocol_version": 1, "id": frame["id"]})

    async def follow_all() -> None:
        headers = {"Authorization": f"Bearer {read_bootstrap_key(system.home)}"}
        async with aiohttp.ClientSession(system.url, headers=headers) as session, asyncio.timeout(90):
            await asyncio.gather(*(follow(session, *each) for each in zip(followed, seen, strict=True)))

    following = threading.Thread(target=asyncio.run, args=(follow_all(),))
    following.start()
    try:
        wait_until(lambda: all(any(kind == "task_claimed" for _, kind in each) for each in seen), "all to follow")
        os.kill(system.scheduler(2).pid, signal.SIGKILL)
        wait_until(system.both_serve, "its return", LEASE_S + 30)
    finally:
        (tmp_path / "go").touch()
        following.join(100)
    for execution_id, events in zip(followed, seen, strict=True):
        listed = system.client.call("GET", f"/v1/tenants/public/executions/{execution_id}/events")
        stored = [(event["sequence_num"], event["event_type"]) for event in listed["events"]]
        assert events == stored
        assert events[-1][1] == "workflow_completed"


def test_one_that_stands_still_past_its_lease_gives_up_what_it_had(system: Schedulers, tmp_path: Path) -> None:
    frozen = system.scheduler(2)
    lost = system.metric_of(2, "cloacina_scheduler_ownership_lost_total")
    begun: list[str] = []

    def it_has_one() -> bool:
        begun.append(system.execute("slow", {"folder": str(tmp_path)}))
        return system.metric_of(2, "cloacina_active_workflows") > 0

    wait_until(it_has_one, "an execution of the one that is to stand still")
    adopted = system.metric_of(1, "cloacina_scheduler_adoptions_total")
    frozen.suspend()
    try:
        adoptions = "cloacina_scheduler_adoptions_total"
        wait_until(lambda: system.metric_of(1, adoptions) > adopted, "the adoption", LEASE_S + 10)
        (tmp_path / "go").touch()
        all_complete(system, begun)
        ended = [system.execution(each) for each in begun]
        events = [system.events(each) for each in begun]
    finally:
        frozen.resume()
    wait_until(lambda: system.metric_of(2, "cloacina_scheduler_ownership_lost_total") > lost, "the loss to be noticed")
    wait_until(system.both_serve, "the return")
    assert [system.execution(each) for each in begun] == ended
    assert [system.events(each) for each in begun] == events
    all_complete(system, [system.execute("quick", {"number": number}) for number in range(4)])


def test_every_firing_happens_once_over_the_death_of_the_one_that_fires(
    system: Schedulers, tmp_path: Path, postgres_server: PostgresServer
) -> None:
    system.upload(write_package(tmp_path, "ticking", _TICKING))
    url = system.environment["CLOACINA_DATABASE_URL"]

    def firings() -> list[int]:
        rows = postgres_server.query(
            "SELECT f.scheduled_at FROM cloacina_scheduler.schedule_firings f "
            "JOIN cloacina_scheduler.executions e USING (execution_id) ORDER BY 1",
            url,
        )
        return [int(row) for row in rows.split()]

    wait_until(lambda: len(firings()) >= 2, "firings")
    keeper = next(each for each in system.states() if each["figures"]["keeps_schedules"])
    os.kill(system.scheduler(system.number_of(keeper["instance_id"])).pid, signal.SIGKILL)
    before = len(firings())
    wait_until(lambda: len(firings()) >= before + 3, "firings by the other one", 30)
    found = firings()
    assert len(found) == len(set(found))
    latest = found[-3:]
    assert latest[-1] - latest[0] == 2_000_000, "second by second again"
    wait_until(system.both_serve, "the return")


class _Further:
    """A further process of a service, beside those of the supervisor.

    Args:
        system: what it belongs to.
        service: which.
    """

    def __init__(self, system: Schedulers, service: str) -> None:
        variables = [port.variable for port in PORTS if port.service == service]
        self.ports = dict(zip(variables, free_ports(len(variables)), strict=True))
        numbers = [system.ports[f"CLOACINA_SCHEDULER{which}_RPC_PORT"] for which in ("", "_2")]
        self._environment = {
            **system.environment,
            "CLOACINA_HOME": str(system.home),
            "CLOACINA_SCHEDULER_TARGET": ",".join(f"127.0.0.1:{number}" for number in numbers),
            "CLOACINA_RECONCILER_TARGET": f"127.0.0.1:{system.ports['CLOACINA_RECONCILER_RPC_PORT']}",
            **{name: str(port) for name, port in self.ports.items()},
        }
        self._service = service
        self._console = system.console
        self._process: subprocess.Popen[bytes] | None = None
        http = "CLOACINA_API_PORT" if service == "api" else "CLOACINA_EXECUTOR_METRICS_PORT"
        self.url = f"http://127.0.0.1:{self.ports[http]}"

    def start(self) -> None:
        command = [sys.executable, "-m", f"services.{self._service}"]
        with self._console.open("ab") as output:
            self._process = subprocess.Popen(command, env=self._environment, stdout=output, stderr=output)
        wait_until(lambda: answers(self.url + "/health"), f"the start of another {self._service}", 60)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            assert self._process.wait(60) == 0
            self._process = None


def answers(url: str) -> bool:
    """Whether a URL is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


class _Caller:
    """Makes requests as a load balancer passes them on: to another gateway where one takes no connection.

    Args:
        urls: of the gateways.
        key: the API key.
    """

    def __init__(self, urls: list[str], key: str) -> None:
        self._urls = urls
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self.failures: list[str] = []

    def call(self, number: int, method: str, path: str, body: Any = None, key: str = "") -> Any:
        headers = {**self._headers, **({"Idempotency-Key": key} if key else {})}
        data = None if body is None else json.dumps(body).encode()
        for attempt in range(20):
            url = self._urls[(number + attempt) % len(self._urls)]
            request = urllib.request.Request(url + path, data, headers, method=method)
            try:
                with urllib.request.urlopen(request, timeout=30) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                self.failures.append(f"{method} {path}: {error.code} {error.read().decode()}")
                return None
            except (OSError, http.client.HTTPException):
                continue  # no answer: the gateway is gone, or was just going
        self.failures.append(f"{method} {path}: no gateway answers")
        return None


def test_every_service_is_restarted_under_load_without_one_failed_request(system: Schedulers) -> None:
    gateway, executor = _Further(system, "api"), _Further(system, "executor")
    caller = _Caller([system.url, gateway.url], read_bootstrap_key(system.home))
    acknowledged: list[str] = []
    stop = threading.Event()

    def submit(thread: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            path = "/v1/tenants/public/workflows/quick/execute"
            body, key = {"context": {"number": number}}, f"rolling-{number}" if thread == 1 else ""
            begun = caller.call(number, "POST", path, body, key)
            if begun is not None:
                acknowledged.append(begun["execution_id"])
                caller.call(number, "GET", f"/v1/tenants/public/executions/{begun['execution_id']}")
                caller.call(number, "GET", "/v1/tenants/public/executions?limit=5")

    def more() -> None:
        before = len(acknowledged)
        wait_until(lambda: len(acknowledged) > before + 5, "further executions", 60)

    def restart(process: psutil.Process, whole: Callable[[], object]) -> None:
        process.terminate()
        wait_until(lambda: not process.is_running(), "the end of a drain", 60)
        more()
        wait_until(whole, "the return", 60)
        more()

    gateway.start()
    executor.start()
    try:
        wait_until(lambda: all(each["figures"]["executors"] == 2 for each in system.states()), "both executors")
        threads = [threading.Thread(target=submit, args=(number,)) for number in (1, 2)]
        for thread in threads:
            thread.start()
        more()
        for number in (1, 2):
            restart(system.scheduler(number), system.both_serve)
        restart(system.process("reconciler"), system.both_serve)
        restart(system.process("executor"), lambda: all(each["figures"]["executors"] == 2 for each in system.states()))
        executor.stop()
        more()
        restart(system.process("api"), lambda: system.answers("/ready"))
        gateway.stop()
        more()
        stop.set()
        for thread in threads:
            thread.join(60)
        assert caller.failures == []
        all_complete(system, acknowledged)
    finally:
        stop.set()
        gateway.stop()
        executor.stop()
