"""A backup made while the system works, put back elsewhere: what was durable is there, and goes on."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from tests.cli_commands import cloacinactl
from tests.postgres import PostgresServer
from tests.system.running import RunningSystem, wait_until, write_package

pytestmark = pytest.mark.xdist_group("backup")

QUICKLY = {"CLOACINA_GRACE_S": "0.2", "CLOACINA_LEASE_S": "2", "CLOACINA_HEARTBEAT_S": "0.5"}
"""The end of a system does not wait for its tasks, and the next one not long for its executor."""

WAITING = """
import pathlib
import time

import cloaca

@cloaca.task(id="first")
def first(context):
    context.set("first", "done")
    return context

@cloaca.task(id="hold", dependencies=["first"])
def hold(context):
    while not pathlib.Path(context["release"]).exists():
        time.sleep(0.02)
    context.set("held", True)
    return context
"""


def begin(system: RunningSystem, folder: Path) -> tuple[str, str]:
    """An execution that ended, and one that waits in its second task."""
    system.upload(write_package(folder, "waiting", WAITING))
    (folder / "before").touch()
    ended = system.execute("waiting", {"release": str(folder / "before")})
    assert system.wait_for_end(ended, 60)["status"] == "Completed"
    waiting = system.execute("waiting", {"release": str(folder / "after")})
    wait_until(lambda: system.tasks(waiting)["hold"]["status"] == "Running", "the second task", 60)
    return ended, waiting


def goes_on(system: RunningSystem, folder: Path, ended: str, waiting: str) -> None:
    """Everything that was there is there, what was unfinished ends, and what is new works."""
    assert system.execution(ended)["output"]["held"] is True
    assert system.execution(waiting)["status"] == "Running"
    (folder / "after").touch()
    found = system.wait_for_end(waiting, 60)
    assert (found["status"], found["output"]["first"]) == ("Completed", "done")
    assert [event for event in system.events(waiting) if event == ("task_completed", "first")] == [
        ("task_completed", "first")
    ]
    assert system.wait_for_end(system.execute("waiting", {"release": str(folder / "after")}), 60)["output"]["held"]


def test_sqlite(tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    with RunningSystem(tmp_path / "home", QUICKLY) as system:
        ended, waiting = begin(system, tmp_path)
        made = cloacinactl("--home", str(system.home), "server", "backup", str(backup), "--json")
        assert made.code == 0, made.err
        assert {"scheduler.db", "registry.db", "identity.db", "bootstrap-key", "rpc-token"} <= set(made.json["files"])
        refused = cloacinactl("--home", str(system.home), "server", "restore", str(backup), "--force")
        assert "a server runs on" in refused.err
        system.execute("waiting", {"release": str(tmp_path / "before")})  # after the backup: it will not be there
    assert {stat.S_IMODE(path.stat().st_mode) for path in backup.iterdir()} == {0o600}
    put = cloacinactl("--home", str(tmp_path / "other"), "server", "restore", str(backup), "--json")
    assert put.code == 0, put.err
    with RunningSystem(tmp_path / "other", QUICKLY) as restored:
        goes_on(restored, tmp_path, ended, waiting)
        listed = restored.client.call("GET", "/v1/tenants/public/executions")
        assert listed["total"] == 3


def test_what_is_no_whole_backup_is_refused(tmp_path: Path) -> None:
    home, backup = tmp_path / "home", tmp_path / "backup"
    run = lambda *arguments: cloacinactl("--home", str(home), "server", *arguments)  # noqa: E731
    assert "holds no database" in run("backup", str(backup)).err
    home.mkdir(exist_ok=True)
    import sqlite3

    sqlite3.connect(home / "scheduler.db").executescript("CREATE TABLE t (x); INSERT INTO t VALUES (1)")
    assert run("backup", str(backup)).code == 0
    assert "is there already" in run("backup", str(backup)).err
    assert "has data already" in run("restore", str(backup)).err
    moved = run("restore", str(backup), "--force", "--json").json["moved"]
    assert (Path(moved) / "scheduler.db").exists()
    assert sqlite3.connect(home / "scheduler.db").execute("SELECT x FROM t").fetchall() == [(1,)]
    (backup / "scheduler.db").write_bytes(b"other")
    assert "scheduler.db was changed" in run("restore", str(backup), "--force").err
    (backup / "backup.json").write_text(json.dumps({"files": {"../x": ""}}))
    assert run("restore", str(backup), "--force").code == 1


def all_tenants(url: str) -> str:
    """For a session that row-level security shows the rows of all tenants."""
    return f"{url}?options=-c%20cloacina.tenant_id%3D%2A"


def test_postgresql(tmp_path: Path, postgres_server: PostgresServer) -> None:
    url, copy = postgres_server.new_database(), postgres_server.new_database()
    dump = tmp_path / "cloacina.dump"
    with RunningSystem(tmp_path / "home", {**QUICKLY, "CLOACINA_DATABASE_URL": url}) as system:
        ended, waiting = begin(system, tmp_path)
        postgres_server.client(
            "pg_dump", "--enable-row-security", "--format=custom", f"--file={dump}", all_tenants(url)
        )
        keys = {name: (system.home / name).read_text() for name in ("bootstrap-key", "rpc-token")}
    restored_to = f"--dbname={all_tenants(copy)}"
    postgres_server.client(
        "pg_restore", "--no-owner", "--enable-row-security", "--exit-on-error", restored_to, str(dump)
    )
    (tmp_path / "other").mkdir(mode=0o700)
    for name, text in keys.items():
        (tmp_path / "other" / name).write_text(text)
    with RunningSystem(tmp_path / "other", {**QUICKLY, "CLOACINA_DATABASE_URL": copy}) as restored:
        goes_on(restored, tmp_path, ended, waiting)
