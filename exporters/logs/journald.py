"""systemd's journal, spoken to in its own protocol, so that `journalctl TATTLE_TARGET=ollama` finds things.

What goes there: what the daemon says about itself, and the events that somebody should see: denials (in audit
mode, what would be denied), losses. A journal that is busy or gone is counted, and stops nothing.

Sources: systemd.io/JOURNAL_NATIVE_PROTOCOL, systemd.journal-fields(7), systemd.exec(5) for JOURNAL_STREAM.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog
from structlog.processors import CallsiteParameter

from tracer.model.text import logline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, MutableMapping

SOCKET: Final = Path("/run/systemd/journal/socket")
FULL: Final = "journal_full"
ERROR, WARNING, NOTICE, INFO, DEBUG = 3, 4, 5, 6, 7  # syslog(3)
BURST: Final = 200  # entries at once; journald's own limit is 10,000 in 30 s (RateLimitBurst=)
REFILL_PER_S: Final = 20
_VALUE_MAX: Final = 8192  # bytes: a whole entry fits the smallest socket buffer, so no memfd is ever needed

# Random, for good: `journalctl MESSAGE_ID=...`, and catalogues, know an event by them (sd-id128(3)).
MESSAGE_IDS: Final = {
    "deny": "6f906896fffb44e98f9f57398abd75ab",
    "would-deny": "07f88ca6352b43fb97681d9fcc1a850c",
    "lost": "54e525cf0f6b46318a67d9c2d9657aa0",
    "trouble": "571715aa853a40988e09497bb8546bd5",
}
_LEVELS: Final = {"critical": 2, "error": ERROR, "warning": WARNING, "debug": DEBUG}
_PLACES: Final = {"pathname": "CODE_FILE", "lineno": "CODE_LINE", "func_name": "CODE_FUNC"}
_RENAMED: Final = {"comm": "PROCESS", "parent_comm": "PARENT", "ts": "TIME"}
_PRIORITIES: Final = {"deny": WARNING, "would-deny": NOTICE, "lost": WARNING}
# Looked for before a line is parsed: a stranger's bytes cannot look so, JSON escapes their quotes.
_MARKS: Final = (b'"event":"deny"', b'"event":"lost"', b'"verdict":"would-deny"')


def serialize(fields: Mapping[str, object]) -> bytes:
    """Give an entry's bytes; a value with a line break goes with its length, so it cannot forge a field."""
    parts = []
    for name, value in fields.items():
        raw = str(value).encode("utf-8", "surrogateescape")[:_VALUE_MAX]
        if b"\n" in raw:
            parts.append(name.encode() + b"\n" + struct.pack("<Q", len(raw)) + raw + b"\n")
        else:
            parts.append(name.encode() + b"=" + raw + b"\n")
    return b"".join(parts)


def is_stderr() -> bool:
    """Say whether standard error already leads to the journal: device and inode are those it was given."""
    device, colon, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    if not colon:
        return False
    try:
        mine = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return (device, inode) == (str(mine.st_dev), str(mine.st_ino))


class Journal:
    """The socket; `common` stands in every entry. Sends without waiting."""

    def __init__(self, common: Mapping[str, object], path: Path = SOCKET) -> None:
        self._common = {"SYSLOG_IDENTIFIER": "tattle", **common}
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def send(self, message: str, priority: int, fields: Mapping[str, object]) -> bool:
        """Send one entry; False where the journal did not take it. Not connected: it may be restarted."""
        entry = serialize({"MESSAGE": message, "PRIORITY": priority, **self._common, **fields})
        try:
            self._socket.sendto(entry, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL, self._path)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()


class JournalSink:
    """The last processor of structlog: sends records to the journal; stderr gets what it refuses."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def __call__(self, _: object, __: str, record: MutableMapping[str, Any]) -> str:
        """Send one record; DropEvent where the journal has taken it."""
        text, level = logline(record), record["level"]
        if self._journal.send(text, _LEVELS.get(level, INFO), _log_fields(record)):
            raise structlog.DropEvent
        return f"tattle: {level}: {text}"


def _log_fields(record: Mapping[str, Any]) -> dict[str, object]:
    """Return a record's keys in the journal's spelling, and the place in the code that it comes from."""
    fields: dict[str, object] = {
        f"TATTLE_{key.upper()}": value
        for key, value in record.items()
        if key not in _PLACES and key not in {"event", "level"}
    }
    fields |= {name: record[key] for key, name in _PLACES.items() if key in record}
    if "trouble" in record:
        fields |= {"MESSAGE_ID": MESSAGE_IDS["trouble"], "TATTLE_EVENT": "trouble"}
    return fields


def take_over(instance: str) -> Journal | None:
    """Have what is logged from now on go to the journal with fields; None where stderr leads elsewhere."""
    try:
        if not (is_stderr() and SOCKET.is_socket()):
            return None
    except OSError:
        return None
    journal = Journal({"TATTLE_INSTANCE": instance})
    send_to(journal)
    return journal


def send_to(journal: Journal) -> None:
    """Put the journal at the end of structlog's chain, in place of what renders lines."""
    places = structlog.processors.CallsiteParameterAdder(
        {CallsiteParameter.PATHNAME, CallsiteParameter.LINENO, CallsiteParameter.FUNC_NAME}
    )
    chain = structlog.get_config()["processors"]
    structlog.configure(processors=[*chain[:-1], places, JournalSink(journal)])


class EventTeller:
    """Picks the events that somebody should see out of the log's lines, and bounds their number."""

    def __init__(
        self,
        journal: Journal,
        lost: Callable[[str, int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journal = journal
        self._lost = lost
        self._clock = clock
        self._left = float(BURST)
        self._at = clock()
        self._unsaid = 0

    def tell(self, lines: Iterable[bytes]) -> None:
        """Send those of `lines` (JSON events by contract) that matter."""
        for line in lines:
            if any(mark in line for mark in _MARKS):
                self._one(line)

    def _one(self, line: bytes) -> None:
        if not self._may():
            self._unsaid += 1
            return
        event = msgspec.json.decode(line)
        kind = event["event"] if event["event"] in MESSAGE_IDS else event["verdict"]
        fields = _fields(event, kind)
        if self._unsaid:
            fields["TATTLE_SUPPRESSED"] = self._unsaid
        if self._journal.send(_message(event, kind, self._unsaid), _PRIORITIES[kind], fields):
            self._unsaid = 0
        else:
            self._lost(FULL, 1)

    def _may(self) -> bool:
        now = self._clock()
        self._left = min(BURST, self._left + (now - self._at) * REFILL_PER_S)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def _fields(event: Mapping[str, Any], kind: str) -> dict[str, object]:
    """Give the fields of an event: its keys, as the contract names them, in the journal's spelling."""
    fields: dict[str, object] = {
        f"TATTLE_{_RENAMED.get(key, key.upper())}": value for key, value in event.items() if value is not None
    }
    if kind == "lost":
        fields = {
            "TATTLE_EVENT": kind,
            "TATTLE_REASON": event["result"],
            "TATTLE_COUNT": event["packets_out"],
        }
        return fields | {"MESSAGE_ID": MESSAGE_IDS[kind]}
    fields["TATTLE_DESTINATION"] = event["name"] or event["remote_addr"]
    return fields | {"MESSAGE_ID": MESSAGE_IDS[kind]}


def _message(event: Mapping[str, Any], kind: str, unsaid: int) -> str:
    if kind == "lost":
        return f"lost: {event['packets_out']} x {event['result']}"
    whom = event["name"] or event["remote_addr"]
    port = f" port {event['remote_port']}" if event["remote_port"] else ""
    rule = f" by {event['rule']}" if event["rule"] else ""
    verb = "denied" if kind == "deny" else "would be denied"
    more = f" (and {unsaid} events before it that were not written)" if unsaid else ""
    who = event["comm"] if event["comm"] is not None else "unknown process"
    return f"{event['target'] or 'host'}: {who} to {whom}{port}/{event['proto']} {verb}{rule}{more}"
