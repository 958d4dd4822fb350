"""Where tasks run: on this machine, or on a cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cloacina.dispatch.pools import PoolSettings
from cloacina.errors import Unavailable
from cloacina.worker.client import WorkerForge
from cloacina.worker.hosting import Forge
from services.executor.settings import ExecutorSettings, address


@dataclass(frozen=True, slots=True)
class Backend:
    """A choice.

    Args:
        forge: makes the worker processes.
        pool_settings: limits and graces for it.
        reason: why nothing can run now; answers an empty text when it can.
    """

    forge: Forge
    pool_settings: PoolSettings
    reason: Callable[[], str]


def choose_backend(settings: ExecutorSettings, on_change: Callable[[], object]) -> Backend:
    """The backend that the settings name.

    Args:
        settings: of the executor.
        on_change: called whenever `Backend.reason` may have changed.

    Raises:
        Unavailable: what it needs is not installed.
    """
    if settings.executor_backend == "local":
        forge = WorkerForge(settings.home / "run" / f"executor-{settings.executor_rpc_port}")
        return Backend(forge, settings, lambda: "")
    try:
        from cloacina.cluster.dask import DaskCluster
        from cloacina.cluster.forge import ClusterForge
    except ImportError as error:
        raise Unavailable(
            f"CLOACINA_EXECUTOR_BACKEND=dask needs what is not installed ({error.name}): pip install 'cloacina[dask]'"
        ) from error
    cluster_forge = ClusterForge(
        DaskCluster(settings.dask_scheduler, settings.resources_of_dask),
        address(settings.dask_listen),
        address(settings.dask_advertise) if settings.dask_advertise else None,
        settings.worker_idle_s,
        on_change,
    )
    # a worker for each task, so that the cluster places and counts tasks; their processes are kept warm over there
    one_task_each = settings.model_copy(update={"worker_tasks": 1, "worker_idle_s": 0.0})
    return Backend(cluster_forge, one_task_each, lambda: cluster_forge.reason)
