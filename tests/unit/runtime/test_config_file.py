"""The configuration file: what it does not know is said, what it cannot read is an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloacina.daemon.settings import KNOWN, SettingsError, settings_from
from cloacina.runtime.config_file import ConfigFile, ConfigFileError


def write(home: Path, text: str) -> Path:
    (home / "config.toml").write_text(text)
    return home


def test_no_file_is_an_empty_one(tmp_path: Path) -> None:
    assert ConfigFile.read(tmp_path).document == {}
    assert ConfigFile.read(tmp_path).unknown(KNOWN) == []


def test_unknown_keys_are_named_with_the_nearest(tmp_path: Path) -> None:
    write(
        tmp_path,
        'databse_url = "x"\n[daemon]\nslots = 1\n[profiles.dev]\nserver = "s"\napi_kye = "k"\n[zebra]\nx = 1\n'
        "[watch.directories]\nx = 1\n",
    )
    path = tmp_path / "config.toml"
    assert ConfigFile.read(tmp_path).unknown(KNOWN) == [
        f"{path}: unknown key 'databse_url'; did you mean 'database_url'?",
        f"{path}: unknown key 'profiles.dev.api_kye'; did you mean 'profiles.dev.api_key'?",
        f"{path}: unknown key 'zebra'; it takes compiler, daemon, database_url, default_profile, profiles, server, "
        "watch",
        f"{path}: 'watch.directories' must be a value, not a table",
    ]


def test_what_is_no_toml_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    write(tmp_path, "[daemon]\nslots = = 3\n")
    with pytest.raises(ConfigFileError, match=r"config\.toml is not TOML: .*line 2"):
        ConfigFile.read(tmp_path)


def test_options_win_over_variables_which_win_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, '[daemon]\nslots = 1\nworker_tasks = 2\npoll_timeout_s = 3\n[watch]\ndirectories = ["/b", "~/c"]\n')
    monkeypatch.setenv("CLOACINA_SLOTS", "10")
    monkeypatch.setenv("CLOACINA_WORKER_TASKS", "20")
    settings, told = settings_from(tmp_path, {"slots": 100, "watch_directories": (Path("/a"),)})
    assert (settings.slots, settings.worker_tasks, settings.poll_timeout_s) == (100, 20, 3.0)
    assert settings.folders == (tmp_path / "packages", Path("/a"), Path("/b"), Path("~/c").expanduser())
    assert told == []


def test_keys_of_the_original_that_tune_nothing_here_are_told(tmp_path: Path) -> None:
    write(tmp_path, "[daemon]\ntrigger_poll_interval_ms = 1000\ncron_max_catchup = 3\n")
    settings, told = settings_from(tmp_path, {})
    assert settings.cron_max_catchup == 3
    assert told == [f"{tmp_path / 'config.toml'}: daemon.trigger_poll_interval_ms has no effect here"]


def test_a_bad_value_says_where_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, '[daemon]\nlog_level = "loud"\n')
    monkeypatch.setenv("CLOACINA_SLOTS", "none")
    with pytest.raises(SettingsError) as refused:
        settings_from(tmp_path, {})
    assert "CLOACINA_SLOTS: 'none' is not valid" in refused.value.message
    assert "config.toml: daemon.log_level: 'loud' is not valid" in refused.value.message
