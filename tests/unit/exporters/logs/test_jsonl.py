"""The event log never blocks and never breaks a line, whatever its file or its reader does."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from exporters.logs.jsonl import WAITING_MAX, EventLog
from tracer.daemon.control import notice_now as notice
from tracer.errors import HostError

if TYPE_CHECKING:
    from pathlib import Path

LINE = b'{"event":"connect","pad":"' + b"x" * 600 + b'"}\n'


class Losses(Counter[str]):
    """Counts what is reported lost."""

    def __call__(self, reason: str, count: int) -> None:
        """Take a report."""
        self[reason] += count


def test_lines_go_to_a_file(tmp_path: Path) -> None:
    """Appended, readable by the group at most, and written again after logrotate moved the file."""
    path = tmp_path / "log"
    log = EventLog(str(path), Losses(), notice)
    log.write([LINE, LINE])
    path.rename(tmp_path / "log.1")
    log.reopen()
    log.write([LINE])
    log.close()
    assert (tmp_path / "log.1").read_bytes() == LINE * 2
    assert path.read_bytes() == LINE
    assert path.stat().st_mode & 0o007 == 0


def test_a_reader_that_stops_costs_lines_not_time(tmp_path: Path) -> None:
    """Lines beyond the bound are dropped whole and counted; once it reads again, the log says how many."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    losses = Losses()
    log = EventLog(str(path), losses, notice)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    many = 2 * WAITING_MAX // len(LINE)
    log.write([LINE] * many)
    assert losses["log_blocked"] > 0
    received = b""
    for _ in range(10_000):
        with contextlib.suppress(BlockingIOError):
            received += os.read(reader, 1 << 16)
        log.flush()
        if received.endswith(b"\n") and b'"lost"' in received:
            break
    log.close()
    os.close(reader)
    events = [json.loads(line) for line in received.splitlines()]
    assert events[-1]["event"] == "lost"
    assert events[-1]["packets_out"] == losses["log_blocked"]
    assert len(events) - 1 + losses["log_blocked"] == many


def test_a_reader_that_left_is_no_reason_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard output closed by its reader: lines are counted as lost."""
    reader, writer = os.pipe()
    monkeypatch.setattr("exporters.logs.jsonl._STDOUT", writer)
    losses = Losses()
    log = EventLog("-", losses, notice)
    os.close(reader)
    log.write([LINE] * (2 * WAITING_MAX // len(LINE)))
    log.write([LINE] * (2 * WAITING_MAX // len(LINE)))
    assert losses["log_closed"] > 0
    log.close()
    os.close(writer)


def test_a_log_that_cannot_be_opened_says_so(tmp_path: Path) -> None:
    """Naming the path."""
    with pytest.raises(HostError, match="absent/log"):
        EventLog(str(tmp_path / "absent" / "log"), Losses(), notice)
