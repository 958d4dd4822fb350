"""Settings of the reconciler."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from cloacina.packages.archive import MAX_ARCHIVE_BYTES
from cloacina.runtime.settings import ServiceSettings


class ReconcilerSettings(ServiceSettings):
    """The reconciler's knobs, beside those of every service."""

    reconciler_rpc_port: int = Field(9202, ge=0, le=65535, description="port of its gRPC server")
    reconciler_metrics_port: int = Field(9102, ge=0, le=65535, description="port of GET /metrics")
    inspect_timeout_s: float = Field(20.0, gt=0, le=600, description="seconds that importing a package may take")
    inspect_memory_bytes: int = Field(
        2**30, ge=64 * 2**20, description="bytes of address space that importing a package may have"
    )
    inspect_parallel: int = Field(2, ge=1, le=64, description="packages that are extracted and imported at a time")
    max_upload_bytes: int = Field(
        MAX_ARCHIVE_BYTES, ge=1, le=MAX_ARCHIVE_BYTES, description="bytes an uploaded archive may have"
    )
    max_uploads: int = Field(16, ge=1, description="uploads that may be under way; more are refused with 503")
    upload_idle_s: float = Field(
        30.0, gt=0, le=3600, description="seconds an upload may wait for its next part before it is given up"
    )
    require_signatures: bool = Field(
        False, description="whether packages are refused that no key which their tenant trusts has signed"
    )
    acknowledge_s: float = Field(
        1.0, ge=0, le=60, description="seconds an upload waits at most for those who watch the registry to follow"
    )
    secret_kek: str = Field(
        "",
        description="key that secrets are encrypted with, base64 or hex of 32 bytes; without one there are no secrets",
        repr=False,
    )
    secret_kek_file: Path | None = Field(None, description="file that holds the key, instead of secret_kek")
    secret_kek_old: str = Field(
        "",
        description="former keys, comma-separated: at the start, what they wrap is put under the current one",
        repr=False,
    )
