"""The reconciler service: gRPC handlers around the registry."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

from cloacina.catalog.registry import Registry
from cloacina.errors import CloacinaError, NotFound
from cloacina.rpc.options import CHUNK_BYTES
from cloacina.rpc.refusals import until_stopped
from cloacina.rpc.v1 import (
    common_pb2,
    reconciler_pb2,
    reconciler_pb2_grpc,
    secrets_pb2,
    secrets_pb2_grpc,
    tenants_pb2,
    tenants_pb2_grpc,
    trust_pb2,
    trust_pb2_grpc,
)
from cloacina.runtime.metrics_server import MetricsServer
from cloacina.runtime.service import Runtime
from cloacina.runtime.tenant_wall import warn_where_open
from cloacina.secrets.envelope import keyring_from
from cloacina.secrets.vault import Vault
from cloacina.store.database import Database, open_database
from cloacina.store.registry import RegistryStore
from cloacina.store.secrets import SecretStore
from cloacina.store.signing_keys import SigningKeyStore
from cloacina.store.tenant_data import TenantRegistry
from cloacina.telemetry import scope
from cloacina.telemetry.metrics import StoreMetrics
from services.reconciler.messages import package_of
from services.reconciler.metrics import ReconcilerMetrics
from services.reconciler.packages import Packages
from services.reconciler.secrets import SecretHandlers, Secrets
from services.reconciler.settings import ReconcilerSettings
from services.reconciler.tenants import TenantHandlers
from services.reconciler.trust import Trust, TrustHandlers
from services.reconciler.watchers import Watchers

log = logging.getLogger(__name__)

_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


class Reconciler:
    """The service: its store, its registry, its handlers.

    Args:
        settings: its knobs.
    """

    def __init__(self, settings: ReconcilerSettings) -> None:
        self._settings = settings
        self._database: Database | None = None
        self._packages: Packages | None = None
        self._watchers: Watchers | None = None
        self._metrics_server: MetricsServer | None = None

    async def start(self, runtime: Runtime) -> Mapping[str, object]:
        settings = self._settings
        keyring = keyring_from(settings)
        url = settings.store_url("registry")
        database = open_database(url, "registry", metrics=StoreMetrics(runtime.registry, "registry"), exclusive=True)
        self._database = database
        await database.open()
        await warn_where_open(database)
        store, registry = RegistryStore(database), Registry()
        self._watchers = Watchers(registry)
        metrics = ReconcilerMetrics(
            runtime.registry,
            {
                "loaded": lambda: registry.count(loaded=True),
                "failed": lambda: registry.count(loaded=False),
                "loading": lambda: len(registry.loading),
            },
            lambda: registry.count_paused,
        )
        trust = Trust(SigningKeyStore(database), required=settings.require_signatures, metrics=metrics)
        await trust.start()
        self._packages = Packages(settings, store, registry, self._watchers, metrics, trust=trust)
        await self._packages.start()
        self._metrics_server = MetricsServer(
            "reconciler", runtime.registry, settings.host, settings.reconciler_metrics_port
        )
        await self._metrics_server.start()
        runtime.server.add(
            reconciler_pb2_grpc.add_ReconcilerServiceServicer_to_server,
            Handlers(runtime, store, registry, self._watchers, self._packages, trust=trust),
            reconciler_pb2.DESCRIPTOR.services_by_name["ReconcilerService"].full_name,
        )
        vault = Vault(SecretStore(database), keyring, "set CLOACINA_SECRET_KEK of the reconciler")
        await vault.start()
        secrets = Secrets(vault, store, metrics)
        runtime.server.add(
            secrets_pb2_grpc.add_SecretServiceServicer_to_server,
            SecretHandlers(secrets, protected=settings.token is not None or settings.tls is not None),
            secrets_pb2.DESCRIPTOR.services_by_name["SecretService"].full_name,
        )
        runtime.server.add(
            trust_pb2_grpc.add_TrustServiceServicer_to_server,
            TrustHandlers(trust),
            trust_pb2.DESCRIPTOR.services_by_name["TrustService"].full_name,
        )
        runtime.server.add(
            tenants_pb2_grpc.add_TenantRegistryServiceServicer_to_server,
            TenantHandlers(self._packages, TenantRegistry(database)),
            tenants_pb2.DESCRIPTOR.services_by_name["TenantRegistryService"].full_name,
        )
        return {
            "metrics_port": settings.reconciler_metrics_port,
            "database": settings.shown_database,
            "require_signatures": settings.require_signatures,
        }

    async def drain(self) -> None:
        if self._packages is not None:
            await self._packages.drain()
        if self._watchers is not None:
            self._watchers.close()

    async def stop(self) -> None:
        if self._watchers is not None:
            self._watchers.close()
        if self._packages is not None:
            await self._packages.stop()
        if self._metrics_server is not None:
            await self._metrics_server.stop()
        if self._database is not None:
            await self._database.close()


class Handlers(reconciler_pb2_grpc.ReconcilerServiceServicer):
    """Handlers of ReconcilerService: they translate; `Packages` acts and the registry knows."""

    def __init__(
        self,
        runtime: Runtime,
        store: RegistryStore,
        registry: Registry,
        watchers: Watchers,
        packages: Packages,
        *,
        trust: Trust,
    ) -> None:
        self._runtime = runtime
        self._store = store
        self._registry = registry
        self._watchers = watchers
        self._packages = packages
        self._trust = trust

    async def UploadPackage(self, request: Any, context: Any) -> reconciler_pb2.UploadPackageResponse:
        requests = aiter(request)
        try:
            package_id, created = await self._packages.upload(requests)
        except CloacinaError:
            await until_stopped(requests, context)
            raise
        return reconciler_pb2.UploadPackageResponse(package_id=package_id, created=created)

    async def ListPackages(self, request: Any, context: Any) -> reconciler_pb2.ListPackagesResponse:
        packages = self._registry.packages(request.tenant_id)
        return reconciler_pb2.ListPackagesResponse(
            packages=[package_of(each.row, each.definition, self._trust.shown(each.row)) for each in packages]
        )

    async def GetPackage(self, request: Any, context: Any) -> reconciler_pb2.Package:
        found = self._registry.find(request.tenant_id, request.name)
        if found is None:
            raise _no_workflow(request.name)
        return package_of(found.row, found.definition, self._trust.shown(found.row))

    async def DeletePackage(self, request: Any, context: Any) -> reconciler_pb2.DeletePackageResponse:
        with scope.bind(tenant_id=request.tenant_id):
            package_id = await self._packages.delete(request.tenant_id, request.package_name, request.version)
        return reconciler_pb2.DeletePackageResponse(package_id=package_id)

    async def GetWorkflow(self, request: Any, context: Any) -> common_pb2.WorkflowDefinition:
        definition = self._registry.definition((request.tenant_id, request.workflow_name))
        if definition is None:
            raise _no_workflow(request.workflow_name)
        return definition

    async def WatchWorkflows(self, request: Any, context: Any) -> AsyncIterator[reconciler_pb2.WorkflowChanges]:
        changes = self._watchers.follow(request)
        try:
            async for each in changes:
                yield each
        finally:
            await changes.aclose()  # type: ignore[attr-defined]

    async def FetchArtifact(self, request: Any, context: Any) -> AsyncIterator[reconciler_pb2.ArtifactChunk]:
        size = 0
        if _DIGEST.match(request.digest):
            async for part in self._store.read_artifact(request.digest):
                size += len(part)
                for start in range(0, len(part), CHUNK_BYTES):
                    yield reconciler_pb2.ArtifactChunk(data=part[start : start + CHUNK_BYTES])
        if size == 0:
            raise NotFound(f"there is no package archive with the digest {request.digest[:64]!r}")
        log.info("package sent to an executor", extra={"package_digest": request.digest, "size_bytes": size})

    async def SetWorkflowPaused(self, request: Any, context: Any) -> reconciler_pb2.SetWorkflowPausedResponse:
        found, changed = await self._packages.set_paused(request.tenant_id, request.name, request.paused)
        return reconciler_pb2.SetWorkflowPausedResponse(
            package_id=found.row.package_id, workflow_name=found.row.workflow_name, changed=changed
        )

    async def GetSource(self, request: Any, context: Any) -> reconciler_pb2.GetSourceResponse:
        found, source = await self._packages.source(request.tenant_id, request.name)
        return reconciler_pb2.GetSourceResponse(
            package_id=found.row.package_id,
            package_name=found.row.package_name,
            workflow_name=found.row.workflow_name,
            version=found.row.version,
            files=[reconciler_pb2.SourceFile(path=path, contents=text) for path, text in source.files],
            omitted=source.omitted,
        )

    async def GetStatus(self, request: Any, context: Any) -> common_pb2.ServiceStatus:
        figures = {
            "packages_loaded": self._registry.count(loaded=True),
            "packages_failed": self._registry.count(loaded=False),
            "packages_loading": self._packages.loading,
            "packages_waiting": self._packages.waiting,
            "last_loaded_at": self._registry.newest_at,
            "last_refused_at": self._packages.refused_at,
            "workflows": len(self._registry.definitions()),
            "workflows_paused": self._registry.count_paused,
            "watchers": len(self._watchers),
            "revision": self._registry.revision,
        }
        return self._runtime.status("", figures)


def _no_workflow(name: str) -> NotFound:
    return NotFound(f"there is no workflow {name[:128]!r}", code="workflow_not_found")
