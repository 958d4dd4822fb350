"""The engine in the caller's process: `DefaultRunner` runs workflows without a server, on the same core and store."""

from cloacina.embedded.config import DefaultRunnerConfig
from cloacina.embedded.result import WorkflowResult
from cloacina.embedded.runner import DefaultRunner
from cloacina.embedded.tenants import DatabaseAdmin, TenantConfig, TenantCredentials

__all__ = [
    "DatabaseAdmin",
    "DefaultRunner",
    "DefaultRunnerConfig",
    "TenantConfig",
    "TenantCredentials",
    "WorkflowResult",
]
