"""Where server, key and tenant come from, and the configuration file that holds them."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from cloacina.cli.invocation import Invocation
from cloacina.errors import InvalidRequest, Unauthorized
from tests.cli_commands import cloacinactl


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SERVER", "API_KEY", "TENANT", "PROFILE", "HOME"):
        monkeypatch.delenv(f"CLOACINA_{name}", raising=False)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    made = [
        ("prod", "https://prod.example.com", "--api-key", "env:PROD_KEY", "--tenant", "acme", "--default"),
        ("dev", "http://127.0.0.1:9999", "--api-key", f"file:{tmp_path / 'dev-key'}"),
    ]
    for arguments in made:
        assert cloacinactl("--home", str(home), "config", "profile", "set", *arguments).code == 0
    (tmp_path / "dev-key").write_text("clk_dev\n")
    return home


def invocation(home: Path, **given: object) -> Invocation:
    made = Invocation()
    for name, value in {"home": home, **given}.items():
        made.take(name, value)
    return made


def test_the_default_profile_is_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROD_KEY", "clk_prod")
    found = invocation(home)
    assert (found.server, found.api_key(), found.tenant) == ("https://prod.example.com", "clk_prod", "acme")


def test_an_option_wins_over_a_named_profile_over_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOACINA_SERVER", "http://environment")
    monkeypatch.setenv("CLOACINA_API_KEY", "clk_environment")
    assert invocation(home).server == "http://environment"
    assert invocation(home, profile="dev").server == "http://127.0.0.1:9999"
    assert invocation(home, profile="dev").api_key() == "clk_dev"
    assert invocation(home, profile="dev", server="http://option").server == "http://option"


def test_what_is_missing_is_named(home: Path) -> None:
    with pytest.raises(InvalidRequest, match="no profile 'pord'.*there are: dev, prod"):
        invocation(home, profile="pord").server  # noqa: B018
    with pytest.raises(Unauthorized, match="the variable PROD_KEY, which is not set"):
        invocation(home).api_key()
    with pytest.raises(InvalidRequest, match="no http:// or https:// URL"):
        invocation(home, server="prod.example.com").server  # noqa: B018


def test_the_bootstrap_key_is_shown_to_no_other_machine(tmp_path: Path) -> None:
    (tmp_path / "bootstrap-key").write_text("clk_mine\n")
    assert invocation(tmp_path).api_key() == "clk_mine"
    with pytest.raises(Unauthorized, match=r"no API key for https://elsewhere\.example\.com"):
        invocation(tmp_path, server="https://elsewhere.example.com").api_key()
    assert (
        cloacinactl("--home", str(tmp_path), "--server", "https://elsewhere.example.com", "workflow", "list").code == 4
    )


def test_profiles_are_listed_used_and_deleted(home: Path) -> None:
    run = lambda *arguments: cloacinactl("--home", str(home), "config", "profile", *arguments)  # noqa: E731
    listed = run("list", "--json").json
    assert [(each["default"], each["name"], each["tenant"]) for each in listed] == [
        ("", "dev", None),
        ("*", "prod", "acme"),
    ]
    assert run("use", "dev").code == 0
    assert [each["name"] for each in run("list", "--json").json if each["default"]] == ["dev"]
    assert run("delete", "dev").code == 0
    assert [each["default"] for each in run("list", "--json").json] == [""]
    missing = run("use", "dev")
    assert (missing.code, "there are: prod" in missing.err) == (3, True)


def test_a_key_in_the_file_is_never_shown(tmp_path: Path) -> None:
    made = cloacinactl("--home", str(tmp_path), "config", "profile", "set", "x", "http://h", "--api-key", "clk_secret")
    shown = [
        cloacinactl("--home", str(tmp_path), "config", *arguments) for arguments in (["list"], ["profile", "list"])
    ]
    assert "clk_secret" not in "".join(done.out + done.err for done in (made, *shown))
    assert stat.S_IMODE((tmp_path / "config.toml").stat().st_mode) == 0o600


def test_values_are_set_with_their_kinds_and_comments_stay(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("# ours\n[daemon]\nslots = 1 # few\n")
    run = lambda *arguments: cloacinactl("--home", str(tmp_path), "config", *arguments)  # noqa: E731
    assert run("set", "daemon.slots", "8").code == 0
    assert run("set", "watch.directories", "/a, /b").code == 0
    text = (tmp_path / "config.toml").read_text()
    assert "# ours" in text
    assert "slots = 8 # few" in text
    assert run("get", "daemon.slots").out == "8\n"
    assert run("get", "watch.directories").json == ["/a", "/b"]
    assert run("get", "daemon.nothing").code == 3
    unknown = run("set", "daemon.slot", "8")
    assert (unknown.code, "did you mean 'daemon.slots'?" in unknown.err) == (1, True)
    bad = run("set", "daemon.log_level", "loud")
    assert "daemon.log_level: 'loud' is not valid" in bad.err
