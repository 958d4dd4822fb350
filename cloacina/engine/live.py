"""The unfinished executions in memory: how many of each tenant, about how many bytes, and whether there is room."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from cloacina.engine.model import Live
from cloacina.errors import Unavailable

_EXECUTION_BYTES = 2048
_TASK_BYTES = 768
"""What an execution, and each task of it, takes beside its contexts; measured, rounded up."""


class LiveExecutions(dict[str, Live]):
    """By id. What is put in and taken out is counted, so the counts cannot drift from the content.

    Args:
        most: executions that may be unfinished.
        most_bytes: bytes that they may hold.
        tenant_share: share of either that one tenant may take.
    """

    def __init__(self, most: int, most_bytes: int, tenant_share: float) -> None:
        super().__init__()
        self._most = most
        self._most_bytes = most_bytes
        self._tenant_share = tenant_share
        self._sizes: dict[str, int] = {}
        self._tenants: Counter[str] = Counter()
        self._tenant_bytes: Counter[str] = Counter()
        self.bytes = 0

    @property
    def tasks_running(self) -> int:
        """Tasks that executors hold."""
        return sum(live.state.running for live in self.values())

    def count(self, tenant_id: str) -> int:
        """How many a tenant has."""
        return self._tenants[tenant_id]

    def of_tenant(self, tenant_id: str) -> list[str]:
        """The ids of a tenant's."""
        return [live.execution_id for live in self.values() if live.tenant_id == tenant_id]

    def check_room(self, executions: int = 1, tenant_id: str = "", size: int = 0) -> None:
        """Whether further executions may begin.

        Args:
            executions: how many.
            tenant_id: whose; empty when not only one tenant's.
            size: bytes of their contexts.

        Raises:
            Unavailable: they may not, now.
        """
        most, share = self._most, self._tenant_share
        if len(self) + executions > most:
            raise _full(f"{len(self)} executions are unfinished")
        if self and self.bytes + size > self._most_bytes:
            raise _full(f"unfinished executions hold {self.bytes >> 20} MiB")
        own, held = self._tenants[tenant_id], self._tenant_bytes[tenant_id]
        if own and own + executions > math.ceil(most * share):
            raise _full(f"{own} executions of this tenant are unfinished")
        if own and held + size > self._most_bytes * share:
            raise _full(f"unfinished executions of this tenant hold {held >> 20} MiB")

    def grow(self, execution_id: str, size: int) -> None:
        """An execution holds so many bytes more."""
        if execution_id in self._sizes:
            self._sizes[execution_id] += size
            self._tenant_bytes[self[execution_id].tenant_id] += size
            self.bytes += size

    def __setitem__(self, execution_id: str, live: Live) -> None:
        self._forget(execution_id)
        super().__setitem__(execution_id, live)
        state = live.state
        size = _EXECUTION_BYTES + len(state.input) + _TASK_BYTES * len(state.tasks)
        size += sum(len(task.output) for task in state.tasks.values() if task.output is not None)
        self._sizes[execution_id] = size
        self._tenants[live.tenant_id] += 1
        self._tenant_bytes[live.tenant_id] += size
        self.bytes += size

    def __delitem__(self, execution_id: str) -> None:
        self._forget(execution_id)
        super().__delitem__(execution_id)

    def pop(self, execution_id: str, *default: Any) -> Any:
        """As of any dict."""
        self._forget(execution_id)
        return super().pop(execution_id, *default)

    def clear(self) -> None:
        """Forgets all."""
        super().clear()
        self._sizes.clear()
        self._tenants.clear()
        self._tenant_bytes.clear()
        self.bytes = 0

    def _forget(self, execution_id: str) -> None:
        size = self._sizes.pop(execution_id, None)
        if size is None:
            return
        tenant_id = self[execution_id].tenant_id
        self.bytes -= size
        self._tenant_bytes[tenant_id] -= size
        self._tenants[tenant_id] -= 1
        if not self._tenants[tenant_id]:
            del self._tenants[tenant_id], self._tenant_bytes[tenant_id]


def _full(text: str) -> Unavailable:
    return Unavailable(f"{text}; try again when some have ended")
