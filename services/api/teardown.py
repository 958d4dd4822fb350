"""Removing a tenant: revoke keys → drain → unload packages → drop data. Each step is audited, may be done again,
and a removal that broke off, in whichever process, goes on by itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from cloacina.errors import CloacinaError, InvalidRequest, NotFound, Unavailable
from cloacina.rpc.errors import Unreachable
from cloacina.rpc.v1 import tenants_pb2, tenants_pb2_grpc
from cloacina.store.database import StoreConflict
from cloacina.store.identity import IdentityStore
from cloacina.telemetry import scope
from services.api import audit
from services.api.call import Principal
from services.api.upstream import Upstream

log = logging.getLogger(__name__)

PUBLIC_TENANT = "public"
_SERVICE_S = 60.0
"""Seconds a service may take for a step, beyond the grace of running executions."""
_DROP_S = 600.0
"""Seconds it may take to delete what a tenant has, which may be millions of rows."""
_RESUME_FIRST_S = 1.0
_RESUME_LONGEST_S = 60.0


@dataclass(slots=True)
class Removal:
    """What a removal has done.

    Args:
        revoked_keys: API keys that were valid.
        executions: executions that were ended or cancelled.
        packages: package versions that were unloaded.
    """

    revoked_keys: int = 0
    executions: int = 0
    packages: int = 0


class Teardown:
    """Removes tenants, each once at a time.

    Args:
        identity: the store.
        scheduler, reconciler: the services that have data of tenants.
        drain_s: seconds that running executions may go on.
    """

    def __init__(self, identity: IdentityStore, scheduler: Upstream, reconciler: Upstream, drain_s: float) -> None:
        self._identity = identity
        self._scheduler = scheduler
        self._reconciler = reconciler
        self._registry = tenants_pb2_grpc.TenantRegistryServiceStub(reconciler.client.channel)
        self._drain_s = drain_s
        self._running: dict[str, asyncio.Task[Removal]] = {}
        self._resuming: asyncio.Task[None] | None = None

    async def remove(self, name: str, actor: Principal | None) -> Removal:
        """Removes a tenant, to the end even if the caller goes away; who asks meanwhile waits for the same end.

        Args:
            name: of the tenant.
            actor: who asks; ``None`` where a removal that broke off goes on.

        Raises:
            InvalidRequest: the tenant cannot be removed.
            NotFound: there is none of this name.
            Unavailable: a service is away, or executions do not end; what was done stays done, and the rest goes on by
                itself, or is asked for again.
        """
        if name == PUBLIC_TENANT:
            raise InvalidRequest("the tenant public is there from the start and cannot be removed")
        running = self._running.get(name)
        if running is None:
            running = asyncio.create_task(self._remove(name, actor), name=f"remove tenant {name}")
            self._running[name] = running
            running.add_done_callback(lambda task: self._ended(name, task))
        return await asyncio.shield(running)

    def _ended(self, name: str, task: asyncio.Task[Removal]) -> None:
        self._running.pop(name, None)
        if not task.cancelled() and isinstance(task.exception(), CloacinaError):
            self.resume()

    async def _remove(self, name: str, actor: Principal | None) -> Removal:
        removal = Removal()
        steps: list[tuple[str, Callable[[str, Removal], Awaitable[dict[str, int]]]]] = [
            ("revoke keys", self._revoke),
            ("drain", self._drain),
            ("unload packages", self._unload),
            ("drop data", self._drop),
        ]
        with scope.bind(tenant_id=name):
            for number, (step, work) in enumerate(steps):
                if number and not await self._identity.is_being_removed(name):
                    break  # another gateway was faster; a tenant that was made since is another one
                began = time.perf_counter()
                about: dict[str, object] = {"step": step, "tenant": name}
                try:
                    done = await work(name, removal)
                except NotFound:
                    raise
                except CloacinaError as error:
                    about |= {"error": error.message, "duration_ms": _since_ms(began)}
                    audit.record("tenant removal step failed", actor, **about)
                    raise Unavailable(
                        f"the tenant is not removed yet: {error.message}; it goes on by itself, or ask again"
                    ) from error
                audit.record("tenant removal step done", actor, **about, **done, duration_ms=_since_ms(began))
        return removal

    async def _revoke(self, name: str, removal: Removal) -> dict[str, int]:
        revoked = await self._identity.begin_removal(name, time.time_ns() // 1000)
        if revoked is None:
            raise NotFound(f"there is no tenant {name!r}", code="tenant_not_found")
        removal.revoked_keys = revoked
        return {"revoked_keys": revoked}

    async def _drain(self, name: str, removal: Removal) -> dict[str, int]:
        request = tenants_pb2.DrainTenantRequest(tenant_id=name, grace_ms=int(self._drain_s * 1000))
        answers = await self._at_each_scheduler("DrainTenant", request, self._drain_s + _SERVICE_S, at_once=True)
        ended, cancelled = sum(each.ended for each in answers), sum(each.cancelled for each in answers)
        removal.executions = ended + cancelled
        return {"executions_ended": ended, "executions_cancelled": cancelled}

    async def _at_each_scheduler(self, method: str, request: Any, deadline_s: float, *, at_once: bool) -> list[Any]:
        """Every scheduler has executions of its own and its own word on who may begin some.

        One that cannot be reached is left out as long as another answers: what it had is adopted by the others, and the
        store drops nothing while anything is unfinished.
        """

        async def ask(scheduler: Upstream) -> Any:
            stub = tenants_pb2_grpc.TenantExecutionServiceStub(scheduler.client.channel)
            try:
                return await scheduler.client.call(getattr(stub, method), request, deadline_s=deadline_s)
            except CloacinaError as error:
                return error

        schedulers = self._scheduler.each()
        if at_once:
            answers = await asyncio.gather(*map(ask, schedulers))
        else:
            answers = [await ask(scheduler) for scheduler in schedulers]
        failed = [answer for answer in answers if isinstance(answer, CloacinaError)]
        answered = [answer for answer in answers if not isinstance(answer, CloacinaError)]
        serious = [error for error in failed if not isinstance(error, Unreachable)]
        if serious or not answered:
            raise (serious or failed or [Unreachable("there is no scheduler")])[0]
        return answered

    async def _unload(self, name: str, removal: Removal) -> dict[str, int]:
        request = tenants_pb2.UnloadTenantRequest(tenant_id=name)
        answer = await self._reconciler.client.call(self._registry.UnloadTenant, request, deadline_s=_SERVICE_S)
        removal.packages = answer.packages
        return {"packages": answer.packages}

    async def _drop(self, name: str, removal: Removal) -> dict[str, int]:
        request = tenants_pb2.DropTenantRequest(tenant_id=name)
        dropped = await self._at_each_scheduler("DropTenantExecutions", request, _DROP_S, at_once=False)
        registry = await self._reconciler.client.call(self._registry.DropTenantRegistry, request, deadline_s=_DROP_S)
        try:
            await self._identity.end_removal(name)
        except StoreConflict:
            log.info("another gateway has ended the removal of a tenant", extra={"tenant": name})
        return {"executions": sum(each.deleted for each in dropped), "packages_and_secrets": registry.deleted}

    def resume(self) -> None:
        """Goes on, in the background, with the removals that broke off, until there are none."""
        if self._resuming is None or self._resuming.done():
            self._resuming = asyncio.create_task(self._resume(), name="resume removals of tenants")

    async def _resume(self) -> None:
        delay = _RESUME_FIRST_S
        while True:
            try:
                names = await self._identity.being_removed()
            except CloacinaError:
                names = [""]  # it is not known: to be looked at again
            if not names:
                return
            await asyncio.sleep(delay)  # the services may be starting, too
            delay = min(delay * 2, _RESUME_LONGEST_S)
            for name in filter(None, names):
                try:
                    with scope.bind(request_id=scope.new_request_id()):
                        await self.remove(name, None)
                except CloacinaError as error:
                    log.warning("a tenant cannot be removed yet", extra={"tenant": name, "error": error.message})

    async def stop(self) -> None:
        """Breaks off what runs; the next start goes on with it."""
        tasks = [*self._running.values(), *([self._resuming] if self._resuming is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _since_ms(began: float) -> float:
    return round((time.perf_counter() - began) * 1000, 3)
