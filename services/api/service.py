"""The gateway service: its life, and the little gRPC it serves itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cloacina.rpc.balanced import BalancedClient
from cloacina.rpc.client import RpcClient
from cloacina.rpc.log_lines import to_scheduler
from cloacina.rpc.v1 import common_pb2, gateway_pb2, gateway_pb2_grpc
from cloacina.runtime.service import Runtime
from cloacina.runtime.tenant_wall import warn_where_open
from cloacina.store.accounts import AccountStore
from cloacina.store.database import Database, open_database
from cloacina.store.identity import IdentityStore
from cloacina.telemetry.execution_lines import ExecutionLines
from cloacina.telemetry.metrics import StoreMetrics
from services.api.allowances import RequestAllowances
from services.api.app import Gateway, create_server
from services.api.auth import Authenticator
from services.api.delivery import Deliveries, DeliveryMetrics
from services.api.http_server import HttpServer
from services.api.identity_metrics import IdentityMetrics
from services.api.keys import ensure_bootstrap_key
from services.api.log_reader import LogReader, changes_an_execution
from services.api.metrics import ApiMetrics
from services.api.middleware import Edge
from services.api.people import People
from services.api.quotas import QuotaKeeper
from services.api.settings import GatewaySettings
from services.api.teardown import Teardown
from services.api.tickets import Tickets
from services.api.upstream import Readiness, executor_at, instances_at, reconciler_at, scheduler_at


class GatewayService:
    """The service: its store, its HTTP server, its clients.

    Args:
        settings: its knobs.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._database: Database | None = None
        self._clients: list[RpcClient] = []
        self._balanced: list[BalancedClient] = []
        self._gateway: Gateway | None = None
        self._http: HttpServer | None = None
        self._edge: Edge | None = None
        self._lines: ExecutionLines | None = None
        self.http_port = 0

    async def start(self, runtime: Runtime) -> Mapping[str, object]:
        settings = self._settings
        url = settings.store_url("identity")
        self._database = open_database(url, "identity", metrics=StoreMetrics(runtime.registry, "identity"))
        await self._database.open()
        await warn_where_open(self._database)
        identity = IdentityStore(self._database)
        await ensure_bootstrap_key(identity, settings.home, settings.bootstrap_key)
        self._gateway = self._assemble(runtime, identity, AccountStore(self._database))
        self._gateway.teardown.resume()
        for balanced in self._balanced:
            await balanced.start()
        hand_on = to_scheduler(self._gateway.scheduler.client)
        self._lines = ExecutionLines("api", hand_on, runtime.registry, changes_an_execution)
        self._lines.start()
        self._http, self._edge = create_server(self._gateway)
        self.http_port = await self._http.start()
        runtime.server.add(
            gateway_pb2_grpc.add_GatewayServiceServicer_to_server,
            _Handlers(self._gateway),
            gateway_pb2.DESCRIPTOR.services_by_name["GatewayService"].full_name,
        )
        return {"http_port": self.http_port, "host": settings.host, "database": settings.shown_database}

    def _assemble(self, runtime: Runtime, identity: IdentityStore, accounts: AccountStore) -> Gateway:
        settings = self._settings
        metrics = IdentityMetrics(runtime.registry)
        auth = Authenticator(identity, settings.api_auth_cache_s, metrics=metrics)
        scheduler = scheduler_at(
            self._balance(runtime, settings.scheduler_target, "scheduler"), settings.scheduler_target
        )
        reconciler = reconciler_at(
            self._balance(runtime, settings.reconciler_target, "reconciler"), settings.reconciler_target
        )
        executors = tuple(
            executor_at(self._connect(runtime, target, "executor"), target) for target in settings.executor_targets
        )

        def own_status() -> common_pb2.ServiceStatus:
            in_flight = self._edge.in_flight if self._edge is not None else 0
            websockets = len(self._gateway.deliveries) if self._gateway is not None else 0
            return runtime.status(
                "", {"in_flight": in_flight, "cached_keys": auth.cached_keys, "websockets": websockets}
            )

        return Gateway(
            settings=settings,
            identity=identity,
            auth=auth,
            tickets=Tickets(identity, auth),
            deliveries=Deliveries(
                DeliveryMetrics(runtime.registry),
                max_connections=settings.api_ws_max_connections,
                window=settings.api_ws_window,
                stall_s=settings.api_ws_stall_s,
                recheck_s=max(settings.api_auth_cache_s, 0.1),
            ),
            people=People.assemble(accounts, settings, metrics),
            quotas=QuotaKeeper(settings, metrics, RequestAllowances(identity)),
            teardown=Teardown(identity, scheduler, reconciler, settings.api_tenant_drain_s),
            scheduler=scheduler,
            reconciler=reconciler,
            instances=instances_at(scheduler.client, settings.scheduler_target),
            executors=executors,
            readiness=Readiness(identity, (scheduler, reconciler)),
            metrics=ApiMetrics(runtime.registry),
            registry=runtime.registry,
            logs=LogReader(settings.home),
            own_status=own_status,
            cpu_latency=runtime.cpu_latency,
        )

    def _balance(self, runtime: Runtime, targets: str, service: str) -> BalancedClient:
        client = BalancedClient(
            targets,
            lambda place: runtime.connect(place.address, service, host=place.host),
            service=service,
            deadline_s=self._settings.api_rpc_deadline_s,
        )
        self._balanced.append(client)
        return client

    def _connect(self, runtime: Runtime, target: str, service: str) -> RpcClient:
        client = runtime.connect(target, service)
        self._clients.append(client)
        return client

    async def drain(self) -> None:
        if self._gateway is not None:
            self._gateway.deliveries.close_all()
        if self._http is not None:
            await self._http.drain()
        if self._gateway is not None:
            await self._gateway.finisher.drain()

    async def stop(self) -> None:
        if self._http is not None:
            await self._http.drain()
        if self._gateway is not None:
            await self._gateway.teardown.stop()
            self._gateway.people.passwords.close()
            await self._gateway.people.oidc.close()
        if self._lines is not None:
            await self._lines.stop()
        for balanced in self._balanced:
            await balanced.close()
        for client in self._clients:
            await client.close()
        if self._database is not None:
            await self._database.close()


class _Handlers(gateway_pb2_grpc.GatewayServiceServicer):
    """Handlers of GatewayService."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def GetStatus(self, request: Any, context: Any) -> common_pb2.ServiceStatus:
        return await self._gateway.status()
