"""gRPC and the processes that ours start."""

from __future__ import annotations

import os


def leave_forks_alone() -> None:
    """Tells gRPC that whoever forks here runs another program at once. To be called before `grpc` is imported.

    Else its handlers start threads in the child again, between fork and exec, which now and then end it by SIGSEGV, and
    print to its error output (GRPC_ENABLE_FORK_SUPPORT in gRPC's list of environment variables). Who sets the variable
    has the last word.
    """
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
