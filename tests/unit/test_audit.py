"""The audit of the lock fails for what is vulnerable, and only for that."""

from __future__ import annotations

import pytest

from tests.scripts import load_script


def test_what_is_vulnerable_fails(capsys: pytest.CaptureFixture[str]) -> None:
    found = [
        {"name": "good", "version": "1.0", "vulns": []},
        {"name": "bad", "version": "2.0", "vulns": [{"id": "CVE-2026-1", "fix_versions": ["2.1"]}]},
        {"name": "unknown", "skip_reason": "not found"},
    ]
    assert load_script("audit").judge(found) == 1
    assert "bad 2.0: CVE-2026-1, fixed in 2.1" in capsys.readouterr().out


def test_what_cannot_be_looked_at_is_said_and_does_not_fail(capsys: pytest.CaptureFixture[str]) -> None:
    assert load_script("audit").judge([{"name": "unknown", "skip_reason": "not found"}]) == 0
    assert "NOT audited" in capsys.readouterr().err


def test_what_is_clean_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert load_script("audit").judge([{"name": "good", "version": "1.0", "vulns": []}]) == 0
    assert "1 packages in requirements.lock, none known" in capsys.readouterr().out
