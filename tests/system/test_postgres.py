"""The same system on PostgreSQL."""

from __future__ import annotations

from pathlib import Path

from tests.postgres import PostgresServer
from tests.system.running import RunningSystem, write_package
from tests.system.test_crashes import LEASE, QUICK


def test_an_execution_completes_and_survives_the_death_of_the_scheduler(
    folder: Path, postgres_server: PostgresServer
) -> None:
    environment = {**LEASE, "CLOACINA_DATABASE_URL": postgres_server.new_database()}
    with RunningSystem(folder / "home", environment) as system:
        system.upload(write_package(folder, "quick", QUICK))
        first = system.execute("quick", {"number": 1})
        assert system.wait_for_end(first)["output"] == {"number": 1, "a": 1, "b": 2}
        acknowledged = [system.execute("quick", {"number": number}) for number in range(20)]
        system.wait_for_successor(system.kill("scheduler"), "scheduler")
        for execution_id in acknowledged:
            assert system.wait_for_end(execution_id)["status"] == "Completed"
        assert system.execution(first)["status"] == "Completed"
        assert list(system.home.glob("*.db")) == []
