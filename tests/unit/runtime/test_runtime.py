"""What every service process has: its settings, and ``/metrics`` and ``/health`` beside gRPC."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Counter

from cloacina.rpc.server import ListenError
from cloacina.runtime.metrics_server import MetricsServer
from cloacina.runtime.rpc_token import ensure_token, token_file
from cloacina.runtime.settings import ServiceSettings, settings_from
from tests.certificates import Authority


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("CLOACINA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CLOACINA_HOME", str(tmp_path / "home"))


def _settings(*arguments: str) -> ServiceSettings:
    return settings_from(ServiceSettings, arguments, "cloacina-test")


def test_an_option_wins_over_its_variable_and_that_over_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _settings().grace_s == 30.0
    monkeypatch.setenv("CLOACINA_GRACE_S", "5")
    assert _settings().grace_s == 5.0
    assert _settings("--grace-s", "7").grace_s == 7.0


@pytest.mark.parametrize("arguments", [["-v"], ["--verbose"]])
def test_verbose_has_its_shortcut(arguments: list[str]) -> None:
    assert _settings().verbose is False
    assert _settings(*arguments).verbose is True


@pytest.mark.parametrize(("name", "value"), [("GRACE_S", "soon"), ("GRACE_S", "-1"), ("LOG_RETENTION_DAYS", "-1")])
def test_a_bad_value_ends_the_process_with_the_variable_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setenv(f"CLOACINA_{name}", value)
    with pytest.raises(SystemExit) as raised:
        _settings()
    assert raised.value.code == 2
    assert f"CLOACINA_{name}='{value}' is not valid" in capsys.readouterr().err


def test_certificates_are_set_together_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLOACINA_TLS_CERT", "/x.pem")
    with pytest.raises(SystemExit):
        _settings()
    assert "CLOACINA_TLS_KEY" in capsys.readouterr().err


def test_the_help_shows_every_knob(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        _settings("--help")
    assert raised.value.code == 0
    shown = capsys.readouterr().out
    for name in ServiceSettings.model_fields:
        assert f"--{name.replace('_', '-')}" in shown


def test_the_token_is_the_setting_else_the_file_in_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _settings()
    assert settings.token is None
    settings.make_home()
    assert settings.home.stat().st_mode & 0o077 == 0
    (settings.home / "rpc-token").write_text("from-file\n")
    assert settings.token == "from-file"
    monkeypatch.setenv("CLOACINA_RPC_TOKEN", "from-the-variable")
    assert _settings().token == "from-the-variable"
    assert "from-the-variable" not in repr(_settings())


@pytest.mark.parametrize("token", ["short", " sixteen characters", "sixteen-characters\n", "sechzehn-Zeichen-für-alle"])
def test_a_token_that_is_too_short_or_no_metadata_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], token: str
) -> None:
    monkeypatch.setenv("CLOACINA_RPC_TOKEN", token)
    with pytest.raises(SystemExit):
        _settings()
    said = capsys.readouterr().err
    assert "CLOACINA_RPC_TOKEN is not valid" in said
    assert "16 characters" in said
    assert token.strip() not in said


def test_the_token_of_a_home_folder_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    home = tmp_path / "new"
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ensure_token, [home] * 8))
    made = token_file(home).read_text()
    assert len(made.strip()) >= 40
    assert token_file(home).stat().st_mode & 0o777 == 0o600
    assert [file.name for file in home.iterdir()] == ["rpc-token"]
    ensure_token(home)
    assert token_file(home).read_text() == made


@pytest.mark.parametrize("broken", ["CERT", "KEY", "CA"])
@pytest.mark.parametrize("how", ["missing", "no PEM", "of another"])
def test_certificates_that_cannot_be_used_are_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, broken: str, how: str
) -> None:
    authority = Authority(tmp_path / "authority")
    cert, key = authority.sign("service")
    files = {"CERT": cert, "KEY": key, "CA": authority.ca}
    for name, file in files.items():
        monkeypatch.setenv(f"CLOACINA_TLS_{name}", str(file))
    assert _settings().tls is not None
    if how == "missing":
        files[broken].unlink()
    elif how == "no PEM":
        files[broken].write_text("nothing")
    elif broken == "CA":
        return  # whose it is shows when a peer connects
    else:
        other = Authority(tmp_path / "other").sign("service")
        files[broken].write_bytes(other[broken == "KEY"].read_bytes())
    with pytest.raises(SystemExit):
        _settings()
    assert f"CLOACINA_TLS_{broken}" in capsys.readouterr().err


def test_a_store_is_a_file_in_the_home_folder_unless_a_database_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _settings()
    assert settings.store_url("scheduler") == f"sqlite://{settings.home}/scheduler.db"
    assert settings.shown_database == f"sqlite in {settings.home}"
    url = "postgresql://ada:hunter2@db.example:5432/cloacina?password=hunter3"
    monkeypatch.setenv("CLOACINA_DATABASE_URL", url)
    assert _settings().store_url("scheduler") == url
    assert _settings().shown_database == "postgresql at db.example:5432/cloacina"
    assert "hunter" not in repr(_settings())


def test_one_sqlite_file_for_all_stores_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each store has a file of its own; one URL for all of them would mix them."""
    monkeypatch.setenv("CLOACINA_DATABASE_URL", "sqlite:///elsewhere.db")
    with pytest.raises(SystemExit):
        _settings()
    assert "CLOACINA_DATABASE_URL" in capsys.readouterr().err


@pytest.fixture
async def address() -> AsyncIterator[str]:
    registry = CollectorRegistry()
    Counter("jobs_total", "Jobs.", registry=registry).inc(exemplar={"trace_id": "a" * 32})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = MetricsServer("scheduler", registry, "127.0.0.1", port)
    await server.start()
    yield f"http://127.0.0.1:{port}"
    await server.stop()


@pytest.mark.parametrize(
    ("accept", "content_type", "exemplars"),
    [
        ("*/*", "text/plain; version=0.0.4; charset=utf-8", False),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text; version=1.0.0", True),
    ],
)
async def test_metrics_are_served_in_the_format_asked_for(
    address: str, accept: str, content_type: str, exemplars: bool
) -> None:
    async with (
        aiohttp.ClientSession() as client,
        client.get(f"{address}/metrics", headers={"Accept": accept}) as response,
    ):
        assert response.status == 200
        assert response.headers["Content-Type"].startswith(content_type)
        assert ("trace_id" in await response.text()) is exemplars


@pytest.mark.parametrize(("path", "status"), [("/health", 200), ("/metrics", 200), ("/absent", 404)])
async def test_every_answer_has_a_request_id_and_no_version(address: str, path: str, status: int) -> None:
    async with aiohttp.ClientSession() as client:
        async with client.get(f"{address}{path}", headers={"x-request-id": "mine"}) as response:
            assert (response.status, response.headers["x-request-id"]) == (status, "mine")
            assert response.headers["Server"] == "cloacina", "no version of what it is made of"
        async with client.get(f"{address}{path}", headers={"x-request-id": "not valid"}) as response:
            assert len(response.headers["x-request-id"]) == 36


async def test_a_busy_metrics_port_names_itself_and_the_setting(address: str) -> None:
    port = int(address.rsplit(":", 1)[1])
    with pytest.raises(ListenError) as raised:
        await MetricsServer("scheduler", CollectorRegistry(), "127.0.0.1", port).start()
    for part in (f"127.0.0.1:{port}", "in use", "CLOACINA_SCHEDULER_METRICS_PORT"):
        assert part in raised.value.message
