"""The triggers of packages: part of the definition, and refused when they could start nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloacina.errors import InvalidRequest
from tests.packages.archives import TASKS

from .conftest import Stand, Start, archive

_CRON = (
    '\n@cloaca.trigger(name="{name}", on="{on}", cron="0 3 * * *", timezone="Europe/Berlin")\ndef fire():\n    pass\n'
)


def with_trigger(declaration: str = _CRON, *, name: str = "nightly", on: str = "demo") -> str:
    """The code of a package with a trigger."""
    return TASKS.decode() + declaration.format(name=name, on=on)


async def test_a_definition_has_the_triggers_of_its_package(stand: Stand, tmp_path: Path, start: Start) -> None:
    code = with_trigger() + (
        '\n@cloaca.trigger(poll_interval="2s", allow_concurrent=True)\ndef polled():\n    pass\n'
        '\n@cloaca.trigger(on=["demo", "demo"])\ndef twice():\n    pass\n'
    )
    watching = stand.watch()
    assert (await watching.next()).snapshot
    await stand.upload(archive(tmp_path, tasks=code))
    changes = await watching.next()
    assert not changes.more
    nightly, polled, twice = changes.upserted[0].triggers
    assert (nightly.name, list(nightly.workflow_names), nightly.cron, nightly.timezone, nightly.poll_interval_ms) == (
        "nightly",
        ["demo"],
        "0 3 * * *",
        "Europe/Berlin",
        0,
    )
    assert (polled.name, list(polled.workflow_names), polled.cron, polled.poll_interval_ms) == (
        "polled",
        ["demo"],
        "",
        2000,
    )
    assert (polled.allow_concurrent, nightly.allow_concurrent) == (True, False)
    assert (list(twice.workflow_names), twice.poll_interval_ms) == (["demo"], 30_000)
    watching.stop()


@pytest.mark.parametrize(
    ("declaration", "said"),
    [
        (
            '\n@cloaca.trigger(on="demo", cron="* *")\ndef fire():\n    pass\n',
            "trigger 'fire': a cron expression has 5",
        ),
        (
            '\n@cloaca.trigger(on="demo", cron="@daily", timezone="Mars/Base")\ndef fire():\n    pass\n',
            "Mars/Base",
        ),
        ('\n@cloaca.trigger(on="demo", cron="0 0 31 4 *")\ndef fire():\n    pass\n', "'0 0 31 4 *' never fires"),
        ('\n@cloaca.trigger(poll_interval="9000h")\ndef fire():\n    pass\n', "from 1 ms to 366 days"),
        (_CRON * 2, "declares these triggers more than once: 'nightly'"),
        (_CRON.replace("{on}", "elsewhere"), "on='elsewhere' is no workflow of this tenant; this package holds 'demo'"),
    ],
)
async def test_one_that_could_start_nothing_is_refused(
    stand: Stand, tmp_path: Path, declaration: str, said: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await stand.upload(archive(tmp_path, tasks=with_trigger(declaration)))
    assert refused.value.code == "upload_failed"
    assert said in refused.value.message
    assert await stand.packages() == []


async def test_a_trigger_may_start_the_workflow_of_another_package(stand: Stand, tmp_path: Path) -> None:
    await stand.upload(archive(tmp_path, name="other"))
    await stand.upload(archive(tmp_path, tasks=with_trigger(on="other")))
    with pytest.raises(InvalidRequest, match="no workflow of this tenant"):
        await stand.upload(archive(tmp_path, tasks=with_trigger(on="other")), tenant_id="acme")


async def test_a_name_belongs_to_one_package_of_a_tenant_in_all_its_versions(stand: Stand, tmp_path: Path) -> None:
    await stand.upload(archive(tmp_path, tasks=with_trigger()))
    await stand.upload(archive(tmp_path, version="2.0", tasks=with_trigger()))
    other = archive(tmp_path, name="other", tasks=with_trigger(on="other"))
    with pytest.raises(InvalidRequest, match="the package 'demo' has a trigger of this name already"):
        await stand.upload(other)
    await stand.upload(other, tenant_id="acme")
    await stand.delete("demo", "2.0")
    await stand.delete("demo", "1.0")
    await stand.upload(other)
