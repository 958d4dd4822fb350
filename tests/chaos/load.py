"""The clients of the battery: they submit, ask again where they got no answer, and note what they were told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp

_ANSWER_DEADLINE_S = 10.0
_AGAIN_S = 0.1
_ASKED_TWICE = 0.05
"""Share of the requests that are sent again with their key though they were answered."""


@dataclass(slots=True)
class Told:
    """What clients were told.

    Args:
        accepted: execution ids by idempotency key, in the order of the 202s.
        sent: every key that was ever sent, with its workflow.
        contradictions: answers that contradict an earlier one, or the API's description.
        refusals: how often each status other than 202 came; 0 for no answer at all.
    """

    accepted: dict[str, str] = field(default_factory=dict)
    sent: dict[str, str] = field(default_factory=dict)
    contradictions: list[str] = field(default_factory=list)
    refusals: dict[int, int] = field(default_factory=dict)


class Load:
    """Submits executions over a few connections.

    Args:
        url: of the API.
        key: that opens it.
        seed: of what it draws.
    """

    def __init__(self, url: str, key: str, seed: int) -> None:
        self.told = Told()
        self._random = random.Random(seed)
        self._session = aiohttp.ClientSession(
            url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=aiohttp.ClientTimeout(total=_ANSWER_DEADLINE_S),
            connector=aiohttp.TCPConnector(limit=32),
        )
        self._numbers = iter(range(1, 1 << 30))

    async def close(self) -> None:
        """Hangs up."""
        await self._session.close()

    async def submit(self, executions: int, connections: int = 12) -> None:
        """Submits so many, each until it is accepted."""
        left = iter(range(executions))

        async def client() -> None:
            for _ in left:
                await self._submit_one()

        await asyncio.gather(*(client() for _ in range(connections)))

    async def _submit_one(self) -> None:
        draw = self._random.random()
        workflow = "chaos_flaky" if draw < 0.1 else "chaos_diamond"
        pause_s = self._random.uniform(0, 0.03) if draw < 0.97 else self._random.uniform(0.5, 3.0)
        await self.accepted(workflow, {"pause_s": round(pause_s, 3)})

    async def accepted(self, workflow: str, context: dict[str, Any]) -> str:
        """The id of a new execution, which is asked for until it is accepted."""
        key = f"{workflow}-{next(self._numbers)}"
        self.told.sent[key] = workflow
        for _ in self._tries():
            execution_id = await self._ask(workflow, key, context)
            if execution_id is None:
                await asyncio.sleep(_AGAIN_S)
                continue
            self.told.accepted[key] = execution_id
            if self._random.random() < _ASKED_TWICE:
                again = await self._ask(workflow, key, context)
                if again not in (None, execution_id):
                    self.told.contradictions.append(f"key {key} named {execution_id}, then {again}")
            return execution_id
        raise AssertionError("unreachable")

    def _tries(self) -> Iterator[int]:
        return iter(range(1 << 30))

    async def _ask(self, workflow: str, key: str, context: dict[str, Any]) -> str | None:
        path = f"/v1/tenants/public/workflows/{workflow}/execute"
        try:
            async with self._session.post(
                path, json={"context": {"key": key, **context}}, headers={"Idempotency-Key": key}
            ) as response:
                answer = await response.json()
        except (aiohttp.ClientError, TimeoutError, OSError):
            self._refused(0)
            return None
        if response.status == 202:
            return str(answer["execution_id"])
        self._refused(response.status)
        if response.status != 503 or "Retry-After" not in response.headers:
            self.told.contradictions.append(f"{response.status} for {key}: {answer}")
        return None

    def _refused(self, status: int) -> None:
        self.told.refusals[status] = self.told.refusals.get(status, 0) + 1

    async def ask(self, path: str, *, method: str = "GET") -> Any:
        """What the API answers; ``None`` when it does not answer 200."""
        try:
            async with self._session.request(method, path) as response:
                return await response.json() if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None
