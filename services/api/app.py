"""The gateway put together: the route table, what handlers work with, and the HTTP server around them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web
from prometheus_client import CollectorRegistry

from cloacina.rpc.v1 import common_pb2
from cloacina.runtime.cpu_latency import CpuLatency
from cloacina.store.identity import IdentityStore
from services.api.admission import Admission
from services.api.auth import Authenticator
from services.api.delivery import Deliveries
from services.api.http_server import HttpServer
from services.api.log_reader import LogReader
from services.api.metrics import ApiMetrics
from services.api.middleware import Edge, answer_malformed
from services.api.openapi import openapi_document
from services.api.people import People
from services.api.quotas import QuotaKeeper
from services.api.reference_page import reference_page
from services.api.routes import ALL_ROUTES
from services.api.routing import Router
from services.api.settings import GatewaySettings
from services.api.teardown import Teardown
from services.api.tickets import Tickets
from services.api.upstream import Finisher, Readiness, Upstream


@dataclass(slots=True)
class Gateway:
    """What handlers work with.

    Args:
        settings: the knobs.
        identity: tenants and keys.
        auth: who calls.
        tickets: what opens WebSockets.
        deliveries: the open WebSockets.
        people: accounts and sessions.
        quotas: what tenants may use.
        teardown: removes tenants.
        scheduler, reconciler, instances, executors: the services behind.
        readiness: whether requests can be answered.
        metrics: what requests are measured in.
        registry: what ``/metrics`` shows.
        logs: the log files of this machine.
        own_status: the gateway's own state.
        cpu_latency: told when there is something to do.
        finisher: calls that outlive their client.
        router: the route table.
        openapi: the document that describes it, as JSON.
        reference_page: the same for people, as HTML.
    """

    settings: GatewaySettings
    identity: IdentityStore
    auth: Authenticator
    tickets: Tickets
    deliveries: Deliveries
    people: People
    quotas: QuotaKeeper
    teardown: Teardown
    scheduler: Upstream
    reconciler: Upstream
    instances: Upstream
    executors: tuple[Upstream, ...]
    readiness: Readiness
    metrics: ApiMetrics
    registry: CollectorRegistry
    logs: LogReader
    own_status: Callable[[], common_pb2.ServiceStatus]
    cpu_latency: CpuLatency
    finisher: Finisher = field(default_factory=Finisher)
    router: Router = field(default_factory=lambda: Router(ALL_ROUTES))
    openapi: bytes = field(default_factory=lambda: openapi_document(ALL_ROUTES))
    reference_page: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.reference_page = reference_page(self.openapi)

    async def status(self) -> common_pb2.ServiceStatus:
        """The gateway's own state, and whether it can answer requests."""
        status = self.own_status()
        status.reason = await self.readiness.reason()
        status.ready = not status.reason
        return status


def create_server(gateway: Gateway) -> tuple[HttpServer, Edge]:
    """The HTTP server of a gateway, not listening yet, and the edge that counts what is in flight."""
    settings = gateway.settings
    admission = Admission(
        settings.api_max_in_flight, settings.tenant_share, lambda: gateway.finisher.abandoned, gateway.metrics
    )
    edge = Edge(gateway, admission)

    def malformed(request: web.BaseRequest, error: BaseException | None) -> web.StreamResponse:
        return answer_malformed(request, gateway, error)

    server = HttpServer(
        edge,
        malformed,
        settings.host,
        settings.api_port,
        keepalive_s=settings.api_keepalive_s,
        drain_s=settings.grace_s,
        tls=settings.server_tls(),
    )
    return server, edge
