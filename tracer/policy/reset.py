"""Connections that are open when their target is blocked: cut, so that both ends know at once.

Their packets are dropped anyway. But a peer that hears nothing waits for minutes, and so does the program:
hence each socket is duplicated for a moment and told to let go of its peer, upon which the kernel sends a
reset (which the policy lets pass) and gives the program ECONNRESET.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections import defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple

from tracer.bpf import inventory
from tracer.errors import KernelError
from tracer.host import syscalls
from tracer.model.scope import Scope, scope

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracer.bpf.abi import Abi
    from tracer.bpf.engine import Engine
    from tracer.policy.rules import Table

_TCP: Final = 6  # IANA protocol number
_TRIES: Final = 3
_FIELDS: Final = ("flow.remote", "flow.remote_port", "flow.proto", "flow.direction", "mode")


class _Connection(NamedTuple):
    remote: bytes
    port: int
    proto: int
    outward: bool


def cut(engine: Engine, is_member: Callable[[int], bool], table: Table, opened: set[bytes]) -> int:
    """Cut every TCP connection that a process of a target holds and the policy denies.

    `is_member` says whether a number that the kernel half knows processes by stands for the target.

    `opened` are addresses that answers have opened: of connections to them the kernel half knows by which
    name, and whether it may still be used. Returns how many were cut. Datagram sockets need nothing: their
    next packet is judged.
    """
    listed = engine.inventory()
    if listed is None:
        return 0
    holders: dict[int, list[tuple[int, int]]] = defaultdict(list)
    ours: set[int] = set()
    for one in inventory.holders(engine.abi, *listed):
        inode = one.inode
        holders[inode].append((one.tgid, one.fd))
        row = engine.maps.process(one.process) if inode not in ours else None
        if row is not None and is_member(row.target):
            ours.add(inode)
    return sum(_cut_one(engine, table, opened, holders[inode], inode) for inode in ours)


def _cut_one(
    engine: Engine, table: Table, opened: set[bytes], holders: list[tuple[int, int]], inode: int
) -> bool:
    for tgid, number in holders:
        with inventory.duplicate(tgid, number, inode) as fd:
            if fd is not None:
                connection = _connection(engine, fd)
                if connection is None or (connection.outward and connection.remote in opened):
                    return False
                return _is_denied(connection, table) and _reset(fd)
    return False


def _connection(engine: Engine, fd: int) -> _Connection | None:
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
    abi: Abi = engine.abi
    layout = abi.socket_state.only(_FIELDS)
    remote, port, proto, direction, mode = struct.unpack(layout.format, state)
    if mode != abi.enums["socket_mode"]["MODE_FIXED"]:
        return None
    return _Connection(
        remote, socket.ntohs(port), proto, direction == abi.enums["direction"]["DIRECTION_OUT"]
    )


def _is_denied(one: _Connection, table: Table) -> bool:
    if one.proto != _TCP:
        return False
    if one.outward:
        return table.judge(one.remote, one.port, one.proto).denied
    return table.policy.strict and scope(one.remote) is not Scope.LOOPBACK


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
    try:
        view.shutdown(socket.SHUT_RDWR)
    except OSError:  # it ended by itself
        return
    finally:
        view.close()
