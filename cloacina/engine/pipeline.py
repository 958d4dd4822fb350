"""The group commit: while one group is being written, the next is decided on the memory that the first left behind.

One group is written at a time, in the order in which groups were decided, and nothing of a group is made known before
it is durable, nor before everything of the group before it is. A group stays open while the one before it is written:
what comes meanwhile is decided at once and goes along. So an idle engine commits at once, and a busy one rarely and a
lot. When a group cannot be written, the one decided after it is void, too, and all begins again from the store.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field

from cloacina.engine.intake import MOST_OF_CLIENTS, IdempotencyKey, Intake, Request
from cloacina.engine.work import GroupWork
from cloacina.errors import CloacinaError, Unavailable
from cloacina.store.executions import Batch

_SHORTEST_BACKOFF_S = 0.05
_LONGEST_BACKOFF_S = 2.0


@dataclass(frozen=True, slots=True)
class Steps:
    """What the pipeline leaves to the engine.

    Args:
        check_owner: raises what forbids to decide anything at all.
        group: gives what to decide in at this time: the open group it is called with, or a new one.
        find_key: the stored execution that an idempotency key names.
        conclude: decides what follows from what was decided.
        commit: writes a group; what it raises makes the group void.
        publish: a group is durable: makes it known, and settles its requests.
        reset: memory is ahead of the store: refuses these requests, and begins again from the store after so many
            seconds.
    """

    check_owner: Callable[[], None]
    group: Callable[[GroupWork | None], GroupWork]
    find_key: Callable[[IdempotencyKey], Awaitable[str | None]]
    conclude: Callable[[GroupWork], None]
    commit: Callable[[GroupWork, Batch], Coroutine[None, None, None]]
    publish: Callable[[GroupWork, Sequence[Request]], None]
    reset: Callable[[BaseException, Sequence[Request], float], Awaitable[None]]


@dataclass(slots=True, eq=False)
class _Group:
    """Requests that share a commit.

    Args:
        work: what comes of them.
        requests: all of them.
        of_clients: how many are clients'.
        keys: the executions that their idempotency keys name from now on.
    """

    work: GroupWork
    requests: list[Request] = field(default_factory=list)
    of_clients: int = 0
    keys: dict[IdempotencyKey, str] = field(default_factory=dict)

    def apply(self, request: Request, taken: dict[IdempotencyKey, str]) -> None:
        """Decides one request. What the core refuses fails alone."""
        key = request.key
        if key is not None and (named := self.keys.get(key, taken.get(key))) is not None:
            request.answer = named
        else:
            try:
                request.answer = request.apply(self.work)
            except CloacinaError as error:
                request.refusal = error
                return
            if key is not None:
                self.keys[key] = str(request.answer)


class GroupCommits:
    """Decides and commits what an intake brings, until cancelled.

    Args:
        intake: where requests come from.
        steps: who decides.
        max_group: requests that one commit takes at most.
    """

    def __init__(self, intake: Intake, steps: Steps, max_group: int) -> None:
        self._intake = intake
        self._steps = steps
        self._max_group = max_group
        self._open: _Group | None = None
        self._taken: list[Request] = []
        """Out of the intake, and in no group yet."""
        self._written: _Group | None = None
        self._writing: asyncio.Task[None] | None = None
        """The commit of `_written`."""
        self._full = False
        """Whether the open group has no room for what is in the intake."""
        self._occupied = False
        """Whether `run` decides, or deals with a failure: after a commit that ends meanwhile it looks itself."""
        self._failure: Exception | None = None
        """Why what is durable could not be made known."""
        self._backoff_s = _SHORTEST_BACKOFF_S

    async def run(self) -> None:
        """Goes on until cancelled."""
        try:
            while True:
                try:
                    await self._step()
                except Exception as error:
                    await self._fail(error)
        finally:
            await self._give_up()

    async def _step(self) -> None:
        await self._something()
        self._steps.check_owner()
        self._occupied = True
        try:
            await self._decide()
        finally:
            self._occupied = False
        if self._writing is not None and self._writing.done():
            self._writing.result()
            self._settle()
        if self._failure is not None:
            raise self._failure
        if self._writing is None and self._open is not None:
            self._write(self._open)

    async def _something(self) -> None:
        """Returns once a commit has failed, or there is something to decide for which the open group has room."""
        if self._writing is not None and self._full:
            await asyncio.wait([self._writing])
            return
        await self._intake.something()
        if self._writing is not None and not self._writing.done():
            await asyncio.sleep(0)  # nothing is urgent: what comes in this turn of the loop goes along

    # Deciding

    async def _decide(self) -> None:
        there, of_clients = (0, 0) if self._open is None else (len(self._open.requests), self._open.of_clients)
        self._taken = self._intake.take(self._max_group - there, MOST_OF_CLIENTS - of_clients)
        self._full = self._intake.queued > 0
        if not self._taken:
            return
        taken = await self._taken_keys()
        if self._open is None:
            self._open = _Group(self._steps.group(None))
        else:
            self._steps.group(self._open.work)
        group, requests, self._taken = self._open, self._taken, []
        group.requests += requests
        group.of_clients += sum(1 for request in requests if request.tenant_id)
        for request in requests:
            group.apply(request, taken)
        self._steps.conclude(group.work)

    async def _taken_keys(self) -> dict[IdempotencyKey, str]:
        """The executions that the requests' keys name already: in the store, or in the group that is on its way there.
        Nobody else writes between this and the commit."""
        keys = {request.key for request in self._taken if request.key is not None}
        if not keys:
            return {}
        taken = {} if self._written is None else dict(self._written.keys)
        for key in keys - taken.keys():
            execution_id = await self._steps.find_key(key)
            if execution_id is not None:
                taken[key] = execution_id
        return taken

    # Writing

    def _write(self, group: _Group) -> None:
        """Closes the group: what is decided from now on does not change what it writes."""
        batch = group.work.batch()
        self._open, self._written, self._full = None, group, False
        self._intake.written(len(group.requests))
        self._writing = asyncio.create_task(self._see_through(group.work, batch), name="commit a group")

    async def _see_through(self, work: GroupWork, batch: Batch) -> None:
        """Commits a group and makes it known in the same turn of the loop. A decision that is under way comes first."""
        try:
            await self._steps.commit(work, batch)
        except BaseException:
            self._intake.wake()
            raise
        if self._occupied:
            self._intake.wake()
            return
        try:
            self._settle()
        except Exception as error:
            self._failure = error
            self._intake.wake()

    def _settle(self) -> None:
        """A commit has ended: the next one begins, and then this one is made known."""
        self._backoff_s = _SHORTEST_BACKOFF_S
        group, self._written, self._writing = self._written, None, None
        assert group is not None
        if self._open is not None:
            self._write(self._open)
        self._steps.publish(group.work, group.requests)

    # When it fails

    async def _fail(self, error: BaseException) -> None:
        """Of what is decided only that is true which gets to the store. What is being written ends first, one way or
        the other."""
        refused: list[Request] = []
        writing, written = self._writing, self._written
        if writing is not None and written is not None:
            self._occupied = True
            failure = (await asyncio.gather(writing, return_exceptions=True))[0]
            self._occupied = False
            if failure is None:
                with contextlib.suppress(Exception):  # everyone begins again from the store as it is
                    self._steps.publish(written.work, written.requests)
            else:
                error, refused = failure, written.requests
        refused = [*refused, *self._not_written()]
        backoff_s, self._backoff_s = self._backoff_s, min(self._backoff_s * 2, _LONGEST_BACKOFF_S)
        await self._steps.reset(error, refused, backoff_s)

    async def _give_up(self) -> None:
        refused = [] if self._written is None else self._written.requests
        writing = self._writing
        for request in (*refused, *self._not_written()):
            request.refuse(Unavailable("the scheduler stopped before this was known to be stored"))
        if writing is not None:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    def _not_written(self) -> list[Request]:
        """Forgets all groups; the requests of which nothing was written."""
        requests = [*(() if self._open is None else self._open.requests), *self._taken]
        self._open, self._written, self._writing, self._taken, self._full = None, None, None, [], False
        self._failure = None
        self._intake.written(len(requests))
        return requests
