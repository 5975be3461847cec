"""Sockets that were open before us: who holds them, and who is at the other end.

The iterator program `inventory` names the holders. Each socket is duplicated for a moment, by
pidfd_getfd(2), to ask it for its peer and to hang its state on it; inode numbers tell whether the
descriptor is still the same one.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import os
import socket
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from tracer.bpf import libbpf
from tracer.bpf.btf import pack

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from tracer.bpf.abi import Abi
    from tracer.bpf.maps.tables import Maps

_SYS_PIDFD_GETFD: Final = 438  # the same on all architectures, include/uapi/asm-generic/unistd.h
_TCP_STATE: Final = 0  # first byte of struct tcp_info, include/uapi/linux/tcp.h
_CONNECTED: Final = frozenset({1, 2, 3, 4, 5, 8, 9, 11})  # include/net/tcp_states.h: not CLOSE, not LISTEN
_LISTEN: Final = 10
_SO_COOKIE: Final = 57  # include/uapi/asm-generic/socket.h
_SO_NETNS_COOKIE: Final = 71  # since 5.14
_FAMILIES: Final = frozenset({socket.AF_INET, socket.AF_INET6})
_MAPPED: Final = bytes(10) + b"\xff\xff"
_DNS_PORT: Final = 53
IPPROTO_MPTCP: Final = 262


class Holder(NamedTuple):
    """A descriptor that is a socket; `counted`: the target under which an MPTCP listener is counted."""

    process: int
    inode: int
    tgid: int
    fd: int
    counted: int


class Found(NamedTuple):
    """One socket, while its duplicate is open: owner, protocol, peer; `listening` is TCP's.

    MPTCP's is told as TCP's, `above` its packets: those are its subflows', which no process holds.
    """

    process: int
    cookie: int
    namespace: int
    proto: int
    stream: bool
    listening: bool
    local: bytes
    local_port: int
    remote: bytes
    remote_port: int
    above: bool = False

    @property
    def fixed(self) -> bool:
        """Whether it has a peer."""
        return self.remote != bytes(16) and not self.listening


MembersOf = Callable[[int], tuple[int, ...]]
"""Returns the targets that a number stands for."""


class _Seen(NamedTuple):
    """Where anybody listens, by namespace and port; whether traffic on loopback is of interest."""

    listening: set[tuple[int, int]]
    loopback: bool


def take_in(maps: Maps, abi: Abi, program: int, attach_type: int) -> int:
    """Give every socket that has a peer, listens, or sends datagrams its state; returns how many got one."""
    held = first_of_each(holders(abi, program, attach_type))
    # First who listens: a connection to a port that is listened on was accepted.
    listening = {(found.namespace, found.local_port) for _, _, found in _sockets(held) if found.listening}
    seen = _Seen(listening, loopback=bool(maps.settings.loopback))
    return sum(_take(maps, abi, fd, found, seen) for _, fd, found in _sockets(held))


def take_in_targets(
    maps: Maps, abi: Abi, lister: tuple[int, int], targets: Collection[int], members: MembersOf
) -> dict[int, int]:
    """Give the streams of these targets their state, also on loopback; count who listens.

    `lister` is the program that lists sockets, and its attach type. Returns the number of listening sockets
    by target, without those that the kernel half has counted.
    """
    held = first_of_each(holders(abi, *lister))
    rows = {process: maps.process(process) for process in {one.process for one in held}}
    owners = {
        number: one
        for number, row in rows.items()
        for one in (members(row.target) if row else ())
        if one in targets
    }
    held = [one for one in held if one.process in owners]
    listening = {(found.namespace, found.local_port) for _, _, found in _sockets(held) if found.listening}
    counted = dict.fromkeys(owners.values(), 0)
    for one, fd, found in _sockets(held):
        if found.listening:
            known = one.counted or _counted_for(maps, abi, fd)
            owner = owners[found.process]
            counted[owner] += owner not in members(known)
        if found.stream:
            _take(maps, abi, fd, found, _Seen(listening, loopback=True))
    return counted


def _counted_for(maps: Maps, abi: Abi, fd: int) -> int:
    """Give the target under which the kernel half counts a listening socket; 0: it does not."""
    state = maps.socket(fd)
    if state is None:
        return 0
    return int.from_bytes(state[abi.socket_state.offset("asked_target") :][:4], "little")


def holders(abi: Abi, program: int, attach_type: int) -> Iterator[Holder]:
    """Yield each descriptor that is a socket."""
    link = libbpf.link_iterator("inventory", program, attach_type)
    try:
        records = libbpf.run_iterator(link)
    finally:
        os.close(link)
    return map(Holder._make, struct.iter_unpack(abi.descriptor.only(Holder._fields).format, records))


def first_of_each(held: Iterator[Holder]) -> list[Holder]:
    """Leave one descriptor of each socket."""
    found: dict[int, Holder] = {}
    for one in held:
        found.setdefault(one.inode, one)
    return list(found.values())


def _sockets(held: list[Holder]) -> Iterator[tuple[Holder, int, Found]]:
    for one in held:
        with duplicate(one.tgid, one.fd, one.inode) as fd:
            found = None if fd is None else look(one.process, fd)
            if fd is not None and found is not None:
                yield one, fd, found


@contextlib.contextmanager
def duplicate(tgid: int, number: int, inode: int) -> Iterator[int | None]:
    """Duplicate a descriptor of another process; None where it is gone or is another one by now."""
    libc = ctypes.CDLL(None, use_errno=True)
    with contextlib.ExitStack() as stack:
        fd = None
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(tgid)
            stack.callback(os.close, pidfd)
            copy = libc.syscall(_SYS_PIDFD_GETFD, pidfd, number, 0)
            if copy >= 0:
                stack.callback(os.close, copy)
                fd = copy if os.fstat(copy).st_ino == inode else None
        yield fd


def look(process: int, fd: int) -> Found | None:
    """Ask the socket itself; None for one that is no business of ours or ended meanwhile."""
    with contextlib.suppress(OSError):
        view = socket.socket(fileno=fd)
        try:
            return _describe(process, view)
        finally:
            view.detach()
    return None


def _describe(process: int, view: socket.socket) -> Found | None:
    if view.family not in _FAMILIES:
        return None
    if view.type == socket.SOCK_STREAM and view.proto == IPPROTO_MPTCP:
        return _describe_mptcp(process, view)
    stream = view.type == socket.SOCK_STREAM and view.proto == socket.IPPROTO_TCP
    state = view.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[_TCP_STATE] if stream else 0
    listening = state == _LISTEN
    if stream and not listening and state not in _CONNECTED:
        return None
    local, peer = _address(view.getsockname()), _peer(view)
    return Found(process, *_cookies(view), view.proto, stream, listening, *local, *peer)


def _describe_mptcp(process: int, view: socket.socket) -> Found | None:
    listening = bool(view.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    local, peer = _address(view.getsockname()), _peer(view)
    if not listening and not any(peer[0]):
        return None
    where = (*local, *peer)
    return Found(process, *_cookies(view), socket.IPPROTO_TCP, True, listening, *where, above=True)  # noqa: FBT003 - its fields in their order


def _cookies(view: socket.socket) -> tuple[int, int]:
    (cookie,) = struct.unpack("<Q", view.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8))
    namespace = 0
    with contextlib.suppress(OSError):
        (namespace,) = struct.unpack("<Q", view.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8))
    return cookie, namespace


def _peer(view: socket.socket) -> tuple[bytes, int]:
    try:
        return _address(view.getpeername())
    except OSError:
        return bytes(16), 0


def _address(name: tuple[str, int]) -> tuple[bytes, int]:
    address = ipaddress.ip_address(name[0].partition("%")[0])
    packed = address.packed
    return (packed if address.version == 6 else _MAPPED + packed), name[1]  # noqa: PLR2004 - IP version


def _is_loopback(address: bytes) -> bool:
    found = ipaddress.IPv6Address(address)
    return (found.ipv4_mapped or found).is_loopback


def _take(maps: Maps, abi: Abi, fd: int, found: Found, seen: _Seen) -> bool:
    near = found.remote if found.fixed else found.local
    if _is_loopback(near) and not seen.loopback and found.remote_port != _DNS_PORT:
        return False
    accepted = found.stream and (found.namespace, found.local_port) in seen.listening
    slot = maps.take_slot() if found.fixed and not found.above else 0
    values = _flow(abi, found, accepted=accepted)
    if slot:
        flags = abi.enums["flow_flags"]["FLOW_PREEXISTING"]
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        maps.set_slot(slot, pack(abi.slot, values | {"flags": flags, "first_ns": now}))
    values |= _state(abi, found, accepted=accepted) | {
        "slot": slot,
        "flags": _flags(abi, found, loopback=seen.loopback),
    }
    if maps.add_socket(fd, pack(abi.socket_state, values)):
        return True
    if slot:
        maps.give_slot(slot)
    return False


def _flow(abi: Abi, found: Found, *, accepted: bool) -> dict[str, int | bytes]:
    inward = accepted or found.listening
    return {
        "flow.process": found.process,
        "flow.remote": found.remote if found.fixed else bytes(16),
        "flow.remote_port": found.remote_port if found.fixed else 0,
        "flow.proto": found.proto,
        "flow.direction": abi.enums["direction"]["DIRECTION_IN" if inward else "DIRECTION_OUT"],
    }


def _state(abi: Abi, found: Found, *, accepted: bool) -> dict[str, int | bytes]:
    mode = "MODE_LISTENER" if found.listening else "MODE_FIXED" if found.fixed else "MODE_PER_PACKET"
    return {
        "opened_ns": time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        "listener": found.cookie if found.listening else 0,
        "mode": abi.enums["socket_mode"][mode],
        "care": abi.enums["care"]["CARE_END"] if accepted and found.fixed else 0,
    }


def _flags(abi: Abi, found: Found, *, loopback: bool) -> int:
    flags = abi.enums["socket_flags"]
    marks = flags["SOCKET_PREEXISTING"]
    if found.stream and found.fixed:
        marks |= flags["SOCKET_ESTABLISHED"]
    if loopback:
        marks |= flags["SOCKET_LOOPBACK"]
    if found.above and found.fixed:
        marks |= flags["SOCKET_CLOSED"]  # its subflows tell all there is to tell
    return marks
