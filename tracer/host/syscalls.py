"""System calls that Python's library lacks, one function each."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
from typing import Final, NamedTuple


class Numbers(NamedTuple):
    """The numbers of system calls that glibc has no function for."""

    membarrier: int
    seccomp: int


_GENERIC: Final = Numbers(membarrier=283, seccomp=277)  # include/uapi/asm-generic/unistd.h
NUMBERS: Final = {
    "x86_64": Numbers(membarrier=324, seccomp=317),  # arch/x86/entry/syscalls/syscall_64.tbl
    "ppc64le": Numbers(membarrier=365, seccomp=358),  # arch/powerpc/kernel/syscalls/syscall.tbl
    "s390x": Numbers(membarrier=356, seccomp=348),  # arch/s390/kernel/syscalls/syscall.tbl
    "aarch64": _GENERIC,
    "riscv64": _GENERIC,
    "loongarch64": _GENERIC,
}
"""By machine (uname -m). Elsewhere the calls below say that the kernel cannot: a guess could be any call."""
_SET_MODE_FILTER, _NEW_LISTENER = 1, 1 << 3  # include/uapi/linux/seccomp.h
_INSTRUCTION: Final = 8  # bytes of struct sock_filter, include/uapi/linux/filter.h
_GLOBAL: Final = 1  # MEMBARRIER_CMD_GLOBAL, include/uapi/linux/membarrier.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h of glibc
_CLONE_NEWNET: Final = 0x40000000  # include/uapi/linux/sched.h
_PDEATHSIG, _NO_NEW_PRIVS = 1, 38  # include/uapi/linux/prctl.h
_UNSPECIFIED: Final = bytes(16)  # struct sockaddr with family AF_UNSPEC


def wait_for_readers() -> bool:
    """Wait until every program that runs in the kernel now is done; False where the kernel cannot tell.

    membarrier(2): MEMBARRIER_CMD_GLOBAL is synchronize_rcu(), and BPF programs of cgroups run inside of an
    RCU reader (kernel/sched/membarrier.c, kernel/bpf/cgroup.c).
    """
    known = NUMBERS.get(os.uname().machine)
    return known is not None and _library().syscall(known.membarrier, _GLOBAL, 0, 0) == 0


def disconnect(fd: int) -> int:
    """Take a socket's peer away: connect(2) with AF_UNSPEC; returns 0 or the errno.

    TCP answers by a reset to the peer and ECONNRESET to whoever uses the socket (net/ipv4/tcp.c,
    tcp_disconnect).
    """
    if _library().connect(fd, _UNSPECIFIED, len(_UNSPECIFIED)) == 0:
        return 0
    return ctypes.get_errno()


def listen_to_calls(program: bytes) -> int:
    """Put a seccomp filter on this process and all that it starts; returns its listener, or minus the errno.

    seccomp(2) with SECCOMP_FILTER_FLAG_NEW_LISTENER; needs CAP_SYS_ADMIN. `program` is an array of struct
    sock_filter.
    """
    known = NUMBERS.get(os.uname().machine)
    if known is None:
        return -errno.ENOSYS
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // _INSTRUCTION, ctypes.addressof(code))
    listener = int(_library().syscall(known.seccomp, _SET_MODE_FILTER, _NEW_LISTENER, header))
    return listener if listener >= 0 else -ctypes.get_errno()


def enter_network(namespace: int) -> None:
    """Have this thread enter the network namespace behind a descriptor; raises OSError (setns(2))."""
    if _library().setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def forbid_new_privileges() -> None:
    """Have this process and all that it starts gain no rights by executing a program; OSError if refused.

    prctl(2), PR_SET_NO_NEW_PRIVS.
    """
    if _library().prctl(_NO_NEW_PRIVS, 1, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def die_with(parent: int) -> None:
    """Have this process killed when the one that forked it ends, however that ends; at once if it has."""
    _library().prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def keep_heap_small() -> None:
    """Have large buffers given back to the system as soon as they are freed; one heap for all threads.

    mallopt(3): by default the threshold above which a buffer is mapped by itself grows with each one that is
    freed, up to 32 MiB, and what is below stays in the heap: 6 MB of a daemon of 45. Where the C library has
    no mallopt (musl) nothing happens.
    """
    mallopt = getattr(_library(), "mallopt", None)
    if mallopt is not None:
        for parameter, value in (
            (_M_MMAP_THRESHOLD, 1 << 16),
            (_M_TRIM_THRESHOLD, 1 << 16),
            (_M_ARENA_MAX, 1),
        ):
            mallopt(parameter, value)


def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
