"""TCP sockets of this host: what listens in a process's network namespace; whose a client is."""

# ruff: noqa: PLC0415 - pyroute2 takes 9 MiB, and the daemon needs none of this

from __future__ import annotations

import socket
import struct
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from tracer.host.syscalls import enter_network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")

_LISTEN: Final = 1 << 10  # TCP_LISTEN, net/tcp_states.h
_SOCKET: Final = "socket:["


class Listener(NamedTuple):
    """A TCP socket that listens; `address` is `::` or `0.0.0.0` where it takes all. MPTCP is TCP here."""

    address: str
    port: int
    inode: int
    uid: int


def within(process: Path, call: Callable[[], T]) -> T:
    """Return what `call` returns in the network namespace of a process (a directory of /proc).

    It runs in a thread that ends after it, as a thread is what enters a namespace. Raises OSError where that
    is not allowed or the process is gone, and what `call` raises.
    """
    if _is_here(process):
        return call()
    result: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            _enter(process)
            result.append(call())
        except BaseException as error:  # noqa: BLE001 - raised again where it belongs
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return result[0]


def _enter(process: Path) -> None:
    with (process / "ns/net").open("rb") as namespace:
        enter_network(namespace.fileno())


def _is_here(process: Path) -> bool:
    return (process / "ns/net").readlink() == Path("/proc/self/ns/net").readlink()


def listeners(process: Path) -> tuple[Listener, ...]:
    """Return what listens in a process's network namespace, asked of the kernel (sock_diag(7)).

    Raises OSError where that is not allowed or the process is gone.
    """
    from pyroute2 import DiagSocket

    def asked() -> tuple[Listener, ...]:
        with DiagSocket() as diag:
            diag.bind()
            return tuple(
                Listener(str(one["idiag_src"]), one["idiag_sport"], one["idiag_inode"], one["idiag_uid"])
                for family in (socket.AF_INET, socket.AF_INET6)
                for one in diag.get_sock_stats(family=family, states=_LISTEN)
            )

    return within(process, asked)


def sockets(process: Path) -> frozenset[int] | None:
    """Return the inodes of a process's sockets (proc_pid_fd(5)); None where they may not be looked at."""
    try:
        entries = list((process / "fd").iterdir())
    except OSError:
        return None
    links = (_link(entry) for entry in entries)
    return frozenset(int(link[len(_SOCKET) : -1]) for link in links if link.startswith(_SOCKET))


def _link(entry: Path) -> str:
    try:
        return str(entry.readlink())
    except OSError:
        return ""  # closed meanwhile


def holder(inode: int, proc: Path) -> str | None:
    """Return the process that holds a socket, the first of several; None where it cannot be seen."""
    pids = sorted((entry.name for entry in proc.iterdir() if entry.name.isdecimal()), key=int)
    return next((pid for pid in pids if inode in (sockets(proc / pid) or ())), None)


def serving(found: Iterable[Listener], address: str, port: int) -> Listener | None:
    """Return the listener that takes a connection to this address and port."""
    version6 = ":" in address
    takes = {address, "::", *(() if version6 else ("0.0.0.0",))}  # noqa: S104 - what others listen on
    return next((one for one in found if one.port == port and one.address in takes), None)


def user_of(address: str, port: int, server: int, proc: Path = Path("/proc/self")) -> int | None:
    """Return the user id of the socket on this host that is connected to our TCP port `server`.

    `address` and `port` are its own. None where it is not on this host, or gone. From proc_net_tcp(5), of
    this process's network namespace.
    """
    packed = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    words = struct.unpack(f"={len(packed) // 4}I", packed)  # printed in host order, net/ipv4/tcp_ipv4.c
    own = "".join(f"{word:08X}" for word in words) + f":{port:04X}"
    table = proc / "net" / ("tcp6" if ":" in address else "tcp")
    try:
        lines = table.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    rows = (line.split() for line in lines[1:] if own in line)
    found = [row for row in rows if row[1] == own and row[2].endswith(f":{server:04X}")]
    return int(found[0][7]) if found else None
