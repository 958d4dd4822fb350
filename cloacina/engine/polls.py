"""The polls of triggers that are under way: at most one a schedule, each with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from cloacina.engine.model import Session
from cloacina.telemetry import tracing


@dataclass(slots=True, eq=False)
class Poll:
    """A poll that was sent out.

    Args:
        poll_id: its number.
        schedule_id: of the trigger.
        request_id: its own.
        span: "trigger poll".
        session: the way to the executor that has it.
        answered: its answer has come, and is being dealt with.
    """

    poll_id: int
    schedule_id: str
    request_id: str
    span: tracing.Span
    session: Session
    deadline: asyncio.TimerHandle | None = None
    answered: bool = False


class Polls:
    """All polls under way.

    Args:
        patience_s: seconds for which an answer is waited for.
        on_silence: called with a poll that got none; it removes it.
    """

    def __init__(self, patience_s: float, on_silence: Callable[[Poll], None]) -> None:
        self._patience_s = patience_s
        self._on_silence = on_silence
        self._by_id: dict[int, Poll] = {}
        self._by_schedule: dict[str, Poll] = {}

    def add(self, poll: Poll) -> None:
        """A poll was sent out."""
        poll.deadline = asyncio.get_running_loop().call_later(self._patience_s, self._on_silence, poll)
        self._by_id[poll.poll_id] = poll
        self._by_schedule[poll.schedule_id] = poll

    def of(self, schedule_id: str) -> Poll | None:
        """The poll of a schedule."""
        return self._by_schedule.get(schedule_id)

    def answer(self, poll_id: int) -> Poll | None:
        """The poll that an answer is for; it stays under way until `remove`. ``None`` when it is too late."""
        poll = self._by_id.get(poll_id)
        if poll is None or poll.answered:
            return None
        poll.answered = True
        if poll.deadline is not None:
            poll.deadline.cancel()
        return poll

    def remove(self, poll: Poll) -> None:
        """It is under way no more."""
        if self._by_id.pop(poll.poll_id, None) is None:
            return
        if poll.deadline is not None:
            poll.deadline.cancel()
        if self._by_schedule.get(poll.schedule_id) is poll:
            del self._by_schedule[poll.schedule_id]
        poll.span.end()

    def clear(self) -> None:
        """Forgets all of them."""
        for poll in list(self._by_id.values()):
            self.remove(poll)
