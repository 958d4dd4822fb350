"""A service that a supervisor started does not live on when the supervisor is killed.

The service asks for that itself, as the first thing it does. A supervisor could ask for it between fork and exec
(``preexec_fn``), but what runs there may wait for ever for a lock that a thread held at the fork, and the supervisor
waits with it, for the exec.
"""

from __future__ import annotations

import os
import signal

from cloacina.worker.confinement import die_with_parent

PARENT_PID = "_CLOACINA_PARENT_PID"
"""The environment variable in which a supervisor says who it is."""


def end_with_parent() -> None:
    """Has the kernel tell this process to drain when its supervisor ends, however it ends; where that has happened by
    now, the process ends at once. Does nothing without a supervisor."""
    parent = os.environ.pop(PARENT_PID, "")
    if parent.isdigit():
        die_with_parent(int(parent), signal.SIGTERM)
