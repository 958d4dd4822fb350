"""Order of the tests: the fast ones first, those that start whole systems last."""

from __future__ import annotations

import hypothesis
import pytest

# a machine that does other work, too, must not make an example too slow
hypothesis.settings.register_profile("cloacina", deadline=None)
hypothesis.settings.load_profile("cloacina")

_FAST = ("unit", "store", "packages", "api", "reconciler", "embedded")
_ORDER = (*_FAST, "daemon", "deploy", "system", "seed", "sdk", "hostile", "chaos")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says why a test was run once more: what passes then is still to be looked into."""
    for report in terminalreporter.getreports("rerun"):
        terminalreporter.section(f"first run of {report.nodeid} ({report.when})", yellow=True)
        terminalreporter.write_line(report.longreprtext[-20_000:])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        if item.get_closest_marker("longest"):
            return -1  # it takes longer than all others together, beside it
        parts = item.path.parts
        return next((index for index, name in enumerate(_ORDER) if name in parts), 0)

    items.sort(key=place)
    for item in items:
        if {"system", "seed"} & set(item.path.parts):
            item.add_marker(pytest.mark.system)
