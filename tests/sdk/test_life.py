"""The SDK of the original server, from PyPI, lives a whole life against a system started as a user starts it."""

from __future__ import annotations

import base64
from importlib.metadata import version
from pathlib import Path

import pytest

from cloacina.cli.client import read_bootstrap_key
from tests.system.running import RunningSystem

pytest.register_assert_rewrite("tests.sdk.life")
from tests.sdk.life import Life  # noqa: E402

KEK = base64.b64encode(bytes(range(32))).decode()


@pytest.mark.system
def test_every_method_of_the_sdk(tmp_path: Path) -> None:
    assert version("cloacina-client") == "0.12.0"
    with RunningSystem(tmp_path / "home", {"CLOACINA_SECRET_KEK": KEK}) as system:
        Life(system.url, read_bootstrap_key(system.home)).live()
