"""`cloacinactl admin cleanup-events`: ages as people write them, and calls until nothing is left."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from cloacina.cli.admin import admin
from cloacina.cli.output import Printer


class Server:
    """Stands for the invocation and its client; takes three calls for the whole history."""

    tenant = "public"
    printer = Printer("json")

    def __init__(self) -> None:
        self.orders: list[dict[str, Any]] = []

    def client(self) -> Server:
        return self

    def call(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert (method, path) == ("POST", "/v1/admin/cleanup-events")
        self.orders.append(dict(body))
        return {"dry_run": body["dry_run"], "executions": 10, "events": 70, "complete": len(self.orders) == 3}


def test_it_goes_on_until_nothing_is_left_and_says_the_sum() -> None:
    server = Server()
    result = CliRunner().invoke(admin, ["cleanup-events", "--older-than", "12h", "--executions"], obj=server)
    assert result.exit_code == 0, result.output
    shown = json.loads(result.output[result.output.index("{") :])
    assert (shown["executions"], shown["events"], shown["complete"]) == (30, 210, True)
    ages = [order["older_than_s"] for order in server.orders]
    assert ages[0] == 12 * 3600
    assert ages == sorted(ages)
    assert ages[-1] < ages[0] + 60


@pytest.mark.parametrize("age", ["", "90", "d", "-1d", "1y", "1 d"])
def test_what_is_no_age_is_refused(age: str) -> None:
    server = Server()
    result = CliRunner().invoke(admin, ["cleanup-events", "--older-than", age], obj=server)
    assert (result.exit_code, server.orders) == (2, [])
    assert "such as 90d" in result.output
