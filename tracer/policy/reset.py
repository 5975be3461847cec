"""Connections that are open when a policy begins to deny them: ended, so that both ends know at once.

Their packets are dropped anyway. But a peer that hears nothing waits for minutes, and so does the program.
The kernel is asked to end each connection (sock_diag(7)). Where it cannot (MPTCP, a namespace that is closed
to us, a kernel without SOCK_DESTROY) the socket is duplicated for a moment and told to let go of its peer.
Both send a reset, which the policy lets pass.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from tracer.bpf import inventory, libbpf
from tracer.bpf.inventory import IPPROTO_MPTCP
from tracer.errors import KernelError
from tracer.host import syscalls
from tracer.model.scope import Scope, packed, scope
from tracer.netlink import addresses
from tracer.netlink.sock_diag import Connection, SockDiag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tracer.bpf.engine import Engine
    from tracer.policy.openings import Openings
    from tracer.policy.rules import Table
    from tracer.policy.tables import PolicyTables

_TCP: Final = 6  # IANA protocol number
_TRIES: Final = 3
_SO_COOKIE: Final = 57  # include/uapi/asm-generic/socket.h
_FIELDS: Final = ("flow.proto", "flow.direction", "generation", "policed", "verdict", "mode", "name")
_LATELY_NS: Final = 10_000_000_000
_FAMILIES: Final = frozenset({socket.AF_INET, socket.AF_INET6})

Holder = tuple[int, int, int]
"""Process id, descriptor, inode number."""


class Stream(NamedTuple):
    """An open connection, as the one who judges it needs it."""

    remote: bytes
    remote_port: int
    local_port: int
    outward: bool
    own: bool
    """Whether the other end is this host."""
    name: int
    """The `id` of the rule by name that has let it begin; 0: none."""
    judged: bool | None
    """Whether the kernel half denies it, under the policies of now; None: it has not looked yet."""


class _Known(NamedTuple):
    """What the kernel half knows of a socket."""

    outward: bool
    name: int
    judged: bool | None


class _Found(NamedTuple):
    """A socket of a target, by what it says of itself."""

    holder: Holder
    proto: int
    listening: bool
    connection: Connection
    known: _Known | None


class Judge:
    """The policy of one target, as it is in force now: judges as the kernel half would at the next packet."""

    def __init__(
        self, target: int, table: Table, tables: PolicyTables, openings: Openings, phases: int = 0
    ) -> None:
        """`phases` are those that the target is in now, in bits."""
        self._table = table
        self._phases = phases
        self._tables = tables
        self._number = tables.number(target)
        self._opened = openings.names(target)

    def denies(self, stream: Stream) -> bool:
        """Say whether a connection is to be cut; what the kernel half has said already holds.

        But not that it was allowed, where that may have been in another phase.
        """
        if stream.judged or (stream.judged is not None and not self._table.is_phased):
            return stream.judged
        if not stream.outward:
            return self._table.policy.strict and not stream.own
        ends = stream.remote, stream.remote_port, _TCP
        said = self._table.judge(*ends, own=stream.own, phases=self._phases)
        if not said.denied or said.rule:
            return said.denied
        return not any(self._allows(name, stream.remote_port) for name in self._names(stream))

    def _names(self, stream: Stream) -> set[int]:
        """Return by which names it may go on: the one it began by, and those that its address is open for."""
        return ({stream.name} | self._opened.get(stream.remote, set())) - {0}

    def _allows(self, name: int, port: int) -> bool:
        ports = self._tables.named(self._number, name)
        speaking = (one for one in ports if one.speaks(port, _TCP) and one.speaks_in(self._phases))
        said = next(speaking, None)
        return said is not None and not said.deny


def cut(engine: Engine, is_member: Callable[[int], bool], is_denied: Callable[[Stream], bool]) -> int:
    """End every connection of these targets that is denied; returns how many.

    Datagram sockets need nothing: their next packet is judged.
    """
    listed = engine.inventory()
    if listed is None:
        return 0
    found = [one for one in _sockets(engine, is_member, listed) if one.known or one.proto == IPPROTO_MPTCP]
    accepting = {one.connection.local_port for one in found if one.listening}
    ended = 0
    with SockDiag() as diag:
        for one in found:
            stream = None if one.listening else _stream(engine, one, accepting)
            if stream is not None and is_denied(stream):
                ended += _end(diag, one)
    return ended


def _sockets(engine: Engine, is_member: Callable[[int], bool], listed: tuple[int, int]) -> Iterator[_Found]:
    """Yield the stream sockets that processes of these targets hold, each once."""
    holders: dict[int, list[Holder]] = defaultdict(list)
    ours: set[int] = set()
    is_ours: dict[int, bool] = {}
    for one in inventory.holders(engine.abi, *listed):
        holders[one.inode].append((one.tgid, one.fd, one.inode))
        if one.process not in is_ours:
            row = engine.maps.process(one.process)
            is_ours[one.process] = row is not None and is_member(row.target)
        if is_ours[one.process]:
            ours.add(one.inode)
    for inode in ours:
        found = next(filter(None, (_look(engine, holder) for holder in holders[inode])), None)
        if found is not None:
            yield found


def _look(engine: Engine, holder: Holder) -> _Found | None:
    tgid, number, inode = holder
    with inventory.duplicate(tgid, number, inode) as fd:
        if fd is None:
            return None
        view = socket.socket(fileno=fd)
        try:
            if view.family not in _FAMILIES or view.proto not in (_TCP, IPPROTO_MPTCP):
                return None
            listening = bool(view.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
            known = None if view.proto == IPPROTO_MPTCP else _known(engine, fd)
            return _Found(holder, view.proto, listening, _connection(view, listening=listening), known)
        except OSError:  # not connected (any more)
            return None
        finally:
            view.detach()


def _connection(view: socket.socket, *, listening: bool) -> Connection:
    local = view.getsockname()
    remote = local if listening else view.getpeername()
    (cookie,) = struct.unpack("=Q", view.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8))
    interface = remote[3] if view.family == socket.AF_INET6 else 0
    ends = (local[0].partition("%")[0], local[1], remote[0].partition("%")[0], remote[1])
    return Connection(view.family, *ends, interface, cookie)


def _known(engine: Engine, fd: int) -> _Known | None:
    """Ask the kernel half what it knows of a socket; None for one that has no peer of its own."""
    try:
        state = engine.maps.socket(fd)
    except KernelError as error:
        # ENOTSOCK, EINVAL: a socket of a family that has no storage
        if error.errno in {errno.EPERM, errno.EACCES}:
            raise
        return None
    if state is None:
        return None
    abi = engine.abi
    layout = abi.socket_state.only(_FIELDS)
    _, direction, generation, policed, verdict, mode, name = struct.unpack(layout.format, state)
    if mode not in (abi.enums["socket_mode"]["MODE_FIXED"], abi.enums["socket_mode"]["MODE_LISTENER"]):
        return None
    current = bool(policed) and generation == engine.maps.settings.generation
    denied = verdict == abi.enums["verdict"]["VERDICT_DENIED"]
    return _Known(direction == abi.enums["direction"]["DIRECTION_OUT"], name, denied if current else None)


def _stream(engine: Engine, one: _Found, accepting: set[int]) -> Stream | None:
    """Put together what is known; of MPTCP the kernel half knows subflows only, which nobody holds."""
    link = one.connection
    remote = packed(link.remote)
    if remote is None:
        return None
    near = link.local == link.remote or scope(remote) is Scope.LOOPBACK
    own = near or remote in addresses.of_process(one.holder[0])
    if one.known is not None:
        return Stream(remote, link.remote_port, link.local_port, own=own, **one.known._asdict())
    outward = link.local_port not in accepting
    stream = Stream(remote, link.remote_port, link.local_port, outward, own, 0, None)
    return stream._replace(judged=True if _denied_lately(engine, stream) else None)


def _denied_lately(engine: Engine, stream: Stream) -> bool:
    """Say whether the kernel half has denied a subflow with these ends, for what was said on it."""
    key = struct.pack(">16sHHI", stream.remote, stream.remote_port, stream.local_port, 0)
    value = libbpf.lookup(engine.maps.fd("denied_streams"), key, 8)
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return value is not None and now - int.from_bytes(value, "little") < _LATELY_NS


def _end(diag: SockDiag, one: _Found) -> bool:
    """End a connection; False where it has ended by itself."""
    if one.proto == _TCP and diag.destroy(one.holder[0], one.connection):
        return True
    with inventory.duplicate(*one.holder) as fd:
        return fd is not None and _reset(fd)


def _reset(fd: int) -> bool:
    """Reset a connection. Kernels 6.5 and 6.6 refuse it while somebody waits in it: wake them up first.

    Linux 4faeee0cf8a5 made that so (EBUSY), 419ce133ab92 undid it.
    """
    for _ in range(_TRIES):
        result = syscalls.disconnect(fd)
        if result != errno.EBUSY:
            return result == 0
        os.sched_yield()
        _shut(fd)
    return True


def _shut(fd: int) -> None:
    view = socket.socket(fileno=os.dup(fd))
    with suppress(OSError):  # it ended by itself
        view.shutdown(socket.SHUT_RDWR)
    view.close()
