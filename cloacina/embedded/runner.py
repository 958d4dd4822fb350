"""DefaultRunner: the engine in the caller's process. A thread of its own runs it; every method may be called from any
thread and waits for its answer."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

import uvloop

from cloacina.authoring.context import Context
from cloacina.authoring.triggers import TriggerDefinition, listen_for_triggers
from cloacina.authoring.workflow import listen_for_workflows, registered_workflows
from cloacina.domain.decisions import Cancel, Pause, Resume
from cloacina.embedded.config import DefaultRunnerConfig
from cloacina.embedded.inputs import accept_context
from cloacina.embedded.instances import InstanceMethods
from cloacina.embedded.result import WorkflowResult
from cloacina.embedded.schedules import ScheduleMethods
from cloacina.embedded.service import EmbeddedService
from cloacina.embedded.urls import check_schema, search_path_of, shown, store_url
from cloacina.embedded.workflows import LocalDefinition, LocalWorkflows
from cloacina.errors import CloacinaError
from cloacina.telemetry import scope

log = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")
_DRAIN_S = 30.0
_DRAIN_AT_EXIT_S = 5.0
_CLOSING_S = 20.0
"""Seconds that closing the store may take after the tasks have ended."""

_running: weakref.WeakSet[DefaultRunner] = weakref.WeakSet()


class DefaultRunner(ScheduleMethods, InstanceMethods):
    """Runs workflows in this process, durably: what is unfinished when the process dies goes on at the next start.

    Args:
        database_url: ``sqlite://relative/path``, ``sqlite:///absolute/path``, a bare path, or ``:memory:`` for a
            database that ends with the runner. A SQLite file serves one runner at a time.

    Raises:
        RuntimeError: the database cannot be opened.
    """

    def __init__(self, database_url: str) -> None:
        self._set_up(database_url, DefaultRunnerConfig())

    @staticmethod
    def with_config(database_url: str, config: DefaultRunnerConfig) -> DefaultRunner:
        """A runner with settings of its own; later changes of `config` do not reach it.

        Raises:
            RuntimeError: the database cannot be opened.
        """
        runner = DefaultRunner.__new__(DefaultRunner)
        runner._set_up(database_url, DefaultRunnerConfig(**_given(config)), config.workflow_timeout_seconds)
        return runner

    @staticmethod
    def with_schema(database_url: str, schema: str) -> DefaultRunner:
        """A runner whose tables are in a schema of their own of a PostgreSQL database.

        Args:
            database_url: ``postgresql://…``.
            schema: letters, digits and underscores.

        Raises:
            ValueError: the URL is not PostgreSQL's, or the schema's name is not allowed.
            RuntimeError: the database cannot be opened.
        """
        check_schema(database_url, schema)
        runner = DefaultRunner.__new__(DefaultRunner)
        runner._set_up(database_url, DefaultRunnerConfig(), schema=schema)
        return runner

    def _set_up(
        self,
        database_url: str,
        config: DefaultRunnerConfig,
        workflow_timeout_seconds: int | None = 3600,
        *,
        schema: str = "",
    ) -> None:
        if not isinstance(database_url, str):
            raise TypeError(f"database_url must be a str, not {type(database_url).__name__}")
        config.workflow_timeout_seconds = workflow_timeout_seconds
        self._url = database_url
        self._schema = schema or search_path_of(database_url)
        self._config = config
        self._workflows = LocalWorkflows()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._service: EmbeddedService | None = None
        self._stop_listening: Callable[[], None] | None = None
        self.start()

    # Running workflows

    def execute(self, workflow_name: str, context: Context) -> WorkflowResult:
        """Runs a workflow to its end. A task that fails makes the result "Failed"; it raises nothing here.

        Args:
            workflow_name: a workflow registered in this process.
            context: its input.

        Raises:
            ValueError: there is no such workflow, the context does not fit what it declares, the runner was shut down,
                or the execution ran longer than ``workflow_timeout_seconds`` (then it is cancelled).
        """
        return self._run(*self._prepared(workflow_name, context))

    def _run(self, definition: LocalDefinition, raw: bytes) -> WorkflowResult:
        with _explained("Workflow execution failed"):
            try:
                return self._ask(lambda service: service.run(definition, raw, _request_id()))
            except TimeoutError:
                limit_s = self._config.workflow_timeout_seconds
                raise ValueError(f"Workflow execution failed: Workflow timeout after {limit_s}s") from None

    async def execute_async(self, workflow_name: str, context: Context) -> WorkflowResult:
        """As `execute`, for callers on an event loop (ours)."""
        definition, raw = self._prepared(workflow_name, context)
        with _explained("Workflow execution failed"):
            try:
                return await asyncio.wrap_future(
                    self._begin(lambda service: service.run(definition, raw, _request_id()))
                )
            except TimeoutError:
                limit_s = self._config.workflow_timeout_seconds
                raise ValueError(f"Workflow execution failed: Workflow timeout after {limit_s}s") from None

    def submit(self, workflow_name: str, context: Context, *, idempotency_key: str | None = None) -> str:
        """Starts a workflow and returns the id of the execution, which is durable by then (ours).

        Args:
            workflow_name, context: as in `execute`.
            idempotency_key: with the key of an earlier execution of this workflow, the answer is that execution.

        Raises:
            ValueError: as `execute`.
        """
        definition, raw = self._prepared(workflow_name, context)
        with _explained("Workflow execution failed"):
            return self._ask(
                lambda service: service.submit(definition, raw, _request_id(), idempotency_key=idempotency_key)
            )

    def result(self, execution_id: str, timeout_s: float | None = None) -> WorkflowResult:
        """Waits for the end of an execution, also of one that an earlier process began (ours).

        Args:
            execution_id: as `submit` returned it.
            timeout_s: seconds to wait; ``None`` for as long as it takes. The execution goes on in any case.

        Raises:
            TimeoutError: it has not ended within `timeout_s`.
            ValueError: there is no such execution, or the runner was shut down.
        """
        with _explained("Failed to get the result"):
            return self._ask(lambda service: service.result(execution_id), timeout_s)

    def cancel_execution(self, execution_id: str) -> None:
        """Cancels an execution (ours). Coroutines and deferred tasks are stopped; a plain function that runs cannot be,
        and gets 5 seconds to end before the execution goes on to its end without it.

        Raises:
            ValueError: there is no such execution, or it has ended otherwise.
        """
        self._change(execution_id, Cancel("cancelled by the caller"), "Failed to cancel the execution")

    def pause_execution(self, execution_id: str) -> None:
        """Lets no further task of an execution begin (ours).

        Raises:
            ValueError: there is no such execution, or it cannot be paused.
        """
        self._change(execution_id, Pause(), "Failed to pause the execution")

    def resume_execution(self, execution_id: str) -> None:
        """Ends a pause (ours).

        Raises:
            ValueError: there is no such execution, or it is not paused.
        """
        self._change(execution_id, Resume(), "Failed to resume the execution")

    def _change(self, execution_id: str, command: Cancel | Pause | Resume, failed: str) -> None:
        with _explained(failed):
            self._ask(lambda service: service.change(execution_id, command))

    def _prepared(self, workflow_name: str, context: Context) -> tuple[LocalDefinition, bytes]:
        """The workflow, and its input as JSON; in the caller's thread, where its mistakes belong."""
        if not isinstance(context, Context):
            raise TypeError(f"context must be a Context, not {type(context).__name__}: wrap it in cloaca.Context(...)")
        definition = self._definition(workflow_name)
        assert definition.workflow is not None
        with _explained("Workflow execution failed"):
            return definition, accept_context(definition.workflow, context)

    def _definition(self, workflow_name: str) -> LocalDefinition:
        definition = self._workflows.find(workflow_name)
        if definition is None:
            known = ", ".join(sorted(registered_workflows())) or "none"
            raise ValueError(
                f"Workflow execution failed: Workflow not found: {workflow_name}; registered in this process: {known}"
            )
        return definition

    # Beginning and ending

    def start(self) -> None:
        """Begins to work; also again after `shutdown`. Does nothing while it works.

        Raises:
            RuntimeError: the database cannot be opened.
        """
        with self._lock:
            if self._thread is not None:
                return
            loop = uvloop.new_event_loop()  # half the time of asyncio's own between threads
            thread = threading.Thread(target=_run_loop, args=(loop,), name="cloacina runner", daemon=True)
            thread.start()
            service = EmbeddedService(store_url(self._url), self._config, self._workflows, self._schema)
            try:
                asyncio.run_coroutine_threadsafe(service.start(), loop).result()
            except CloacinaError as error:
                _end_loop(loop, thread)
                raise RuntimeError(f"Failed to create DefaultRunner on {shown(self._url)}: {error}") from error
            except BaseException:
                _end_loop(loop, thread)
                raise
            self._loop, self._thread, self._service = loop, thread, service
            self._stop_listening = _listen(loop, service)
            _running.add(self)
        log.info("runner started", extra={"database": shown(self._url)})

    def shutdown(self, grace_s: float = _DRAIN_S) -> None:
        """Ends the runner: takes nothing more, lets running tasks end, and closes the database. What is unfinished by
        then goes on when a runner starts on the database again. A second call does nothing.

        Args:
            grace_s: seconds that running tasks get; one that does not end is left to itself, since a thread cannot be
                stopped, and its outcome is dropped (ours).
        """
        self._shut_down(grace_s)

    def _shut_down(self, grace_s: float, *, at_exit: bool = False) -> None:
        with self._lock:
            loop, thread, service = self._loop, self._thread, self._service
            if loop is None or thread is None or service is None:
                return
            if self._stop_listening is not None:
                self._stop_listening()
            if at_exit:
                loop.call_soon_threadsafe(loop.set_default_executor, _InPlace())
            try:
                asyncio.run_coroutine_threadsafe(service.stop(grace_s), loop).result(grace_s + _CLOSING_S)
            except Exception:
                log.exception("the runner could not be ended in order; its database is consistent all the same")
            finally:
                _end_loop(loop, thread)
                self._loop = self._thread = self._service = self._stop_listening = None
                _running.discard(self)
        log.info("runner shut down", extra={"database": shown(self._url)})

    def __enter__(self) -> DefaultRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        state = "running" if self._thread is not None else "shut down"
        return f"DefaultRunner({shown(self._url)!r}, {state})"

    # From the caller's thread to the runner's

    def _begin(self, call: Callable[[EmbeddedService], Coroutine[Any, Any, _Answer]]) -> Future[_Answer]:
        loop, thread, service = self._loop, self._thread, self._service
        if loop is None or service is None:
            raise ValueError("the runner has been shut down; start() begins again")
        if threading.current_thread() is thread:
            raise RuntimeError("a runner's method was called from its own event loop, which would wait for itself")
        return asyncio.run_coroutine_threadsafe(call(service), loop)

    def _ask(
        self, call: Callable[[EmbeddedService], Coroutine[Any, Any, _Answer]], timeout_s: float | None = None
    ) -> _Answer:
        future = self._begin(call)
        try:
            return future.result(timeout_s)
        except BaseException:
            future.cancel()
            raise


def _shutdown_all_runners() -> None:
    """Ends every runner of this process; called by itself when the interpreter exits."""
    for runner in list(_running):
        runner._shut_down(_DRAIN_AT_EXIT_S, at_exit=True)


atexit.register(_shutdown_all_runners)


class _InPlace(ThreadPoolExecutor):
    """Runs calls where they are submitted: at interpreter exit no pool may start a thread any more."""

    def submit(self, call: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(call(*arguments, **keywords))
        except BaseException as error:
            future.set_exception(error)
        return future


class _explained(contextlib.AbstractContextManager[None]):
    """Errors of the engine become the original's: a ValueError that says what failed."""

    def __init__(self, failed: str) -> None:
        self._failed = failed

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, CloacinaError):
            raise ValueError(f"{self._failed}: {error}") from error


def _request_id() -> str:
    return scope.current().request_id or scope.new_request_id()


def _given(config: DefaultRunnerConfig) -> dict[str, Any]:
    if not isinstance(config, DefaultRunnerConfig):
        raise TypeError(f"config must be a DefaultRunnerConfig, not {type(config).__name__}")
    return config.to_dict()


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()


def _end_loop(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(loop.stop)
    thread.join(_CLOSING_S)


def _listen(loop: asyncio.AbstractEventLoop, service: EmbeddedService) -> Callable[[], None]:
    """Tells the service of workflows and triggers as they become known; returns what ends it."""

    def declare(trigger: TriggerDefinition) -> None:
        with contextlib.suppress(RuntimeError):  # it ends at this moment
            loop.call_soon_threadsafe(service.declare, trigger)

    endings = (listen_for_workflows(_announce_to(loop, service)), listen_for_triggers(declare))

    def stop() -> None:
        for end in endings:
            end()

    return stop


def _announce_to(loop: asyncio.AbstractEventLoop, service: EmbeddedService) -> Callable[[str], None]:
    def announce(workflow_name: str) -> None:
        with contextlib.suppress(RuntimeError):  # it ends at this moment
            loop.call_soon_threadsafe(service.executor.registered, workflow_name)

    return announce
