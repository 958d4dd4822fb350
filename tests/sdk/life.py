"""A whole life through the Python SDK of the original server: every method of its clients, against a real server.

Usage: python -m tests.sdk.life URL GOD_MODE_KEY
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from cloacina_client import AsyncClient, Client, CloacinaApiError
from cloacina_client._generated.models import (
    FireMode,
    FireReactorRequest,
    FireTriggerRequest,
    InjectAccumulatorRequest,
)

from cloacina.packages import archive
from tests.system.running import write_package

UNKNOWN = "00000000-0000-4000-8000-000000000000"
PASSWORD = "correct horse battery staple"
_DEADLINE_S = 60.0

ORDERS = """
import cloaca


@cloaca.workflow_secrets("db")
@cloaca.workflow_params(customer=(str, "nobody"))
@cloaca.task(id="load")
def load(context):
    context.set("loaded", context["customer"])
    context.set("length", len(context.secret_field("db", "password")))
    return context


@cloaca.task(id="ship", dependencies=["load"])
def ship(context):
    context.set("shipped", context["loaded"])
    return context


@cloaca.trigger(poll_interval="1h")
def inbox():
    return cloaca.TriggerResult.skip()
"""


class Recorded:
    """A client that remembers which of its methods were called."""

    def __init__(self, client: Client | AsyncClient) -> None:
        self.client = client
        self.called: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.called.add(name)
        return getattr(self.client, name)


def methods(of: type) -> set[str]:
    """The public methods that a client class has of its own."""
    return {name for name, _ in inspect.getmembers(of, inspect.isfunction) if not name.startswith("_")} - {
        "tenant_segment"
    }


def refused(call: Callable[[], object], status: int, code: str) -> None:
    """Asserts that a call is answered with this error."""
    try:
        call()
    except CloacinaApiError as error:
        assert (error.status, error.code) == (status, code), error
    else:
        raise AssertionError(f"it was not refused with {status} {code}")


class Life:
    """One tenant from its beginning to its end.

    Args:
        server: URL.
        key: a god-mode key.
    """

    def __init__(self, server: str, key: str) -> None:
        self.server = server
        self.tenant = f"sdk_{time.time_ns() // 1_000_000}"
        self.god = Recorded(Client(server, api_key=key, tenant=self.tenant))
        self.god_async = Recorded(AsyncClient(server, api_key=key, tenant=self.tenant))
        self.own: Recorded
        """With an admin key of the tenant."""
        self.own_async: Recorded
        self._runner = asyncio.Runner()

    def live(self) -> None:
        """All of it.

        Raises:
            AssertionError, CloacinaApiError: something is not as the SDK expects.
        """
        with self._runner:
            self._live()
        self.check_that_every_method_was_called()

    def _live(self) -> None:
        for step in (
            self.see_the_system,
            self.begin_a_tenant,
            self.keep_secrets,
            self.upload,
            self.execute,
            self.pause_and_resume,
            self.bind_instances,
            self.use_triggers,
            self.look_at_graphs,
            self.keep_accounts,
            self.tear_down,
        ):
            step()

    def run(self, step: Callable[[], Awaitable[None]]) -> None:
        """Runs an asynchronous step. All run in one event loop: httpx keeps its connections to one."""

        async def run() -> None:
            async with asyncio.timeout(_DEADLINE_S):
                await step()

        self._runner.run(run())

    def see_the_system(self) -> None:
        assert self.god.health() == {"status": "ok"}
        assert self.god.ready() == (200, {"status": "ready"})
        me = self.god.whoami()
        assert (me.is_admin, me.role) == (True, "admin")
        agents = self.god.list_agents()
        assert agents.total == len(agents.items) >= 1
        assert agents.items[0].max_concurrency > 0
        assert self.god.compiler_status().status == "idle"

        async def asynchronously() -> None:
            assert await self.god_async.health() == {"status": "ok"}
            assert (await self.god_async.list_agents()).total >= 1
            assert (await self.god_async.compiler_status()).pending == 0

        self.run(asynchronously)

    def begin_a_tenant(self) -> None:
        made = self.god.create_tenant(self.tenant, description="of the SDK")
        assert made.name == self.tenant
        assert self.tenant in {tenant.name for tenant in self.god.list_tenants().items}
        platform = self.god.create_key("of no tenant", role="read")
        assert platform.id in {key.id for key in self.god.list_keys().items}
        assert self.god.revoke_key(platform.id).status == "revoked"
        admin = self.god.create_tenant_key("its admin", role="admin")
        assert (admin.tenant_id, admin.permissions) == (self.tenant, "admin")
        self.own = Recorded(Client(self.server, api_key=admin.key, tenant=self.tenant))
        self.own_async = Recorded(AsyncClient(self.server, api_key=admin.key, tenant=self.tenant))
        assert self.own.whoami().tenant_id == self.tenant
        short = self.god.create_tenant_key("soon gone", role="read")
        assert {admin.id, short.id} == {key.id for key in self.own.list_tenant_keys().items}
        assert self.own.revoke_tenant_key(short.id).status == "revoked"
        refused(lambda: Client(self.server, api_key=short.key).whoami(), 401, "unauthorized")
        refused(lambda: self.own.client.list_tenants(), 403, "admin_required")
        refused(lambda: self.own.client.list_workflows(tenant="public"), 403, "tenant_access_denied")
        ticket = self.own.create_ws_ticket()
        assert ticket.ticket
        assert 0 < ticket.expires_in_seconds <= 60

        async def asynchronously() -> None:
            made = await self.god_async.create_key("asynchronous", role="read")
            assert made.id in {key.id for key in (await self.god_async.list_keys()).items}
            assert (await self.god_async.revoke_key(made.id)).status == "revoked"
            assert self.tenant in {tenant.name for tenant in (await self.god_async.list_tenants()).items}
            assert (await self.own_async.create_ws_ticket()).ticket

        self.run(asynchronously)

    def keep_secrets(self) -> None:
        made = self.own.create_secret("db", {"password": "four"})
        assert (made.name, made.field_names) == ("db", ["password"])
        assert "four" not in str(made.to_dict())
        rotated = self.own.rotate_secret("db", {"password": "seven77"})
        assert rotated.id == made.id
        self.own.create_secret("other", {"key": "x"})
        assert {secret.name for secret in self.own.list_secrets().items} == {"db", "other"}
        assert self.own.get_secret("db").name == "db"
        assert self.own.delete_secret("other").status == "deleted"
        refused(lambda: self.own.client.get_secret("other"), 404, "secret_not_found")

    def upload(self) -> None:
        refused(lambda: self.own.client.upload_workflow(b"no archive"), 400, "upload_failed")
        with tempfile.TemporaryDirectory() as folder:
            packed = archive.pack(write_package(Path(folder), "sdk-orders", ORDERS))
        uploaded = self.own.upload_workflow(packed)
        assert uploaded.tenant_id == self.tenant
        listed = self.own.list_workflows()
        assert {workflow.workflow_name for workflow in listed.items} >= {"sdk_orders"}
        found = self.own.get_workflow("sdk_orders")
        assert (found.build_status, found.version, found.package_name) == ("success", "1.0.0", "sdk-orders")
        assert {slot.name: slot.encrypted for slot in found.declared_params} == {"customer": False, "db": True}
        source = self.own.get_workflow_source("sdk_orders")
        assert any(file.path.endswith("tasks.py") and "def ship" in file.contents for file in source.files)

    def execute(self) -> None:
        self.run(self._execute)
        refused(lambda: self.own.client.execute_workflow("unknown"), 404, "workflow_not_found")
        refused(lambda: self.own.client.get_execution("no uuid"), 400, "invalid_request")
        refused(lambda: self.own.client.get_execution(UNKNOWN), 404, "execution_not_found")
        assert self.own.get_execution_events(UNKNOWN).events == []
        started = self.own.execute_workflow("sdk_orders", {"customer": "bob", "db": {"$secret": "db"}})
        self.ended(started.execution_id)
        assert {task.status for task in self.own.get_execution_tasks(self.tenant, started.execution_id).tasks} == {
            "Completed"
        }
        assert "task_completed" in {e.event_type for e in self.own.get_execution_events(started.execution_id).events}
        page = self.own.list_executions(status="Completed", workflow="sdk_orders", limit=1, offset=1)
        assert len(page.items) == 1
        assert started.execution_id in {each.id for each in self.own.iterate_executions(page_size=1)}

    async def _execute(self) -> None:
        """Starts an execution and follows it to its end, event by event."""
        own = self.own_async
        started = await own.execute_workflow("sdk_orders", {"customer": "ann", "db": {"$secret": "db"}})
        execution_id = started.execution_id
        events = [event async for event in own.follow_execution_events(execution_id, reconnect=False)]
        kinds = [event["event_type"] for event in events]
        assert (kinds[-1], kinds.count("task_completed")) == ("workflow_completed", 2), kinds
        assert [event["sequence_num"] for event in events] == list(range(1, len(events) + 1))
        pushes = []
        async for push in own.subscribe_delivery(f"exec_events:{execution_id}"):  # afterwards, and reconnecting
            pushes.append(push)
            if push.payload_json()["event_type"] == "workflow_completed":
                break
        assert [push.payload_json() for push in pushes] == events
        assert {(push.kind, push.tenant_id) for push in pushes} == {("execution_event", self.tenant)}
        assert (await own.get_execution(execution_id)).status == "Completed"
        shown = (await own.get_execution_events(execution_id)).events
        assert [event.event_type for event in shown] == kinds
        tasks = (await own.get_execution_tasks(self.tenant, execution_id)).tasks
        assert [task.task_name for task in tasks] == ["load", "ship"]
        assert (await own.list_executions(workflow="sdk_orders")).items[0].id == execution_id
        assert [each.id async for each in own.iterate_executions(status="Completed")] == [execution_id]

    def ended(self, execution_id: str) -> str:
        """The status of an execution once it has ended."""
        deadline = time.monotonic() + _DEADLINE_S
        while (status := self.own.get_execution(execution_id).status) not in ("Completed", "Failed", "Cancelled"):
            assert time.monotonic() < deadline, f"{execution_id} is {status}"
            time.sleep(0.02)
        return str(status)

    def pause_and_resume(self) -> None:
        paused = self.own.pause_workflow("sdk_orders")
        assert (paused.paused, paused.status) == (True, "paused")
        refused(lambda: self.own.client.execute_workflow("sdk_orders"), 409, "workflow_paused")
        assert self.own.resume_workflow("sdk_orders").paused is False
        started = self.own.execute_workflow("sdk_orders", {"db": {"$secret": "db"}})
        assert self.ended(started.execution_id) == "Completed"

    def bind_instances(self) -> None:
        made = self.own.create_instance(
            "sdk_orders", "nightly", params={"customer": "ann"}, cron="0 3 * * *", timezone="UTC", enabled=True
        )
        assert (made.instance_name, made.cron_expression) == ("nightly", "0 3 * * *")
        assert self.own.get_instance("sdk_orders", "nightly").id == made.id
        assert [each.id for each in self.own.list_instances("sdk_orders", limit=10, offset=0).items] == [made.id]
        assert self.own.delete_instance("sdk_orders", "nightly").deleted is True

    def use_triggers(self) -> None:
        assert {trigger.trigger_name for trigger in self.own.list_triggers(limit=10, offset=0).items} == {"inbox"}
        assert self.own.get_trigger("inbox").schedule.trigger_name == "inbox"
        assert self.own.pause_trigger("inbox").paused is True
        assert self.own.resume_trigger("inbox").paused is False
        assert {slot.name for slot in self.own.get_trigger_interface("inbox").slots} >= {"customer"}
        fired = self.own.fire_trigger("inbox", FireTriggerRequest(event={"customer": "eve", "db": {"$secret": "db"}}))
        (execution,) = fired.executions
        assert self.ended(execution.execution_id) == "Completed"

    def look_at_graphs(self) -> None:
        for page in (self.own.list_accumulators(), self.own.list_graphs(), self.own.list_reactors()):
            assert (page.total, page.items) == (0, [])
        assert self.own.get_reactor_interface("prices").slots == []
        assert self.own.get_accumulator_interface("prices").slots == []
        refused(lambda: self.own.get_graph("prices"), 404, "graph_not_found")
        for call in (
            lambda: self.own.list_reactor_fires("prices"),
            lambda: self.own.reactor_fire_timeseries("prices"),
            lambda: self.own.fire_reactor("prices", FireReactorRequest(mode=FireMode.FORCE_FIRE)),
        ):
            refused(call, 404, "reactor_not_found")
        refused(
            lambda: self.own.inject_accumulator("prices", InjectAccumulatorRequest(event={"bid": 1})),
            404,
            "accumulator_not_found",
        )

        async def asynchronously() -> None:
            assert (await self.own_async.list_reactors()).items == []

        self.run(asynchronously)

    def keep_accounts(self) -> None:
        made = self.own.create_account("ann", PASSWORD, role="write")
        assert [account.id for account in self.own.list_accounts().items] == [made.id]
        login = self.own.local_login("ann", PASSWORD, tenant=self.tenant)
        ann = Recorded(Client(self.server, api_key=login.key, tenant=self.tenant))
        assert ann.whoami().role == "write"
        refused(lambda: ann.client.list_accounts(), 403, "insufficient_permissions")
        again = ann.refresh()
        fresh = Recorded(Client(self.server, api_key=again.key, tenant=self.tenant))
        assert fresh.list_workflows().total >= 1
        fresh.logout()
        refused(lambda: fresh.client.whoami(), 401, "unauthorized")
        self.own.reset_password(made.id, PASSWORD + "!")
        refused(lambda: self.own.client.local_login("ann", PASSWORD, tenant=self.tenant), 401, "unauthorized")
        self.own.disable_account(made.id)
        self.own.called |= {"refresh", "logout"} & (ann.called | fresh.called)

    def tear_down(self) -> None:
        deleted = self.own.delete_workflow("sdk-orders", "1.0.0")
        assert deleted.status == "deleted"
        removed = self.god.remove_tenant(self.tenant)
        assert removed.status
        assert self.tenant not in {tenant.name for tenant in self.god.list_tenants().items}
        refused(lambda: self.own.client.whoami(), 401, "unauthorized")

    def check_that_every_method_was_called(self) -> None:
        left_out = methods(Client) - self.god.called - self.own.called
        assert not left_out, f"methods of Client that were not called: {sorted(left_out)}"
        left_out = methods(AsyncClient) - self.god_async.called - self.own_async.called
        assert not left_out, f"methods of AsyncClient that were not called: {sorted(left_out)}"


def main() -> None:
    """Lives it once, and says so."""
    life = Life(*sys.argv[1:3])
    life.live()
    print(f"{len(methods(Client))} methods of Client and {len(methods(AsyncClient))} of AsyncClient did as they should")


if __name__ == "__main__":
    main()
