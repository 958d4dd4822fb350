"""What `cloacinactl explain|logs|trace` show, and what they do not let through."""

from __future__ import annotations

from cloacina.cli.observation import _shown, _tree

LINE = {"timestamp": "2026-04-02T12:00:00.000000Z", "level": "INFO", "target": "task.flow.load", "service": "executor"}


def test_a_line_is_one_line_whatever_its_message() -> None:
    shown = _shown({**LINE, "message": "rows\n2026-04-02T12:00:01.000000Z ERROR forged \x1b[2J", "rows": 3})
    assert len(shown.splitlines()) == 1
    assert "\x1b" not in shown
    assert shown.endswith("service=executor  rows=3")


def test_a_traceback_keeps_its_lines_and_drives_no_terminal() -> None:
    shown = _shown(
        {**LINE, "message": "failed", "exception": 'Traceback:\n  File "tasks.py"\nValueError: \x1b]0;x\x07\n'}
    )
    assert shown.splitlines()[1:] == ["Traceback:", '  File "tasks.py"', "ValueError: \\x1b]0;x\\x07"]


def test_spans_are_indented_below_what_they_are_a_part_of() -> None:
    def span(name: str, parent: str | None, start: str, duration_ms: float, **more: object) -> dict[str, object]:
        given = {"span_id": name, "parent_id": parent, "name": name, "kind": "task", "start": start, "status": "ok"}
        return {**given, "duration_ms": duration_ms, "ids": {}, **more}

    begin, middle = "2026-04-02T12:00:00.000000Z", "2026-04-02T12:00:01.000000Z"
    rows = list(
        _tree(
            [
                span("whole", None, begin, 2000.0),
                span("first", "whole", begin, 1000.0),
                span("second", "whole", middle, 1000.0),
                span("try", "second", middle, 1000.0, status="error", kind="attempt", ids={"error": "boom\x1b"}),
            ]
        )
    )
    assert [row.split()[0] for row in rows] == ["whole", "first", "second", "try"]
    assert [len(row) - len(row.lstrip()) for row in rows] == [0, 2, 2, 4]
    assert [row.count("━") for row in rows] == [40, 20, 20, 20]
    assert rows[1].index("━") == rows[0].index("━")
    assert rows[2].index("━") == rows[0].index("━") + 20
    assert rows[3].endswith("error  boom\\x1b")
