"""The half of a runner that lives on its event loop: store, engine and executor, and who waits for which execution."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable

from prometheus_client import CollectorRegistry

from cloacina.authoring.triggers import TriggerDefinition, registered_triggers
from cloacina.domain.decisions import Cancel, Pause, Resume
from cloacina.domain.execution import (
    Event,
    ExecutionStatus,
    TaskStatus,
    WorkflowCancelled,
    WorkflowCompleted,
    WorkflowFailed,
)
from cloacina.domain.inputs import MAX_CONTEXT_BYTES
from cloacina.domain.schedules import CatchUp, ScheduleKind
from cloacina.embedded.config import DefaultRunnerConfig
from cloacina.embedded.executor import LocalExecutor
from cloacina.embedded.result import WorkflowResult
from cloacina.embedded.workflows import TENANT, LocalDefinition, LocalWorkflows
from cloacina.engine.engine import Engine, wall_clock
from cloacina.engine.instances import Instances
from cloacina.engine.metrics import EngineMetrics
from cloacina.engine.model import Live, Origin
from cloacina.engine.schedule_book import Wanted
from cloacina.engine.schedule_metrics import ScheduleMetrics
from cloacina.engine.schedules import Schedules
from cloacina.engine.settings import EngineSettings
from cloacina.errors import Conflict, NotFound, Unavailable
from cloacina.store.database import Database, open_database
from cloacina.store.executions import ExecutionStore
from cloacina.store.instances import InstanceStore
from cloacina.store.schedules import ScheduleStore
from cloacina.telemetry import scope, tracing

log = logging.getLogger(__name__)

_NO_LEASE_S = 10 * 366 * 86_400.0
"""Ten years: the only executor is this process, whose silence is its end; so it need not write heartbeats."""

_ENDS = (WorkflowCompleted, WorkflowFailed, WorkflowCancelled)


class _EngineMetrics(EngineMetrics):
    """Metrics in a registry of their own, so that several runners and the caller's metrics do not mix. The engine
    tells them each committed event, in order: that is also how a runner hears of an end.

    Args:
        on_end: called with each execution that has ended, once that is durable.
    """

    def __init__(self, on_end: Callable[[Live], None]) -> None:
        super().__init__(CollectorRegistry())
        self._on_end = on_end

    def observe(self, live: Live, event: Event) -> None:
        super().observe(live, event)
        if isinstance(event, _ENDS):
            self._on_end(live)


class EmbeddedService:
    """Everything of a runner but its threads. All methods run on one event loop.

    Args:
        url: of the store.
        config: the runner's settings.
        workflows: the workflows of this process.
        schema: of a PostgreSQL database; empty for the store's own.
    """

    def __init__(self, url: str, config: DefaultRunnerConfig, workflows: LocalWorkflows, schema: str = "") -> None:
        self._url = url
        self._schema = schema
        self._config = config
        self._workflows = workflows
        self._waiting: defaultdict[str, list[asyncio.Future[WorkflowResult]]] = defaultdict(list)
        self._database: Database | None = None
        self._stopping = False
        self.store: ExecutionStore
        self.instances: Instances
        self.engine: Engine
        self.executor: LocalExecutor
        self.schedules: Schedules
        self.schedule_store: ScheduleStore
        self._declaring: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Opens the store, takes up what is unfinished there, and begins to work.

        Raises:
            StoreStartupError: the database cannot be opened.
            Unavailable: it cannot be read.
        """
        config = self._config
        self._database = open_database(self._url, "scheduler", exclusive=True, schema=self._schema)
        await self._database.open()
        try:
            self.store = ExecutionStore(self._database)
            self.engine = Engine(
                self.store,
                _EngineMetrics(self._ended),
                self._workflows.load,
                EngineSettings(lease_s=_NO_LEASE_S),
                find_definition=lambda tenant_id, name: self._workflows.find(name),
            )
            self.executor = LocalExecutor(
                self.engine,
                self._workflows,
                config.max_concurrent_tasks,
                config.task_timeout_seconds,
                earliest=0 if config.enable_recovery else wall_clock(),
                on_rejoin=self._look_again,
            )
            self.schedule_store = ScheduleStore(self._database)
            self.schedules = Schedules(
                self.engine, self.schedule_store, self._workflows, ScheduleMetrics(CollectorRegistry())
            )
            self.instances = Instances(InstanceStore(self._database), MAX_CONTEXT_BYTES, self.schedules)
            await self.engine.start()
            await self.instances.start()
            await self.executor.start()
            if config.enable_cron_scheduling:
                await self._declare(list(registered_triggers().values()))
                self.schedules.start()
        except BaseException:
            await self._database.close()
            raise

    async def stop(self, grace_s: float) -> None:
        """Drains: takes nothing more, lets what runs end, hands back what does not, and closes the store.

        Args:
            grace_s: seconds that running tasks get.
        """
        self._stopping = True
        await self.schedules.stop()
        await self.executor.drain(grace_s)
        await self.engine.stop()
        self.executor.close_threads()
        for execution_id, waiting in self._waiting.items():
            for future in waiting:
                if not future.done():
                    future.set_exception(_stopped(execution_id))
        self._waiting.clear()
        if self._database is not None:
            await self._database.close()

    # Schedules

    async def remove_schedule(self, schedule_id: str) -> None:
        """Takes a schedule out, and the instance with it whose schedule it is.

        Raises:
            NotFound: there is no such schedule.
            Unavailable: the store cannot be written.
        """
        instance = await self.instances.find(schedule_id)
        if instance is None:
            await self.schedules.remove(schedule_id)
        else:
            await self.instances.delete(TENANT, instance.workflow_name, instance.instance_name)

    def declare(self, trigger: TriggerDefinition) -> None:
        """A trigger became known in this process."""
        if self._config.enable_cron_scheduling and not self._stopping:
            task = asyncio.get_running_loop().create_task(self._declare([trigger]))
            self._declaring.add(task)
            task.add_done_callback(self._declaring.discard)

    async def _declare(self, triggers: list[TriggerDefinition]) -> None:
        """A trigger that was known before keeps its past, and stays disabled if it was."""
        wanted = {(TENANT, trigger.name): [self._wanted(trigger)] for trigger in triggers}
        try:
            await self.schedules.follow(wanted, complete=False)
        except Unavailable as error:
            log.error("triggers could not be stored; they do not fire", extra={"error": error.message})

    def _wanted(self, trigger: TriggerDefinition) -> Wanted:
        cron = trigger.cron is not None
        return Wanted(
            name=trigger.name,
            kind=ScheduleKind.CRON if cron else ScheduleKind.TRIGGER,
            workflows=(trigger.on or trigger.name, *trigger.also_on),
            cron=trigger.cron,
            timezone=(trigger.timezone or "UTC") if cron else None,
            poll_interval_ms=None if cron else trigger.poll_interval_ms,
            allow_concurrent=trigger.allow_concurrent,
            source=trigger.name,
            catch_up=CatchUp(trigger.catch_up),
            catch_up_cap=min(trigger.catch_up_cap, self._config.cron_max_catchup_executions or 1),
        )

    # Executions

    async def submit(
        self,
        definition: LocalDefinition,
        context: bytes,
        request_id: str,
        *,
        trigger_origin: str = "manual",
        idempotency_key: str | None = None,
    ) -> str:
        """Starts an execution and returns its id once it is durable.

        Args:
            definition: its workflow.
            context: its input, a JSON object.
            request_id: the request that it belongs to.
            trigger_origin: "manual", "cron" or "trigger".
            idempotency_key: a second execution of the workflow under this key is the first one.

        Raises:
            Unavailable: the runner stops, or its store cannot be written.
        """
        if self._stopping:
            raise Unavailable("the runner has been shut down")
        name = definition.spec.name
        with (
            scope.bind(request_id=request_id, tenant_id=TENANT, workflow_name=name),
            tracing.span(f"schedule {name}") as span,
        ):
            execution_id, _ = await self.engine.submit(
                definition,
                context,
                Origin(request_id, span.traceparent),
                trigger_origin=trigger_origin,
                idempotency_key=idempotency_key,
            )
            return execution_id

    async def result(self, execution_id: str) -> WorkflowResult:
        """Waits for the end of an execution.

        Raises:
            NotFound: there is no such execution.
            Unavailable: the runner was shut down before.
        """
        if self._stopping:
            raise _stopped(execution_id)
        future: asyncio.Future[WorkflowResult] = asyncio.get_running_loop().create_future()
        self._waiting[execution_id].append(future)  # before it is looked for, so that its end cannot be missed
        try:
            if self.engine.find(execution_id) is None:
                ended = await self._stored(execution_id)
                if ended is not None:
                    return ended
            return await future
        finally:
            waiting = self._waiting.get(execution_id)
            if waiting is not None:
                waiting.remove(future)
                if not waiting:
                    del self._waiting[execution_id]

    async def run(self, definition: LocalDefinition, context: bytes, request_id: str) -> WorkflowResult:
        """Starts an execution and waits for its end, or for the workflow's timeout.

        Raises:
            TimeoutError: it did not end in time; it is being cancelled.
            Unavailable: see `submit` and `result`.
        """
        execution_id = await self.submit(definition, context, request_id)
        limit_s = self._config.workflow_timeout_seconds
        if limit_s is None:
            return await self.result(execution_id)
        try:
            async with asyncio.timeout(limit_s):
                return await self.result(execution_id)
        except TimeoutError:
            await self.change(execution_id, Cancel(f"it ran longer than the workflow timeout of {limit_s} s"))
            raise

    async def change(self, execution_id: str, command: Cancel | Pause | Resume) -> None:
        """Cancels, pauses or resumes an execution.

        Raises:
            NotFound: there is no such execution.
            Conflict: its state does not allow it.
            Unavailable: the store cannot be written.
        """
        try:
            await self.engine.change(TENANT, execution_id, command)
        except NotFound:
            row = await self.store.get_execution(TENANT, execution_id)
            if row is None:
                raise _no_execution(execution_id) from None
            if isinstance(command, Cancel) and row.status == ExecutionStatus.CANCELLED:
                return
            verb = type(command).__name__.lower()
            raise Conflict(f"cannot {verb} execution {execution_id}: it is {row.status}") from None

    def _ended(self, live: Live) -> None:
        if live.execution_id in self._waiting:
            failures = [
                (name, task.error) for name, task in live.state.tasks.items() if task.status == TaskStatus.FAILED
            ]
            result = WorkflowResult(live.execution_id, live.workflow_name, live.created_at, live.state, failures)
            self._answer(live.execution_id, result)

    def _answer(self, execution_id: str, result: WorkflowResult) -> None:
        for future in self._waiting.get(execution_id, ()):
            if not future.done():
                future.set_result(result)

    async def _look_again(self) -> None:
        """The engine began again from its store: an end may have become durable without anyone being told."""
        for execution_id in list(self._waiting):
            ended = None if self.engine.find(execution_id) is not None else await self._stored(execution_id)
            if ended is not None:
                self._answer(execution_id, ended)

    async def _stored(self, execution_id: str) -> WorkflowResult | None:
        """The result of an execution that has ended before; ``None`` if it has not."""
        row = await self.store.get_execution(TENANT, execution_id)
        if row is None:
            raise _no_execution(execution_id)
        if not ExecutionStatus(row.status).terminal:
            return None
        tasks = await self.store.list_tasks(TENANT, execution_id)
        failures = [(task.task_name, task.error) for task in tasks if task.status == TaskStatus.FAILED]
        return WorkflowResult(execution_id, row.workflow_name, row.created_at, row, failures)


def _no_execution(execution_id: str) -> NotFound:
    return NotFound(f"there is no execution {execution_id}", code="execution_not_found")


def _stopped(execution_id: str) -> Unavailable:
    return Unavailable(
        f"the runner was shut down before execution {execution_id} ended; what is left of it runs when a runner starts "
        "on this database again"
    )
