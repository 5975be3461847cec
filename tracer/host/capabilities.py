"""Which privileges are needed, and dropping all others once the programs are attached (capabilities(7))."""

from __future__ import annotations

import ctypes
import enum
import os
import struct
from pathlib import Path
from typing import Final

from tracer.errors import HostError, NotRoot

STATUS: Final = Path("/proc/self/status")
_VERSION_3: Final = 0x20080522  # _LINUX_CAPABILITY_VERSION_3, include/uapi/linux/capability.h
_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24  # include/uapi/linux/prctl.h
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_PR_SET_NO_NEW_PRIVS = 38


class Capability(enum.IntEnum):
    """The capabilities that tattle ever needs; numbers of include/uapi/linux/capability.h."""

    SETPCAP = 8
    NET_ADMIN = 12
    SYS_PTRACE = 19
    SYS_ADMIN = 21
    SYS_RESOURCE = 24
    PERFMON = 38
    BPF = 39


# bpf(2) for cgroup programs needs NET_ADMIN, reading kernel memory PERFMON, pidfd_getfd SYS_PTRACE.
LOADING: Final = frozenset({Capability.BPF, Capability.NET_ADMIN, Capability.PERFMON, Capability.SYS_PTRACE})
# Reading and writing maps by their descriptors, running `flush`, asking after links.
RUNNING: Final = frozenset({Capability.BPF})
# What a change of policy takes: as loading, and finding programs and maps by their ids.
HELPING: Final = LOADING | {Capability.SYS_ADMIN}


def effective() -> frozenset[int]:
    """Return the numbers of the capabilities in effect."""
    for line in STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith("CapEff:"):
            bits = int(line.split()[1], 16)
            return frozenset(number for number in range(64) if bits >> number & 1)
    return frozenset()


def require_loading() -> None:
    """Raise NotRoot, naming what is missing, where the programs could not be loaded."""
    have = effective()
    missing = [f"CAP_{needed.name}" for needed in sorted(LOADING) if needed not in have]
    if missing:
        raise NotRoot(f"loading needs root (missing: {' '.join(missing)})", "run it with sudo")


def drop(keep: frozenset[int] = RUNNING) -> None:
    """Keep only `keep`, for this process and for all that it starts: there is no way back.

    No program that is executed later gets more than it is started with (PR_SET_NO_NEW_PRIVS(2const)); where
    CAP_SETPCAP is there, the bounding set says so as well. Call it before threads are started: capset(2) and
    prctl(2) speak for the calling thread alone.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "give up new privileges")
    _check(libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "clear ambient capabilities")
    if Capability.SETPCAP in effective():
        _bound(libc, keep)
    bits = sum(1 << capability for capability in keep)
    header = struct.pack("<Ii", _VERSION_3, 0)
    low, high = bits & 0xFFFFFFFF, bits >> 32
    data = struct.pack("<6I", low, low, 0, high, high, 0)
    _check(libc.capset(header, data), "drop capabilities")


def _bound(libc: ctypes.CDLL, keep: frozenset[int]) -> None:
    number = 0
    while libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0) >= 0:
        if number not in keep:
            _check(libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0), "bound capabilities")
        number += 1


def _check(result: int, what: str) -> None:
    if result < 0:
        reason = os.strerror(ctypes.get_errno())
        raise HostError(f"cannot {what}: {reason}", "run it with sudo")
