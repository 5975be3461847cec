"""The addresses of this host, network namespace by network namespace, and word of their changes."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tracer.model.scope import MAPPED

if TYPE_CHECKING:
    from collections.abc import Iterable

PROC: Final = Path("/proc")
_LOCAL4: Final = re.compile(r"\|-- ([0-9.]+)\n\s+/32 host LOCAL")  # net/ipv4/fib_trie.c, fib_trie_seq_show
_HEX: Final = 32  # digits of an address in if_inet6, net/ipv6/addrconf.c, if6_seq_show
_RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFADDR = 0x10, 0x100  # include/uapi/linux/rtnetlink.h


def of_process(pid: int | str, proc: Path = PROC) -> frozenset[bytes]:
    """Return the addresses, 16 bytes each, of the network namespace of a process; none where it is gone.

    Of IPv4 those that the routing table calls local: an address goes when its interface does.
    """
    found = [
        MAPPED + socket.inet_aton(text) for text in _LOCAL4.findall(_text(proc / str(pid) / "net/fib_trie"))
    ]
    lines = _text(proc / str(pid) / "net/if_inet6").splitlines()
    found += [bytes.fromhex(line[:_HEX]) for line in lines if len(line) > _HEX]
    return frozenset(found)


def namespace(pid: int | str, proc: Path = PROC) -> int | None:
    """Return the inode number of the network namespace of a process; None where it is gone."""
    try:
        return (proc / str(pid) / "ns/net").stat().st_ino
    except OSError:
        return None


def by_namespace(pids: Iterable[int | str], proc: Path = PROC) -> dict[int, frozenset[bytes]]:
    """Return the addresses of each network namespace that one of these processes is in."""
    first: dict[int, int | str] = {}
    for pid in pids:
        number = namespace(pid, proc)
        if number is not None:
            first.setdefault(number, pid)
    return {number: of_process(pid, proc) for number, pid in first.items()}


class Changes:
    """A descriptor that becomes readable when an address of this namespace comes or goes (rtnetlink(7)).

    A plain socket, since all that is wanted is to hear that something was said: whichever module of pyroute2
    is imported, its package imports 188, and 6.8 MiB of a daemon of 50 (0.9.7; the same for its lowest one).
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.settimeout(0)
        self._socket.bind((0, _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR))

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._socket.fileno()

    def take(self) -> bool:
        """Forget what was told; returns whether anything was."""
        told = False
        while True:
            try:
                told |= bool(self._socket.recv(1 << 16))
            except BlockingIOError:
                return told
            except OSError:  # ENOBUFS: more than there was room for
                told = True

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("ascii", "replace")
    except OSError:
        return ""
