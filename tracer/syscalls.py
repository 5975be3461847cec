"""System calls that Python's library lacks, one function each."""

from __future__ import annotations

import ctypes
import os
from typing import Final

# Numbers of include/uapi/asm-generic/unistd.h and, where they differ, arch/x86/entry/syscalls/syscall_64.tbl
_MEMBARRIER: Final = 324 if os.uname().machine == "x86_64" else 283
_GLOBAL: Final = 1  # MEMBARRIER_CMD_GLOBAL, include/uapi/linux/membarrier.h
_UNSPECIFIED: Final = bytes(16)  # struct sockaddr with family AF_UNSPEC


def wait_for_readers() -> bool:
    """Wait until every program that runs in the kernel now is done; False where the kernel cannot tell.

    membarrier(2): MEMBARRIER_CMD_GLOBAL is synchronize_rcu(), and BPF programs of cgroups run inside of an
    RCU reader (kernel/sched/membarrier.c, kernel/bpf/cgroup.c).
    """
    return bool(_library().syscall(_MEMBARRIER, _GLOBAL, 0, 0) == 0)


def disconnect(fd: int) -> int:
    """Take a socket's peer away: connect(2) with AF_UNSPEC; returns 0 or the errno.

    TCP answers by a reset to the peer and ECONNRESET to whoever uses the socket (net/ipv4/tcp.c,
    tcp_disconnect).
    """
    if _library().connect(fd, _UNSPECIFIED, len(_UNSPECIFIED)) == 0:
        return 0
    return ctypes.get_errno()


def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
