"""What the processes of a cgroup hold open: sockets with their peers, and what no cgroup hook can see.

Descriptors are duplicated for a moment, by pidfd_getfd(2), and the socket itself is asked what it is. A look
sees what is open at that instant; who opens and closes between two looks is for seccomp to tell
(tracer/proof/seccomp.py).
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tracer.bpf import inventory
from tracer.host.cgroups import members
from tracer.model.records import address, family, protocol
from tracer.model.scope import scope
from tracer.model.text import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tracer.bpf.engine import Engine
    from tracer.bpf.inventory import Found

Json = dict[str, Any]

_SO_DOMAIN: Final = 39  # include/uapi/asm-generic/socket.h
_AF_KEY: Final = 15  # include/linux/socket.h
# Families whose packets the hooks see, or that do not leave this host's kernel
SEEN: Final = frozenset(
    {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_ALG, _AF_KEY}
)
_DEVICES: Final = ("/dev/net/tun", "/dev/tap", "/dev/vhost")
_LINK: Final = "socket:["
# capabilities(7) that allow what the hooks do not see; include/uapi/linux/capability.h
_POWERS: Final = {12: "CAP_NET_ADMIN", 13: "CAP_NET_RAW", 21: "CAP_SYS_ADMIN", 39: "CAP_BPF"}


def family_name(number: int) -> str:
    """Name an address family as socket(2) does."""
    try:
        return socket.AddressFamily(number).name
    except ValueError:
        return f"address family {number}"


class Holdings:
    """Looks at the processes of some cgroups again and again; each socket is asked once."""

    def __init__(self, engine: Engine, cgroups: Iterable[str], ours: Callable[[int], bool]) -> None:
        """`cgroups` are paths below the v2 mount; `ours` tells whether a process (by id) is of theirs."""
        self._engine = engine
        self._roots = [engine.root / path.lstrip("/") for path in cgroups]
        self._ours = ours
        self._known: set[int] = set()
        self.seen: set[int] = set()
        self.looks = 0
        self.unseen: list[Json] = []
        self.sockets: list[Json] = []
        self.powers: dict[str, set[str]] = {}

    def processes(self) -> list[int]:
        """Give the ids of the processes there are now."""
        return [int(pid) for root in self._roots for pid in members(root)]

    def look(self) -> None:
        """Take in what is open now."""
        self.looks += 1
        for pid in self.processes():
            self.seen.add(pid)
            self._look_at(pid)

    def look_at_own(self, numbers: Iterable[int]) -> None:
        """Take in descriptors of this process, which a command is going to inherit."""
        for number in numbers:
            with contextlib.suppress(OSError):
                self._ask(os.getpid(), number, os.fstat(number).st_ino, number)

    def _look_at(self, pid: int) -> None:
        directory = Path("/proc", str(pid), "fd")
        try:
            for entry in os.scandir(directory):
                self._take(pid, int(entry.name), entry.path)
            self._note_powers(pid)
        except PermissionError:
            self._add_unseen(pid, "could not be looked into")
        except (FileNotFoundError, ProcessLookupError):
            return

    def _take(self, pid: int, number: int, path: str) -> None:
        try:
            link = str(Path(path).readlink())
        except FileNotFoundError:
            return
        if link.startswith(_DEVICES):
            self._add_unseen(
                pid, f"has {escape(link)} open: what it writes there are packets of the kernel's"
            )
        if not link.startswith(_LINK):
            return
        inode = int(link.removeprefix(_LINK).rstrip("]"))
        if inode in self._known:
            return
        with inventory.duplicate(pid, number, inode) as fd:
            if fd is not None:
                self._ask(pid, fd, inode, number)
            elif _still(path, link):
                self._add_unseen(pid, "has a socket that could not be looked at")

    def _ask(self, pid: int, fd: int, inode: int, number: int) -> None:
        with _borrowed(fd) as view:
            if view is None:
                return
            self._known.add(inode)
            kind = view.getsockopt(socket.SOL_SOCKET, _SO_DOMAIN)
        if kind not in SEEN:
            self._add_unseen(pid, f"holds a socket of {family_name(kind)}, which no cgroup hook sees")
        elif kind in (socket.AF_INET, socket.AF_INET6) and (found := inventory.look(0, fd)) is not None:
            one = self._socket(pid, number, found, self._engine.maps.socket(fd))
            if one["foreign"] or self.looks <= 1:  # later ones were opened in the window, and are counted
                self.sockets.append(one)

    def _socket(self, pid: int, number: int, found: Found, state: bytes | None) -> Json:
        direction, process = self._owner(state)
        where = scope(found.remote) if found.fixed else None
        foreign = where in ("internet", "lan", "multicast") and direction != "in" and not self._ours(process)
        return {
            **who(pid),
            "descriptor": number,
            "proto": protocol(found.proto),
            "family": family(found.local),
            "state": "listening" if found.listening else "connected" if found.fixed else "open",
            "direction": direction,
            "local_addr": address(found.local),
            "local_port": found.local_port,
            "remote_addr": address(found.remote) if found.fixed else None,
            "remote_port": found.remote_port if found.fixed else None,
            "scope": where,
            "foreign": foreign,
        }

    def _owner(self, state: bytes | None) -> tuple[str | None, int]:
        """Give the direction and the process that a socket's traffic is counted for."""
        if state is None:
            return None, 0
        abi = self._engine.abi
        (process,) = struct.unpack_from("<Q", state, abi.socket_state.offset("flow.process"))
        inward = state[abi.socket_state.offset("flow.direction")] == abi.enums["direction"]["DIRECTION_IN"]
        return "in" if inward else "out", process

    def _add_unseen(self, pid: int, what: str) -> None:
        self.add(who(pid) | {"what": what})

    def add(self, one: Json) -> None:
        """Take in what else was found, once: a process by pid and comm, and what it did."""
        if one not in self.unseen:
            self.unseen.append(one)

    def add_call(self, pid: int, what: str) -> None:
        """Take in what seccomp has told of a process."""
        self._add_unseen(pid, what)

    def _note_powers(self, pid: int) -> None:
        for line in Path("/proc", str(pid), "status").read_text(errors="replace").splitlines():
            if line.startswith("CapEff:"):
                bits = int(line.split()[1], 16)
                held = {name for number, name in _POWERS.items() if bits >> number & 1}
                if held:
                    self.powers.setdefault(who(pid)["comm"], set()).update(held)


def who(pid: int) -> Json:
    """Give a process's id and name."""
    try:
        comm = Path("/proc", str(pid), "comm").read_bytes().rstrip(b"\n")
    except OSError:
        return {"pid": pid, "comm": "?"}
    return {"pid": pid, "comm": escape(comm)}


def _still(path: str, link: str) -> bool:
    try:
        return str(Path(path).readlink()) == link
    except OSError:
        return False


@contextlib.contextmanager
def _borrowed(fd: int) -> Iterator[socket.socket | None]:
    """Look at a descriptor as a socket, without closing it; None where it is none."""
    try:
        view = socket.socket(fileno=fd)
    except OSError:
        yield None
        return
    try:
        yield view
    finally:
        view.detach()
