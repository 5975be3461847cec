"""The daemon's second socket: what desktops are told, to root and to members of some groups.

``{"ask": "notices"}`` answers ``{"watching": true}``, then a line for each event that may be worth a notice:
see tracer/notify/decisions.py. Nothing else is answered here, and nothing can be changed.

Any process may connect; the kernel tells which groups it has. So the daemon needs no privilege to give the
socket away.
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tracer.daemon.control import CREDENTIALS, Client, ControlServer, Door
from tracer.errors import NotRoot, UsageError
from tracer.model.jsonlines import EVERYBODY, encode
from tracer.notify.decisions import concerns
from tracer.notify.feed import QUESTION

if TYPE_CHECKING:
    import selectors
    from collections.abc import Callable, Iterable, Iterator

    from tracer.session.session import Core, Line

Json = dict[str, Any]
_GROUPS: Final = Path("/etc/group")
_SO_PEERGROUPS: Final = 59  # include/uapi/asm-generic/socket.h, since Linux 4.13
_GROUPS_BYTES: Final = 1024  # what Python's getsockopt gives room for: 256 groups
_AWAY: Final = frozenset({"lan", "internet", "multicast"})
Sent = dict[tuple[object, ...], int]


class Notices:
    """Tells desktops; nothing is read or made while none listens."""

    def __init__(
        self,
        path: Path,
        groups: Iterable[str],
        selector: selectors.BaseSelector,
        core: Core,
        ill: Callable[[], list[str]],
    ) -> None:
        """Listen at `path`; `ill` returns what should be in force and is not."""
        self._accounts, self._ill = core.accounts, ill
        self._gids = gids(groups)
        self._named = ", ".join(groups)
        self._sent: Sent | None = None
        path.parent.chmod(0o755)
        self._server = ControlServer(
            Door(path, self._welcome), selector, self._answer, core.accounts.count_lost, core.faults
        )

    @property
    def wanted(self) -> bool:
        """Whether a desktop listens."""
        return bool(self._server.watchers)

    def _welcome(self, sock: socket.socket) -> None:
        """Raise NotRoot for a process that is neither root's nor in one of the groups."""
        uid, groups = peer(sock)
        if uid != 0 and not groups & self._gids:
            raise NotRoot(
                f"the daemon tells members of these groups only: {self._named or 'none'}",
                "become a member (sudo usermod --append --groups adm YOU, then log in again), or name your"
                " group in [notify] groups",
            )

    def _answer(self, question: Json, client: Client) -> Iterator[bytes]:
        if question != QUESTION:
            raise UsageError(
                f"nobody answers {question.get('ask')!r} here", "client and daemon are of two versions"
            )
        client.wants = lambda _: True
        return iter([b'{"watching":true}\n', self._standing()])

    def _standing(self) -> bytes:
        return encode({"event": "ill", "ill": self._ill()}) + b"\n"

    def publish(self, lines: Iterable[Line]) -> None:
        """Tell of those events of targets that may be worth a notice."""
        for line in lines:
            if line.who is not None and line.who.target and concerns(line.text):
                self._server.publish(line.who, line.text)

    def look(self) -> None:
        """Tell what is not in force, and what was sent during prompts on connections of any age."""
        self._server.listen()
        if not self.wanted:
            self._sent = None
            return
        self._server.publish(EVERYBODY, self._standing())
        for flow in self._grown():
            self._server.publish(EVERYBODY, encode(flow | {"event": "sent"}) + b"\n")

    def _grown(self) -> list[Json]:
        """Return flows that sent data during prompts since the last look; none at the first one."""
        accounts, decoder = self._accounts, self._accounts.decoder
        with accounts.lock:
            rows = [
                (row, who)
                for row in accounts.rows()
                if row.payload_out
                and row.direction != decoder.inward
                and decoder.phase(row.phase) == "inference"
                and (who := accounts.registry.get(row.process)) is not None
                and who.target
            ]
            before, self._sent = self._sent, {_key(row): row.payload_out for row, _ in rows}
            if before is None:
                return []
            grown = [(row, who) for row, who in rows if row.payload_out > before.get(_key(row), 0)]
            return [one for one in accounts.objects(list(grown), []) if one["scope"] in _AWAY]

    def flush(self, lost: Callable[[str, int], bytes]) -> None:
        """Send what was published."""
        self._server.flush(lost)

    def close(self) -> None:
        """Stop listening and hang up on all."""
        self._server.close()


def _key(row: Any) -> tuple[object, ...]:  # noqa: ANN401 - a row of the kernel's table
    return row.process, row.remote, row.remote_port, row.proto, row.phase


def gids(groups: Iterable[str]) -> frozenset[int]:
    """Return the ids of groups by name or number, of /etc/group alone: other sources may ask the network.

    A group that this host does not have is left out.
    """
    try:
        text = _GROUPS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    lines = (line.split(":") for line in text.splitlines())
    known = {parts[0]: parts[2] for parts in lines if len(parts) > 2}  # noqa: PLR2004 - group(5)
    numbers = (known.get(group, group) for group in groups)
    return frozenset(int(number) for number in numbers if number.isascii() and number.isdecimal())


def peer(sock: socket.socket) -> tuple[int, frozenset[int]]:
    """Return whose process has connected, and its groups; of more than 256 groups the primary one alone."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    _, uid, gid = CREDENTIALS.unpack(raw)
    try:
        more = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
    except OSError:
        more = b""
    return uid, frozenset({gid, *struct.unpack(f"={len(more) // 4}I", more)})
