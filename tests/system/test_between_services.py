"""What a caller without the token, or without a certificate of the right authority, reaches between the services:
nothing, on every method of every service. The list of methods is asked of the running services.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import cloacina.rpc.v1
from tests.certificates import Authority
from tests.system.conftest import MIXED
from tests.system.running import RunningSystem, write_package

_DEADLINE_S = 20.0
_RPC_PORTS = tuple(f"CLOACINA_{name}_RPC_PORT" for name in ("API", "SCHEDULER", "RECONCILER", "EXECUTOR"))
_REFLECTION = "grpc.reflection.v1alpha.ServerReflection"
_HEALTH = "grpc.health.v1.Health"


def _methods_of() -> dict[str, list[str]]:
    """The methods of each service of ours, as the protos have them."""
    found: dict[str, list[str]] = {}
    for module in pkgutil.iter_modules(cloacina.rpc.v1.__path__):
        if module.name.endswith("_pb2"):
            descriptor = importlib.import_module(f"cloacina.rpc.v1.{module.name}").DESCRIPTOR
            for service in descriptor.services_by_name.values():
                found[service.full_name] = [method.name for method in service.methods]
    return found


def _served(channel: grpc.Channel, token: str) -> list[str]:
    """The services behind a channel, asked of its reflection."""
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    metadata = [("authorization", f"Bearer {token}")]
    (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=_DEADLINE_S, metadata=metadata)
    return [service.name for service in answer.list_services_response.service]


def _refusal(channel: grpc.Channel, path: str, metadata: list[tuple[str, str]]) -> grpc.StatusCode:
    """How a call ends, whatever the shape of its method; it sends one empty message."""
    call = channel.stream_stream(path, lambda message: message, lambda message: message)
    with pytest.raises(grpc.RpcError) as raised:
        answers = list(call(iter([b""]), timeout=_DEADLINE_S, metadata=metadata))
        pytest.fail(f"{path} answered {answers!r}")
    return raised.value.code()


def _paths(services: list[str]) -> Iterator[str]:
    ours = _methods_of()
    for service in services:
        if service != _HEALTH:
            for method in ours.get(service, ["ServerReflectionInfo"]):
                yield f"/{service}/{method}"
    yield "/cloacina.v1.NoService/NoMethod"


def _token(system: RunningSystem) -> str:
    return (system.home / "rpc-token").read_text().strip()


def test_the_token_made_at_the_start_is_for_the_owner_only(system: RunningSystem) -> None:
    file = system.home / "rpc-token"
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(_token(system)) >= 40


def test_without_the_token_every_method_of_every_service_is_refused(system: RunningSystem) -> None:
    reached: set[str] = set()
    for variable in _RPC_PORTS:
        with grpc.insecure_channel(f"127.0.0.1:{system.ports[variable]}") as channel:
            services = _served(channel, _token(system))
            reached.update(services)
            for path in _paths(services):
                for shown in ([], [("authorization", "Bearer " + "x" * 43)], [("authorization", _token(system))]):
                    assert _refusal(channel, path, shown) is grpc.StatusCode.UNAUTHENTICATED, (path, shown)
            health = health_pb2_grpc.HealthStub(channel)
            answer = health.Check(health_pb2.HealthCheckRequest(), timeout=_DEADLINE_S)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING, "probes have no token"
    assert reached == {*_methods_of(), _HEALTH, _REFLECTION}, "every service of the protos is served, and was tried"


def test_refusals_are_counted_and_logged_without_what_was_shown(system: RunningSystem) -> None:
    path = "/cloacina.v1.SchedulerService/ListExecutions"
    secret = "not-the-token-but-perhaps-of-another-system"
    with grpc.insecure_channel(f"127.0.0.1:{system.ports['CLOACINA_SCHEDULER_RPC_PORT']}") as channel:
        for shown in ([], [("authorization", f"Bearer {secret}")]):
            _refusal(channel, path, shown)
    labels = 'code="UNAUTHENTICATED",method="ListExecutions",service="SchedulerService",side="server"'
    assert system.metric("scheduler", f"cloacina_rpc_requests_total{{{labels}}}") >= 2
    text = (system.home / "logs" / "cloacina-server.log").read_text() + system.console.read_text()
    assert "calls without the services' token were refused" in text
    assert secret not in text


# mTLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates") / "ours")


@pytest.fixture(scope="module")
def secured(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    """A system whose services show each other certificates, and whose API speaks TLS."""
    folder = tmp_path_factory.mktemp("secured")
    cert, key = authority.sign("service")
    environment = {
        "CLOACINA_TLS_CERT": str(cert),
        "CLOACINA_TLS_KEY": str(key),
        "CLOACINA_TLS_CA": str(authority.ca),
        "CLOACINA_API_TLS_CERT": str(cert),
        "CLOACINA_API_TLS_KEY": str(key),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(authority.ca))
        with RunningSystem(folder / "home", environment) as running:
            running.upload(write_package(folder, "mixed", MIXED))
            yield running


def test_services_with_certificates_work_together(secured: RunningSystem) -> None:
    assert secured.wait_for_end(secured.execute("mixed", {"name": "ada"}))["status"] == "Completed"
    assert secured.status() == "ok"


def _credentials(authority: Authority, kind: str, folder: Path) -> grpc.ChannelCredentials:
    if kind == "no certificate":
        return grpc.ssl_channel_credentials(authority.ca.read_bytes())
    other = Authority(folder / "theirs")
    cert, key = other.sign("stranger")
    trusted = authority.ca if kind == "certificate of another authority" else other.ca
    return grpc.ssl_channel_credentials(trusted.read_bytes(), key.read_bytes(), cert.read_bytes())


@pytest.mark.parametrize(
    "kind", ["plaintext", "no certificate", "certificate of another authority", "trusts another authority"]
)
def test_without_a_certificate_of_the_authority_nothing_is_reached(
    secured: RunningSystem, authority: Authority, kind: str, tmp_path: Path
) -> None:
    ours = _methods_of()
    right: Mapping[str, str] = {"authorization": f"Bearer {_token(secured)}"}
    for variable in _RPC_PORTS:
        target = f"127.0.0.1:{secured.ports[variable]}"
        if kind == "plaintext":
            channel = grpc.insecure_channel(target)
        else:
            channel = grpc.secure_channel(target, _credentials(authority, kind, tmp_path))
        with channel:
            for path in [*_paths([*ours, _REFLECTION]), f"/{_HEALTH}/Check"]:
                code = _refusal(channel, path, list(right.items()))
                assert code is grpc.StatusCode.UNAVAILABLE, (kind, path, code)


def test_with_certificates_the_token_is_still_asked_for(secured: RunningSystem, authority: Authority) -> None:
    cert, key = authority.sign("one-of-ours")
    credentials = grpc.ssl_channel_credentials(authority.ca.read_bytes(), key.read_bytes(), cert.read_bytes())
    target = f"127.0.0.1:{secured.ports['CLOACINA_SCHEDULER_RPC_PORT']}"
    with grpc.secure_channel(target, credentials) as channel:
        path = "/cloacina.v1.SchedulerService/GetStatus"
        assert _refusal(channel, path, []) is grpc.StatusCode.UNAUTHENTICATED
