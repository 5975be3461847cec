"""Told by the kernel of every socket that a command opens and no cgroup hook sees: packets by hand, say.

And of each socket that begins to listen: a runtime is recognised before its first client can connect, however
it was started.

A seccomp filter on the command, which all its children inherit, holds each socket(2) of an unusual address
family, and each listen(2), until we have noted it, and then lets it go on. Usual families do not stop. So a
socket that lives for a microsecond is known, where a look into /proc would come too late. It changes nothing
for the command.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import threading
from typing import TYPE_CHECKING, Final, NamedTuple

from tracer.host import syscalls
from tracer.proof.sockets import SEEN, family_name

if TYPE_CHECKING:
    from collections.abc import Callable

# include/uapi/linux/bpf_common.h, filter.h, seccomp.h
_LOAD, _EQUAL, _AND, _RETURN = 0x20, 0x15, 0x54, 0x06
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_NUMBER, _ARCH, _FIRST = 0, 4, 16  # offsets in struct seccomp_data: nr, arch, low half of args[0]
_RECEIVE, _SEND = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_RECV, _SEND
_NOTIFICATION: Final = 80  # bytes of struct seccomp_notif
_CONTINUE: Final = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE, since 5.5
_X32: Final = 0x40000000  # __X32_SYSCALL_BIT, arch/x86/include/uapi/asm/unistd.h


class _Machine(NamedTuple):
    """AUDIT_ARCH_* (include/uapi/linux/audit.h) and numbers of socket(2) and listen(2), native and 32-bit."""

    arch: int
    socket: int
    listen: int
    arch32: int
    socket32: int
    listen32: int
    socketcall32: int  # the multiplexer of old; 0: there is none


_MACHINES: Final = {
    "x86_64": _Machine(0xC000003E, 41, 50, 0x40000003, 359, 363, 102),
    "aarch64": _Machine(0xC00000B7, 198, 201, 0x40000028, 281, 284, 0),
}
_SYS_SOCKET, _SYS_LISTEN = 1, 4  # of socketcall(2), include/uapi/linux/net.h


def filter_program(machine: str) -> bytes | None:
    """Give the filter for a machine (uname -m); None for one that is not known here."""
    known = _MACHINES.get(machine)
    if known is None:
        return None
    families = sorted(SEEN)
    lines: list[tuple[str, int, int, str, str]] = [
        ("", _LOAD, _ARCH, "", ""),
        ("", _EQUAL, known.arch, "native", ""),
        ("", _EQUAL, known.arch32, "other", "allow"),
        ("native", _LOAD, _NUMBER, "", ""),
        ("", _AND, ~_X32 & 0xFFFFFFFF, "", ""),
        ("", _EQUAL, known.listen, "tell", ""),
        ("", _EQUAL, known.socket, "family", "allow"),
        ("other", _LOAD, _NUMBER, "", ""),
        ("", _EQUAL, known.listen32, "tell", ""),
        ("", _EQUAL, known.socket32, "family", ""),
        ("", _EQUAL, known.socketcall32 or _ALLOW, "call", "allow"),
        ("call", _LOAD, _FIRST, "", ""),
        ("", _EQUAL, _SYS_LISTEN, "tell", ""),
        ("", _EQUAL, _SYS_SOCKET, "tell", "allow"),
        ("family", _LOAD, _FIRST, "", ""),
        *(("", _EQUAL, family, "allow", "") for family in families),
        ("tell", _RETURN, _NOTIFY, "", ""),
        ("allow", _RETURN, _ALLOW, "", ""),
    ]
    places = {label: at for at, (label, *_) in enumerate(lines) if label}
    return b"".join(
        struct.pack("<HBBI", code, _jump(places, yes, at), _jump(places, no, at), value)
        for at, (_, code, value, yes, no) in enumerate(lines)
    )


def _jump(places: dict[str, int], label: str, at: int) -> int:
    return places[label] - at - 1 if label else 0


class CallListener:
    """The filter's other end: `install` runs in the command's process, `listen` in ours."""

    def __init__(self, note: Callable[[int, str], None], listens: Callable[[], None]) -> None:
        """`note` is told the process and what it did, `listens` that one will listen; from another thread."""
        self._note = note
        self._listens = listens
        self._program = filter_program(os.uname().machine)
        self._ours, self._theirs = socket.socketpair()
        self.active = False

    def install(self) -> None:
        """Put the filter on this process and send its listener to the parent; without one, say so."""
        fd = syscalls.listen_to_calls(self._program) if self._program else -1
        if fd >= 0:
            socket.send_fds(self._theirs, [b"+"], [fd])
            os.close(fd)
        else:
            self._theirs.send(b"-")

    def listen(self) -> None:
        """Receive the listener of a command that was started, and begin."""
        _, fds, _, _ = socket.recv_fds(self._ours, 1, 1)
        self._ours.close()
        self._theirs.close()
        if fds:
            self.active = True
            threading.Thread(target=self._serve, args=(fds[0],), daemon=True).start()

    def _serve(self, fd: int) -> None:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while not poll.poll()[0][1] & (select.POLLHUP | select.POLLERR):
            self._take(fd)
        os.close(fd)

    def _take(self, fd: int) -> None:
        """Note one call and let it go on; it may be gone by now, killed by a signal."""
        told = bytearray(_NOTIFICATION)
        try:
            fcntl.ioctl(fd, _RECEIVE, told)
            number, pid = struct.unpack_from("<QI", told)
            (call,) = struct.unpack_from("<i", told, 16)
            (first,) = struct.unpack_from("<I", told, 32)
            if _is_listen(call, first):
                self._listens()
            else:
                self._note(pid, _said(call, first))
            fcntl.ioctl(fd, _SEND, struct.pack("<QqiI", number, 0, 0, _CONTINUE))
        except OSError:
            return


def _is_listen(call: int, first: int) -> bool:
    known = _MACHINES.values()
    multiplexed = first == _SYS_LISTEN and any(call == one.socketcall32 for one in known)
    return multiplexed or any(call in {one.listen, one.listen32} for one in known)


def _said(call: int, first: int) -> str:
    if any(call == machine.socketcall32 for machine in _MACHINES.values()):
        return "opened a socket by the old 32-bit call, of a kind that is not known"
    return f"opened a socket of {family_name(first)}, which no cgroup hook sees"
