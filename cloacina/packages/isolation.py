"""Walls of the kernel around the import of a package: no network, no files but its own, no hand on other processes.

Three of them, each put up where the machine allows it, and each enough against most of what code can try: a network
namespace with nothing in it; Landlock, which leaves few files to read and one folder to write to; and a seccomp filter,
after which system calls for sockets and other processes fail. None of them needs privileges, none can be taken down
again, and all hold for what the process starts. Where none can be had, an audit hook refuses sockets to Python code;
code that wants to get around that can.

The standard library only: the process that imports a package has nothing else yet.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum

_libc = ctypes.CDLL(None, use_errno=True)


class Wall(StrEnum):
    """What was put up."""

    NETWORK_NAMESPACE = "network namespace"
    LANDLOCK = "landlock"
    SECCOMP = "seccomp"
    AUDIT_HOOK = "audit hook"


class _Refused(Exception):
    """This machine does not have it."""


def isolate(readable: Iterable[str], writable: Iterable[str]) -> list[Wall]:
    """Puts up what can be put up, around this process and all that it starts. Before any thread is started.

    Args:
        readable: files and folders that it may read, beside Python's own and the system's.
        writable: folders that it may also write to.

    Returns:
        What stands now.
    """
    standing = []
    for wall, put_up in (
        (Wall.NETWORK_NAMESPACE, _leave_the_network),
        (Wall.LANDLOCK, lambda: _restrict_files([*_SYSTEM, *_python(), *readable], [*_DEVICES, *writable])),
        (Wall.SECCOMP, _filter_system_calls),
    ):
        try:
            put_up()
        except (_Refused, OSError):
            continue
        standing.append(wall)
    _drop_capabilities()
    if Wall.SECCOMP not in standing and Wall.NETWORK_NAMESPACE not in standing:
        sys.addaudithook(_no_sockets)
        standing.append(Wall.AUDIT_HOOK)
    return standing


def _no_sockets(event: str, _: tuple[object, ...]) -> None:
    if event.startswith("socket.") and event not in ("socket.gethostname", "socket.sethostname"):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


# A network namespace

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000


def _leave_the_network() -> None:
    """A network namespace of its own, whose only interface is down. Without privileges, by way of a user namespace."""
    if _libc.unshare(_CLONE_NEWNET) == 0:
        return
    user, group = os.geteuid(), os.getegid()
    _check(_libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET))
    with contextlib.suppress(OSError):  # where the maps cannot be written, the process only looks like nobody
        for name, text in (("uid_map", f"{user} {user} 1"), ("setgroups", "deny"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)


# Landlock

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the numbers are those of every architecture
_VERSION = 1
_PATH_BENEATH = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE = 1 << 14
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
_SINCE_2, _SINCE_3, _SINCE_5 = 1 << 13, 1 << 14, 1 << 15
_ALL_OF_1 = (1 << 13) - 1
_BIND_TCP, _CONNECT_TCP = 1 << 0, 1 << 1
_ABSTRACT_SOCKETS, _SIGNALS = 1 << 0, 1 << 1

_SYSTEM = (
    *("/usr", "/lib", "/lib64", "/bin", "/sbin", "/proc", "/sys"),
    *("/etc/alternatives", "/etc/fonts", "/etc/group", "/etc/hosts", "/etc/ld.so.cache", "/etc/ld.so.conf"),
    *("/etc/ld.so.conf.d", "/etc/localtime", "/etc/magic", "/etc/mime.types", "/etc/nsswitch.conf", "/etc/os-release"),
    *("/etc/passwd", "/etc/pki", "/etc/protocols", "/etc/resolv.conf", "/etc/services", "/etc/ssl", "/etc/timezone"),
)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")


def _python() -> list[str]:
    """Where the interpreter and what is installed for it are."""
    return [*sys.path, sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, os.path.realpath(sys.prefix)]


def _restrict_files(readable: Sequence[str], writable: Sequence[str]) -> None:
    version = _libc.syscall(_CREATE_RULESET, None, 0, _VERSION)
    if version < 1:
        raise _Refused
    every = _ALL_OF_1 | (_SINCE_2 if version >= 2 else 0) | (_SINCE_3 if version >= 3 else 0)
    every |= _SINCE_5 if version >= 5 else 0
    handled = struct.pack("=QQQ", every, _BIND_TCP | _CONNECT_TCP, _ABSTRACT_SOCKETS | _SIGNALS)
    known = 8 if version < 4 else 16 if version < 6 else 24
    rules = _check(_libc.syscall(_CREATE_RULESET, handled[:known], ctypes.c_size_t(known), 0))
    try:
        for path in readable:
            _allow(rules, path, _READ)
        for path in writable:
            _allow(rules, path, every)
        _no_new_privileges()
        _check(_libc.syscall(_RESTRICT_SELF, rules, 0))
    finally:
        os.close(rules)


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not os.path.isdir(path):
            rights &= _OF_FILES
        _check(_libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, struct.pack("=Qi", rights, place), 0))
    finally:
        os.close(place)


# seccomp

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 38, 22
_MODE_FILTER = 2
_ALLOW = 0x7FFF0000
_DENY = 0x00050000 | errno.EPERM
_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND = 0, 4, 16, 24  # where the kernel puts what a filter looks at
_X32 = 0x40000000
_CAPABILITIES_3 = 0x20080522
_SOCK_STREAM, _TYPE_MASK = 1, 0xF

_MACHINES = {
    # audit number; socketpair, kill, tgkill, prlimit64; what is denied outright
    "x86_64": (0xC000003E, 53, 62, 234, 302),
    "aarch64": (0xC00000B7, 199, 129, 131, 261),
}
_DENIED = {
    "x86_64": (
        *(41, 42, 49, 50),  # socket, connect, bind, listen
        *(101, 310, 311, 312),  # ptrace, process_vm_readv, process_vm_writev, kcmp
        *(129, 200, 297),  # rt_sigqueueinfo, tkill, rt_tgsigqueueinfo
        *(155, 161, 165, 166, 167, 169),  # pivot_root, chroot, mount, umount2, swapon, reboot
        *(175, 246, 248, 249, 250, 313, 320),  # modules, kexec, keyrings
        *(272, 308, 298, 321, 323),  # unshare, setns, perf_event_open, bpf, userfaultfd
        *(109, 112),  # setpgid, setsid: what it starts stays in its process group, which is killed as a whole
    ),
    "aarch64": (
        *(198, 203, 200, 201),
        *(117, 270, 271, 272),
        *(138, 130, 240),
        *(41, 51, 40, 39, 224, 142),
        *(105, 104, 217, 218, 219, 273, 294),
        *(97, 268, 241, 280, 282),
        *(154, 157),
    ),
}
_DENIED_EVERYWHERE = (424, 425, 426, 427, 434, 438, 440)
"""pidfd_send_signal, io_uring (which opens sockets by itself), pidfd_open, pidfd_getfd, process_madvise."""


def _filter_system_calls() -> None:
    machine = platform.machine()
    if machine not in _MACHINES:
        raise _Refused
    program = _program(machine)
    _no_new_privileges()
    filters = ctypes.create_string_buffer(program, len(program))
    pointer = ctypes.cast(filters, ctypes.c_void_p)
    prog = struct.pack("@HP", len(program) // 8, pointer.value)
    _check(_libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, prog, 0, 0))


def _program(machine: str) -> bytes:
    """The filter: what is denied fails with EPERM, as if privileges were missing; all else goes on."""
    architecture, socketpair, kill, tgkill, prlimit = _MACHINES[machine]
    steps = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_JUMP_EQUAL, architecture, 1, 0),
        _step(_RETURN, _DENY),
        _step(_LOAD, _NUMBER),
        _step(_JUMP_GREATER_EQUAL, _X32, 0, 1),
        _step(_RETURN, _DENY),
    ]
    for number in (*_DENIED[machine], *_DENIED_EVERYWHERE):
        steps += [_step(_JUMP_EQUAL, number, 0, 1), _step(_RETURN, _DENY)]
    # pairs of connected streams only: other kinds of sockets can be sent elsewhere
    steps += [
        _step(_JUMP_EQUAL, socketpair, 0, 5),
        _step(_LOAD, _SECOND),
        _step(_AND, _TYPE_MASK),
        _step(_JUMP_EQUAL, _SOCK_STREAM, 1, 0),
        _step(_RETURN, _DENY),
        _step(_RETURN, _ALLOW),
    ]
    # signals and limits for itself only
    for number in (kill, tgkill, prlimit):
        steps += [
            _step(_JUMP_EQUAL, number, 0, 5),
            _step(_LOAD, _FIRST),
            _step(_JUMP_EQUAL, 0, 2, 0),
            _step(_JUMP_EQUAL, os.getpid(), 1, 0),
            _step(_RETURN, _DENY),
            _step(_RETURN, _ALLOW),
        ]
    return b"".join((*steps, _step(_RETURN, _ALLOW)))


def _step(code: int, value: int, when_true: int = 0, when_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, when_true, when_false, value)


def _drop_capabilities() -> None:
    """What root may do beyond other users, such as reading the environment of any process."""
    with contextlib.suppress(OSError, AttributeError):
        _check(_libc.capset(struct.pack("=Ii", _CAPABILITIES_3, 0), bytes(24)))


def _no_new_privileges() -> None:
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
