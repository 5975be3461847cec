"""Notices of the kernel half as lines of the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from tracer.bpf.abi import Abi
from tracer.bpf.engine import OBJECT
from tracer.model.rows import NoticeRow
from tracer.session.notices import LINES_MAX, SPAN_S, NoticeTeller

if TYPE_CHECKING:
    from pathlib import Path

ENUMS = Abi.from_object(OBJECT.read_bytes()).enums
KINDS = ENUMS["notice_kind"]


class _Registry:
    """Names targets and cgroups, with bytes in them that a terminal must not see."""

    def targets(self, number: int) -> tuple[str, ...]:
        """Return two names for the number 3."""
        return ("ollama", "unit:\x1b[31m") if number == 3 else ()

    def cgroup(self, number: int) -> str | None:
        """Return a path for the id 7."""
        return "/away\n" if number == 7 else None


class _Clock:
    """Seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def notice(kind: str, target: int = 3, cgroup: int = 7) -> NoticeRow:
    """Return a notice of process 42."""
    return NoticeRow(1, 42, cgroup, KINDS[kind], target, 0)


@pytest.fixture
def clock() -> _Clock:
    """Return a clock at zero."""
    return _Clock()


@pytest.fixture
def teller(tmp_path: Path, clock: _Clock) -> NoticeTeller:
    """Return what logs; process 42 has a name of hostile bytes."""
    (tmp_path / "42").mkdir()
    (tmp_path / "42" / "comm").write_bytes(b"run\x1b[2J\n")
    return NoticeTeller(ENUMS, _Registry(), tmp_path, clock)  # type: ignore[arg-type]


def test_who_has_moved_is_told_with_its_targets(teller: NoticeTeller) -> None:
    """The process, its targets and where it is now; nothing of that reaches a terminal raw."""
    with capture_logs() as lines:
        teller.tell([notice("NOTICE_MOVED")])
    (line,) = lines
    assert line["event"] == "moved to another cgroup, and still in the target"
    assert (line["pid"], line["log_level"]) == (42, "info")
    told = f"{line['target']} {line['comm']} {line['cgroup']}"
    assert told.isprintable()
    assert "ollama" in told


def test_what_is_held_is_a_warning(teller: NoticeTeller) -> None:
    """A process that is gone, in a target and a cgroup that are unknown, is told as far as it is known."""
    with capture_logs() as lines:
        teller.tell([NoticeRow(1, 43, 0, KINDS["NOTICE_HELD_PROCESS"], 0, 2)])
    (line,) = lines
    assert line["log_level"] == "warning"
    assert (line["target"], line["comm"], line["cgroup"]) == (None, None, "?")


def test_what_is_everyday_is_not_logged(teller: NoticeTeller) -> None:
    """A program of a target that begins, a cgroup in one, and what engines are asked about anyway."""
    with capture_logs() as lines:
        teller.tell(map(notice, ("NOTICE_APPEARED", "NOTICE_CGROUP", "NOTICE_HELD_CGROUP")))
    assert lines == []


def test_a_storm_is_counted_and_not_written(teller: NoticeTeller, clock: _Clock) -> None:
    """The log gets a few lines, and later how many were left out."""
    with capture_logs() as lines:
        teller.tell([notice("NOTICE_MOVED")] * (LINES_MAX + 5))
        clock.now += SPAN_S
        teller.tell([notice("NOTICE_MOVED")] * 2)
    assert len(lines) == LINES_MAX + 2
    assert [line.get("left_out") for line in lines[LINES_MAX:]] == [5, None]
