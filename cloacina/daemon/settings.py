"""Settings of the daemon: options of `daemon start`, then environment variables, then `config.toml`, then defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, InitSettingsSource, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from cloacina.domain.inputs import LARGEST_CONTEXT_BYTES, MAX_CONTEXT_BYTES
from cloacina.errors import InvalidRequest
from cloacina.runtime.config_file import ConfigFile, Known

_PREFIX = "CLOACINA_"

WITHOUT_EFFECT = ("trigger_poll_interval_ms", "cron_recovery_interval_s", "cron_lost_threshold_min")
"""Keys of the original's ``[daemon]`` that tune what does not exist here: nothing polls, and no firing is ever lost."""


class SettingsError(InvalidRequest):
    """A setting has a value that cannot be used; the message names it, and where it came from."""

    default_code = "invalid_configuration"


class DaemonSettings(BaseSettings):
    """The daemon's knobs. Every field's variable is ``CLOACINA_`` and its name in capitals; in ``config.toml`` it
    stands in ``[daemon]``, and the watched folders in ``[watch]``.
    """

    model_config = SettingsConfigDict(env_prefix=_PREFIX, extra="ignore", validate_default=True, populate_by_name=True)

    home: Path = Field(Path("~/.cloacina"), description="folder of the database, packages, logs and the health socket")
    verbose: bool = Field(
        False, description="log at debug level", validation_alias=AliasChoices("verbose", "CLOACINA_VERBOSE")
    )
    watch_directories: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="folders of packages that are watched beside `<home>/packages`; in a variable separated by `:`"
    )
    log_level: Literal["trace", "debug", "info", "warn", "error"] = Field(
        "info", description="level of what neither CLOACINA_LOG nor RUST_LOG names"
    )
    log_retention_days: int = Field(14, ge=0, description="days of log files that are kept; 0 keeps all")
    shutdown_timeout_s: float = Field(30.0, ge=0, le=3600, description="seconds that running tasks have after SIGTERM")
    watcher_debounce_ms: int = Field(
        500, ge=10, le=60_000, description="milliseconds a folder must be quiet before its changes are acted on"
    )
    poll_interval_ms: int = Field(
        30_000,
        ge=100,
        le=3_600_000,
        description="milliseconds between scans of the folders, for what the file system does not tell",
    )
    health_pulse_s: float = Field(60.0, ge=1, le=86_400, description="seconds between health pulses in the log")
    cron_max_catchup: int | None = Field(
        None,
        ge=0,
        le=1000,
        description="missed firings of one schedule that are made up at most; unset for its own cap",
    )
    poll_timeout_s: float = Field(30.0, gt=0, le=3600, description="seconds a trigger's function may take")
    slots: int = Field(32, ge=1, le=4096, description="tasks that run at once")
    worker_tasks: int = Field(8, ge=1, le=1024, description="tasks that one worker process runs at once")
    worker_idle_s: float = Field(600.0, ge=1, description="seconds a worker without a task is kept warm")
    worker_memory_mb: int = Field(
        8192, ge=0, description="MiB of address space a worker process may have; 0 for no limit"
    )
    worker_start_s: float = Field(60.0, ge=1, description="seconds a worker may take to load its package")
    stop_grace_s: float = Field(
        2.0, ge=0, description="seconds a task that is to stop has, before its worker process is given up"
    )
    retire_grace_s: float = Field(
        10.0, ge=0, description="seconds the other tasks of a worker that is given up have, before it is killed"
    )
    max_context_bytes: int = Field(
        MAX_CONTEXT_BYTES, ge=1024, le=LARGEST_CONTEXT_BYTES, description="bytes of the context of an execution or task"
    )
    inspect_timeout_s: float = Field(20.0, gt=0, le=600, description="seconds that importing a package may take")
    inspect_memory_bytes: int = Field(
        2**30, ge=64 * 2**20, description="bytes of address space that importing a package may have"
    )
    inspect_parallel: int = Field(2, ge=1, le=64, description="packages that are imported at a time")
    require_signatures: bool = Field(
        False, description="whether packages are refused that no key in trusted_keys has signed"
    )
    trusted_keys: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="files of public keys whose signatures on packages count; in a variable separated by `:`"
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
    metrics_file: Path | None = Field(
        None,
        description="file that metrics are written into, for Prometheus' textfile collector, where it must end in "
        "`.prom`; none without",
    )
    metrics_interval_s: float = Field(15.0, ge=1, le=3600, description="seconds between writes of the metrics")

    @field_validator("watch_directories", "trusted_keys", mode="before")
    @classmethod
    def _split(cls, given: object) -> object:
        return tuple(filter(None, given.split(os.pathsep))) if isinstance(given, str) else given

    @field_validator("home")
    @classmethod
    def _expand(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @field_validator("metrics_file")
    @classmethod
    def _expand_one(cls, file: Path | None) -> Path | None:
        return None if file is None else file.expanduser().absolute()

    @field_validator("watch_directories", "trusted_keys")
    @classmethod
    def _expand_all(cls, folders: tuple[Path, ...]) -> tuple[Path, ...]:
        return tuple(folder.expanduser().absolute() for folder in folders)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What was given to the constructor under ``from_file`` comes last."""
        given = dict(init_settings())
        from_file = given.pop("from_file", {})
        return (
            InitSettingsSource(settings_cls, init_kwargs=given),
            env_settings,
            InitSettingsSource(settings_cls, init_kwargs=from_file),
        )

    @property
    def packages_folder(self) -> Path:
        """The folder that is always watched."""
        return self.home / "packages"

    @property
    def folders(self) -> tuple[Path, ...]:
        """Every watched folder, that of the home first, none twice."""
        return tuple(dict.fromkeys((self.packages_folder, *self.watch_directories)))


_NOT_IN_FILE = ("home", "verbose", "watch_directories", "secret_kek", "secret_kek_old")
FILE_KEYS = tuple(name for name in DaemonSettings.model_fields if name not in _NOT_IN_FILE)
"""Settings that ``[daemon]`` of the configuration file takes. Keys of secrets are none: others may see that file."""

KNOWN: Known = {
    "database_url": None,
    "default_profile": None,
    "profiles": {"*": {"server": None, "api_key": None, "tenant": None}},
    "daemon": dict.fromkeys((*FILE_KEYS, *WITHOUT_EFFECT)),
    "watch": {"directories": None},
    "server": {"default_executor": None},
    "compiler": {"local_addr": None},
}
"""Every key of the configuration file. The last two tables are the original's, and mean nothing here."""


def settings_from(home: Path, options: Mapping[str, Any]) -> tuple[DaemonSettings, list[str]]:
    """The settings as they are now.

    Args:
        home: the home folder, with the configuration file.
        options: of the command line; the folders in ``watch_directories`` come before those of the file.

    Returns:
        The settings, and what is to be told about the file: keys it does not know, and keys without effect.

    Raises:
        SettingsError, ConfigFileError: see there.
    """
    file = ConfigFile.read(home)
    from_file = {key: value for key, value in file.table("daemon").items() if key in FILE_KEYS}
    watched = file.table("watch").get("directories", [])
    if not isinstance(watched, list) or not all(isinstance(each, str) for each in watched):
        raise SettingsError(f"{file.path}: watch.directories must be a list of strings")
    try:
        settings = DaemonSettings(**{**options, "home": home}, from_file=from_file)  # type: ignore[call-arg]
    except ValidationError as error:
        raise SettingsError("; ".join(_explained(each, options, file) for each in error.errors())) from None
    folders = (*settings.watch_directories, *(Path(each).expanduser().absolute() for each in watched))
    idle = [f"{file.path}: daemon.{key} has no effect here" for key in WITHOUT_EFFECT if key in file.table("daemon")]
    return settings.model_copy(update={"watch_directories": folders}), file.unknown(KNOWN) + idle


def _explained(problem: Any, options: Mapping[str, Any], file: ConfigFile) -> str:
    name = str(problem["loc"][0]) if problem["loc"] else ""
    variable = _PREFIX + name.upper()
    if name in options:
        where = f"the option of {name}"
    elif variable in os.environ:
        where = variable
    else:
        where = f"{file.path}: daemon.{name}"
    return f"{where}: {problem.get('input')!r} is not valid: {problem['msg']}"
