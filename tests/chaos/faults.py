"""The faults: each strikes, holds and heals, and says what it did."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import psutil

from tests.chaos.stage import LEASE_S, Stage

Strike = Callable[[Stage, random.Random], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault.

    Args:
        name: what it is called.
        victim: what it strikes; two faults of one victim do not strike together.
        strike: strikes, holds, heals; returns a few words.
    """

    name: str
    victim: str
    strike: Strike


def _kill(service: str) -> Fault:
    async def strike(stage: Stage, draw: random.Random) -> str:
        process = await stage.process(service)
        await asyncio.sleep(draw.uniform(0, 0.5))  # somewhere in what it is doing
        with contextlib.suppress(psutil.Error):
            process.kill()
        return f"pid {process.pid}"

    return Fault(f"kill -9 {service}", service, strike)


def _freeze(service: str) -> Fault:
    async def strike(stage: Stage, draw: random.Random) -> str:
        process = await stage.process(service)
        seconds = LEASE_S + draw.uniform(0.2, 1.5)
        with contextlib.suppress(psutil.Error):
            process.suspend()
            try:
                await asyncio.sleep(seconds)
            finally:
                process.resume()
        return f"for {seconds:.1f} s"

    return Fault(f"SIGSTOP {service}", service, strike)


async def _kill_worker(stage: Stage, draw: random.Random) -> str:
    (server,) = (await stage.process("executor")).children()[:1] or [None]
    workers = [] if server is None else server.children()
    if not workers:
        return "there was none"
    worker = draw.choice(sorted(workers, key=lambda process: process.pid))
    with contextlib.suppress(psutil.Error):
        worker.kill()
    return f"pid {worker.pid}"


async def _kill_fork_server(stage: Stage, draw: random.Random) -> str:
    children = (await stage.process("executor")).children()
    for child in children[:1]:
        with contextlib.suppress(psutil.Error):
            child.kill()
    return f"{len(children)} there"


def _drop(which: str) -> Fault:
    async def strike(stage: Stage, draw: random.Random) -> str:
        proxy = stage.proxies[which]
        await asyncio.sleep(draw.uniform(0, 0.5))
        return f"{proxy.drop()} connections"

    return Fault(f"drop connections of the {which}", which, strike)


def _refuse(which: str) -> Fault:
    async def strike(stage: Stage, draw: random.Random) -> str:
        proxy, seconds = stage.proxies[which], draw.uniform(0.5, LEASE_S + 1)
        proxy.refusing = True
        proxy.drop()
        try:
            await asyncio.sleep(seconds)
        finally:
            proxy.refusing = False
        return f"for {seconds:.1f} s"

    return Fault(f"refuse connections to the {which}", which, strike)


def _swallow(which: str) -> Fault:
    async def strike(stage: Stage, draw: random.Random) -> str:
        proxy, seconds = stage.proxies[which], draw.uniform(0.5, LEASE_S + 1)
        proxy.swallow()
        try:
            await asyncio.sleep(seconds)
        finally:
            proxy.flow()
        return f"for {seconds:.1f} s"

    return Fault(f"swallow packets of the {which}", which, strike)


async def _slow_executor(stage: Stage, draw: random.Random) -> str:
    """Heartbeats and results come later than the lease allows, in order and whole."""
    proxies = [stage.proxies[name] for name in stage.schedulers]
    delay_s = LEASE_S + draw.uniform(0.2, 0.8)
    for proxy in proxies:
        proxy.delay_s = delay_s
    try:
        await asyncio.sleep(2 * LEASE_S)
    finally:
        for proxy in proxies:
            proxy.delay_s = 0.0
    return f"packets {delay_s:.1f} s late"


async def _fill_disk(stage: Stage, draw: random.Random) -> str:
    assert stage.disk is not None
    seconds = draw.uniform(0.5, 2.0)
    try:
        await asyncio.to_thread(stage.disk.fill)
        await asyncio.sleep(seconds)
    finally:
        await asyncio.to_thread(stage.disk.free)
    if stage.postgres is not None:
        await _revive_postgres(stage)
    return f"for {seconds:.1f} s"


async def _restart_postgres(stage: Stage, draw: random.Random) -> str:
    assert stage.postgres is not None
    mode = draw.choice(("fast", "immediate"))
    with contextlib.suppress(AssertionError):  # it may have ended by itself, of another fault
        await asyncio.to_thread(stage.postgres.stop, mode)
    await asyncio.sleep(draw.uniform(0, 1))
    await _revive_postgres(stage)
    return mode


async def _revive_postgres(stage: Stage) -> None:
    """A server that ended (a full disk ends it, too) is started again, as its service manager would."""
    postgres = stage.postgres
    assert postgres is not None
    for _ in range(5):
        try:
            await asyncio.to_thread(postgres.query, "SELECT 1")
        except AssertionError:
            with contextlib.suppress(AssertionError):
                await asyncio.to_thread(postgres.start)
        else:
            return


async def _freeze_postgres(stage: Stage, draw: random.Random) -> str:
    assert stage.postgres is not None
    seconds = draw.uniform(0.5, LEASE_S + 1)
    with contextlib.suppress(psutil.Error, OSError), stage.postgres.frozen():  # it may be down, of another fault
        await asyncio.sleep(seconds)
    return f"for {seconds:.1f} s"


async def _jump(stage: Stage, draw: random.Random) -> str:
    assert stage.clock is not None
    before, after = stage.clock.offset_s, round(draw.uniform(-20.0, 20.0), 3)
    stage.clock.set(after)
    await asyncio.sleep(0.5)
    return f"by {after - before:+.1f} s"


def faults_on(stage: Stage) -> list[Fault]:
    """Every fault that can strike there."""
    schedulers = stage.schedulers
    found = [
        *(_kill(service) for service in ("api", *schedulers, *schedulers, "reconciler", "executor", "further")),
        *(_freeze(service) for service in (*schedulers, "executor", "further", "api", "reconciler")),
        Fault("kill -9 a worker", "executor", _kill_worker),
        Fault("kill -9 the fork server", "executor", _kill_fork_server),
        Fault("executors slower than their lease", "scheduler link", _slow_executor),
        *(_drop(which) for which in (*schedulers, *schedulers, "reconciler")),
        *(_refuse(which) for which in (*schedulers, "reconciler")),
        *(_swallow(which) for which in (*schedulers, "reconciler")),
    ]
    if stage.disk is not None:
        found += [Fault("disk full", "store", _fill_disk)] * 2
    if stage.clock is not None:
        found += [Fault("clock jump", "clock", _jump)] * 2
    if stage.postgres is not None:
        found += [
            *[Fault("PostgreSQL restarted", "store", _restart_postgres)] * 3,
            Fault("PostgreSQL frozen", "store", _freeze_postgres),
            _drop("postgres"),
            _swallow("postgres"),
        ]
    return found


def draw_round(faults: list[Fault], draw: random.Random, most: int) -> list[Fault]:
    """Faults that strike together: one to three, each with a victim of its own.

    Args:
        faults: what there is.
        draw: draws.
        most: no more than that.
    """
    chosen: list[Fault] = []
    for _ in range(min(most, draw.choice((1, 1, 2, 2, 3)))):
        free = [fault for fault in faults if fault.victim not in {other.victim for other in chosen}]
        chosen.append(draw.choice(free))
    return chosen
