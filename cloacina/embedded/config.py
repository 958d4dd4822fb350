"""DefaultRunnerConfig: the knobs of the embedded runner, under the original's names and with its defaults."""

from __future__ import annotations

from typing import Any, Generic, TypeVar, overload

_Value = TypeVar("_Value")


class _Knob(Generic[_Value]):
    """One setting: its default, its type and its limits; checked whenever it is set.

    Args:
        default: its value unless set.
        kind: ``int`` or ``bool``.
        least: the smallest number allowed.
        most: the largest one; ``None`` for no limit.
        optional: whether ``None`` is a value too.
        unit: follows the limit in messages, "ms" for one.
    """

    def __init__(
        self,
        default: _Value,
        kind: type,
        *,
        least: int = 0,
        most: int | None = None,
        optional: bool = False,
        unit: str = "",
    ) -> None:
        self.default = default
        self._kind = kind
        self._least = least
        self._most = most
        self._optional = optional
        self._unit = unit
        self._name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, config: None, owner: type) -> _Knob[_Value]: ...

    @overload
    def __get__(self, config: DefaultRunnerConfig, owner: type) -> _Value: ...

    def __get__(self, config: DefaultRunnerConfig | None, owner: type) -> _Knob[_Value] | _Value:
        if config is None:
            return self
        value: _Value = config._values[self._name]
        return value

    def __set__(self, config: DefaultRunnerConfig, value: _Value) -> None:
        self._check(value)
        config._values[self._name] = value

    def _check(self, value: Any) -> None:
        if value is None and self._optional:
            return
        if type(value) is not self._kind:
            raise TypeError(f"{self._name} must be {self._kind.__name__}, not {type(value).__name__}")
        if isinstance(value, int) and not isinstance(value, bool):
            self._check_number(value)

    def _check_number(self, value: int) -> None:
        if value < 0:
            raise OverflowError(f"{self._name} must not be negative, but is {value}")
        if value < self._least:
            bound = f"> {self._least - 1}" if self._least == 1 else f">= {self._least}{self._unit}"
            raise ValueError(f"Invalid configuration: {self._name} must be {bound}, not {value}")
        if self._most is not None and value > self._most:
            raise ValueError(f"Invalid configuration: {self._name} ({value}) must be <= {self._most}")


class DefaultRunnerConfig:
    """Settings of a `DefaultRunner`. What is left out, or ``None``, takes its default.

    Some settings of the original tune its polling, its connections or its search for lost work. Nothing here polls, and
    a firing and its execution are one transaction, so that none is ever lost: those settings are accepted, checked and
    shown, and change nothing. They are marked *no effect*.

    Args:
        max_concurrent_tasks: tasks that run at once (default 4; tasks that are deferred do not count).
        scheduler_poll_interval_ms: milliseconds (100); *no effect*.
        task_timeout_seconds: seconds an attempt of a task may run that sets no ``timeout_s`` itself (300).
        workflow_timeout_seconds: seconds `DefaultRunner.execute` waits before it cancels the execution (3600). The
            attribute can be set to ``None`` for no limit.
        db_pool_size: connections (10); *no effect* on SQLite, which has one writer.
        enable_recovery: take up what an earlier process left unfinished (True). Otherwise it stays as it is.
        enable_cron_scheduling: fire cron schedules and poll triggers (True).
        cron_poll_interval_seconds: seconds (30); *no effect*: the runner sleeps until the next firing is due.
        cron_max_catchup_executions: missed firings of one schedule that are made up at most (100, up to 1000).
        cron_enable_recovery: True; *no effect*.
        cron_recovery_interval_seconds: seconds (300); *no effect*.
        cron_lost_threshold_minutes: minutes (10); *no effect*.
        cron_max_recovery_age_seconds: seconds (86400); *no effect*.
        cron_max_recovery_attempts: 3; *no effect*.

    Raises:
        ValueError: a value is out of its range; the message names the setting.
        TypeError: a value has the wrong type.
        OverflowError: a value is negative.
    """

    max_concurrent_tasks = _Knob(4, int, least=1)
    scheduler_poll_interval_ms = _Knob(100, int, least=10, unit="ms")
    task_timeout_seconds = _Knob(300, int)
    workflow_timeout_seconds = _Knob[int | None](3600, int, optional=True)
    db_pool_size = _Knob(10, int, least=1)
    enable_recovery = _Knob(True, bool)
    enable_cron_scheduling = _Knob(True, bool)
    cron_poll_interval_seconds = _Knob(30, int)
    cron_max_catchup_executions = _Knob(100, int, most=1000)
    cron_enable_recovery = _Knob(True, bool)
    cron_recovery_interval_seconds = _Knob(300, int)
    cron_lost_threshold_minutes = _Knob(10, int)
    cron_max_recovery_age_seconds = _Knob(86_400, int)
    cron_max_recovery_attempts = _Knob(3, int)

    def __init__(  # noqa: PLR0917 - the original takes them in this order
        self,
        max_concurrent_tasks: int | None = None,
        scheduler_poll_interval_ms: int | None = None,
        task_timeout_seconds: int | None = None,
        workflow_timeout_seconds: int | None = None,
        db_pool_size: int | None = None,
        enable_recovery: bool | None = None,
        enable_cron_scheduling: bool | None = None,
        cron_poll_interval_seconds: int | None = None,
        cron_max_catchup_executions: int | None = None,
        cron_enable_recovery: bool | None = None,
        cron_recovery_interval_seconds: int | None = None,
        cron_lost_threshold_minutes: int | None = None,
        cron_max_recovery_age_seconds: int | None = None,
        cron_max_recovery_attempts: int | None = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name != "self" and value is not None}
        self._values: dict[str, Any] = {name: knob.default for name, knob in _knobs().items()}
        for name, value in given.items():
            setattr(self, name, value)

    @staticmethod
    def default() -> DefaultRunnerConfig:
        """Every setting at its default."""
        return DefaultRunnerConfig()

    def to_dict(self) -> dict[str, Any]:
        """The settings by name."""
        return dict(self._values)

    def __repr__(self) -> str:
        return (
            f"DefaultRunnerConfig(max_concurrent_tasks={self.max_concurrent_tasks}, "
            f"enable_cron_scheduling={self.enable_cron_scheduling}, db_pool_size={self.db_pool_size})"
        )


def _knobs() -> dict[str, _Knob[Any]]:
    return {name: knob for name, knob in vars(DefaultRunnerConfig).items() if isinstance(knob, _Knob)}
