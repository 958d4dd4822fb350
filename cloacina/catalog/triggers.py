"""The triggers that a package declares: refused at the upload if they could never start anything."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from cloacina.catalog.registry import Registry
from cloacina.domain.cron import CronExpression
from cloacina.packages.errors import PackageRefused
from cloacina.rpc.v1 import common_pb2

_LONGEST_INTERVAL_MS = 366 * 86_400_000


def triggers_of(declared: Iterable[Mapping[str, Any]], workflow_name: str) -> list[common_pb2.TriggerDefinition]:
    """A package's triggers as messages.

    Args:
        declared: as ``Collector.manifest()`` has them.
        workflow_name: the workflow of the package: what a trigger starts that does not say.

    Raises:
        PackageRefused: a cron expression, a time zone or an interval cannot be used.
    """
    return [_trigger(each, workflow_name) for each in declared]


def check_triggers(registry: Registry, definition: common_pb2.WorkflowDefinition) -> None:
    """Checks what depends on the tenant's other packages.

    Raises:
        PackageRefused: a trigger names a workflow that does not exist, or has the name of another package's trigger.
    """
    tenant_id = definition.tenant_id
    others = [
        each
        for each in registry.definitions()
        if each.tenant_id == tenant_id and each.package_name != definition.package_name
    ]
    workflows = {definition.workflow_name, *(each.workflow_name for each in others)}
    holders = {trigger.name: each.package_name for each in others for trigger in each.triggers}
    for trigger in definition.triggers:
        for name in trigger.workflow_names:
            if name not in workflows:
                raise PackageRefused(
                    f"trigger {trigger.name!r}: on={name!r} is no workflow of this tenant; this package holds "
                    f"{definition.workflow_name!r}. Upload the package with that workflow first, or correct the name"
                )
        if trigger.name in holders:
            raise PackageRefused(
                f"trigger {trigger.name!r}: the package {holders[trigger.name]!r} has a trigger of this name already; "
                "give this one another name"
            )


def _trigger(declared: Mapping[str, Any], workflow_name: str) -> common_pb2.TriggerDefinition:
    name, cron, timezone = declared["name"], declared["cron"], declared["timezone"] or "UTC"
    interval_ms = declared["poll_interval_ms"]
    if cron is not None:
        _check_cron(name, cron, timezone)
    elif not 1 <= interval_ms <= _LONGEST_INTERVAL_MS:
        raise PackageRefused(f"trigger {name!r}: poll_interval must be from 1 ms to 366 days, not {interval_ms} ms")
    named = [declared["on"] or workflow_name, *declared.get("also_on", ())]  # older rows have no also_on
    return common_pb2.TriggerDefinition(
        name=name,
        workflow_names=list(dict.fromkeys(named)),
        cron=cron or "",
        timezone=timezone if cron is not None else "",
        poll_interval_ms=0 if cron is not None else interval_ms,
        allow_concurrent=declared["allow_concurrent"],
        catch_up=declared.get("catch_up", "skip"),
        catch_up_cap=declared.get("catch_up_cap", 100),
    )


def _check_cron(name: str, cron: str, timezone: str) -> None:
    try:
        expression = CronExpression.parse(cron, timezone)
    except ValueError as error:
        raise PackageRefused(f"trigger {name!r}: {error}") from None
    if expression.next_after(time.time_ns() // 1000) is None:
        raise PackageRefused(f"trigger {name!r}: the cron expression {cron!r} never fires")
