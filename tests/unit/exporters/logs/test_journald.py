"""The journal gets entries that journalctl can be asked for, and nobody's bytes forge one."""

from __future__ import annotations

import os
import socket
import struct
import sys
from typing import TYPE_CHECKING

import pytest
import structlog

from exporters.logs import journald as journal
from exporters.logs.journald import BURST, EventTeller, Journal, is_stderr, send_to
from tracer.log import configure
from tracer.model.jsonlines import encode
from tracer.model.records import EVENT_KEYS, lost_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def entry(raw: bytes) -> dict[str, str]:
    """Read an entry as systemd.io/JOURNAL_NATIVE_PROTOCOL says: NAME=value, or NAME, length, value."""
    fields: dict[str, str] = {}
    while raw:
        head, _, rest = raw.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if not equals:
            (length,) = struct.unpack_from("<Q", rest)
            value, end, rest = rest[8 : 8 + length], rest[8 + length : 9 + length], rest[9 + length :]
            assert end == b"\n"
        assert name.decode() not in fields
        fields[name.decode()] = value.decode("utf-8", "surrogateescape")
        raw = rest
    return fields


class Journald:
    """A socket that stands for journald."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(0)

    def entries(self) -> list[dict[str, str]]:
        """Give what has come since the last call."""
        found = []
        while True:
            try:
                found.append(entry(self.socket.recv(1 << 18)))
            except BlockingIOError:
                return found


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[Journald]:
    """Give a journald that takes everything."""
    one = Journald(tmp_path / "journal")
    yield one
    one.socket.close()


@pytest.fixture
def sink(journald: Journald) -> Iterator[Journal]:
    """Give our end."""
    ours = Journal({"TATTLE_INSTANCE": "t"}, journald.path)
    yield ours
    ours.close()


def line(**keys: object) -> bytes:
    """Give an event of the log."""
    known = {
        "event": "deny",
        "target": "ollama",
        "pid": 7,
        "comm": "curl",
        "proto": "tcp",
        "verdict": "denied",
    }
    known |= {"remote_addr": "203.0.113.9", "remote_port": 443, "rule": "@internet"}
    return encode({**dict.fromkeys(EVENT_KEYS), **known, **keys}) + b"\n"


def test_a_denial_can_be_asked_for_by_field(journald: Journald, sink: Journal) -> None:
    """`journalctl TATTLE_TARGET=ollama TATTLE_PROCESS=curl` finds it; unknown keys are left out."""
    EventTeller(sink, lambda *_: None).tell([line(), line(event="connect", verdict="allowed")])
    (found,) = journald.entries()
    assert found["TATTLE_TARGET"] == "ollama"
    assert found["TATTLE_PROCESS"] == "curl"
    assert found["TATTLE_PID"] == "7"
    assert found["TATTLE_DESTINATION"] == found["TATTLE_REMOTE_ADDR"] == "203.0.113.9"
    assert found["TATTLE_INSTANCE"] == "t"
    assert (found["PRIORITY"], found["SYSLOG_IDENTIFIER"]) == ("4", "tattle")
    assert found["MESSAGE"] == "ollama: curl to 203.0.113.9 port 443/tcp denied by @internet"
    assert len(found["MESSAGE_ID"]) == 32
    assert "TATTLE_CONTAINER" not in found


def test_losses_and_audits_are_told_too(journald: Journald, sink: Journal) -> None:
    """Both have a MESSAGE_ID of their own, and a loss says which and how many."""
    lost = encode(lost_json("ring_full", 3, 0)) + b"\n"
    EventTeller(sink, lambda *_: None).tell(
        [line(event="connect", verdict="would-deny", name="a.example"), lost]
    )
    audit, loss = journald.entries()
    assert audit["MESSAGE"] == "ollama: curl to a.example port 443/tcp would be denied by @internet"
    assert audit["TATTLE_DESTINATION"] == "a.example"
    assert (loss["TATTLE_REASON"], loss["TATTLE_COUNT"]) == ("ring_full", "3")
    assert len({audit["MESSAGE_ID"], loss["MESSAGE_ID"]}) == 2


def test_a_name_cannot_forge_a_field(journald: Journald, sink: Journal) -> None:
    """A value with line breaks stays one value, and one that looks like an event does not become one."""
    assert sink.send("one\nPRIORITY=0\ntwo", 6, {"TATTLE_X": "a\nTATTLE_TARGET=other\n"})
    (found,) = journald.entries()
    assert (found["MESSAGE"], found["PRIORITY"]) == ("one\nPRIORITY=0\ntwo", "6")
    assert "TATTLE_TARGET" not in found
    EventTeller(sink, lambda *_: None).tell(
        [line(event="connect", verdict="allowed", comm='x"event":"deny"')]
    )
    assert journald.entries() == []


def test_a_flood_is_bounded_and_said(journald: Journald, sink: Journal) -> None:
    """Beyond the burst nothing is sent; the next entry says how many were not."""
    now = [100.0]
    teller = EventTeller(sink, lambda *_: None, lambda: now[0])
    seen = 0
    for _ in range(BURST + 50):  # one by one: the socket's own queue is short
        teller.tell([line()])
        seen += len(journald.entries())
    assert seen == BURST
    now[0] += 1
    teller.tell([line()])
    (found,) = journald.entries()
    assert found["TATTLE_SUPPRESSED"] == "50"
    assert "50 events before it" in found["MESSAGE"]


def test_a_busy_journal_stops_nothing(journald: Journald, sink: Journal) -> None:
    """Its queue is full (net.unix.max_dgram_qlen) or it is gone: each entry that is lost is counted."""
    lost: list[tuple[str, int]] = []
    teller = EventTeller(sink, lambda *what: lost.append(what), lambda: 0.0)
    teller.tell([line()] * BURST)
    taken = len(journald.entries())
    assert 0 < taken < BURST
    assert lost == [(journal.FULL, 1)] * (BURST - taken)
    journald.socket.close()
    assert not sink.send("x", 6, {})


def test_the_log_goes_there_with_its_level(
    journald: Journald, sink: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the daemon says has priority and place, a problem its own id; what is refused is on stderr."""
    configure("text", debug=False)
    send_to(sink)
    log = structlog.get_logger("tattle")
    log.error("hook egress is not attached", trouble="hook egress is not attached")
    log.info("read again", file="/etc/tattle/tattle.toml")
    problem, info = journald.entries()
    assert (problem["PRIORITY"], info["PRIORITY"]) == ("3", "6")
    assert problem["MESSAGE"] == problem["TATTLE_TROUBLE"] == "hook egress is not attached"
    assert problem["MESSAGE_ID"] == journal.MESSAGE_IDS["trouble"]
    assert problem["CODE_FILE"].endswith("test_journald.py")
    assert info["MESSAGE"] == "read again file=/etc/tattle/tattle.toml"
    assert info["TATTLE_FILE"] == "/etc/tattle/tattle.toml"
    journald.socket.close()
    log.warning("nobody listens")
    assert capsys.readouterr().err == "tattle: warning: nobody listens\n"
    configure("text", debug=False)


def test_stderr_is_known_by_device_and_inode(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As systemd.exec(5) says: the variable alone may be inherited by who writes somewhere else."""
    with (tmp_path / "stream").open("w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        mine = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{mine.st_dev}:{mine.st_ino}")
        assert is_stderr()
        monkeypatch.setenv("JOURNAL_STREAM", f"{mine.st_dev}:{mine.st_ino + 1}")
        assert not is_stderr()
        monkeypatch.delenv("JOURNAL_STREAM")
        assert not is_stderr()
