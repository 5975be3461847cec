"""The history's file: sums and marks go together, bounds hold exactly, and what is not known is told."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from typing import TYPE_CHECKING, Any

import pytest

from tracer.errors import HostError
from tracer.history.reader import ALIVE_NS, Gap, History, Seen, open_history
from tracer.history.store import (
    COUNTERS,
    FILE,
    HOUR_NS,
    Batch,
    Mark,
    Part,
    Place,
    Store,
    set_aside,
    spoiled,
)
from tracer.model.process import NOBODY, ProcessInfo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECOND = 10**9
NOON = 480_000  # an hour since the epoch
NOON_NS = NOON * HOUR_NS
ROOM = 64 << 20
CURL = NOBODY._replace(target="ollama", comm="curl", exe="/usr/bin/curl", uid=1000, unit="demo.service")
HUB = Place("example.org", "sni", "203.0.113.7", 443, "tcp", "internet", "out", "idle")
NEVER = 1 << 62


def part(place: Place = HUB, who: ProcessInfo = CURL, hour: int = NOON, **counts: int) -> Part:
    """Give what came in an hour: one packet of 100 bytes out, and what else is given."""
    sums = {"packets_out": 1, "bytes_out": 100} | counts
    at_ns = hour * HOUR_NS + SECOND
    return Part(hour, who, place, tuple(sums.get(name, 0) for name in COUNTERS), at_ns, at_ns)


def batch(*parts: Part, look_ns: int = NOON_NS, **more: Any) -> Batch:  # noqa: ANN401 - as Batch
    """Give what a look has found."""
    made = {"marks": {}, "gone": set(), "losses": {}} | more
    return Batch(look_ns, list(parts), **made)


def elsewhere(number: int) -> Place:
    """Give one of many destinations."""
    return HUB._replace(remote_addr=f"203.0.113.{number}", name=None, name_source="none")


@pytest.fixture(name="path")
def where_it_is(tmp_path: Path) -> Path:
    """Return the file's path."""
    return tmp_path / FILE


@pytest.fixture(name="store")
def a_store(path: Path) -> Iterator[Store]:
    """Open a new history, and begin a run."""
    with contextlib.closing(Store(path, ROOM)) as made:
        made.begin("one", NOON_NS)
        yield made


@contextlib.contextmanager
def reading(path: Path) -> Iterator[History]:
    """Read it as a report does."""
    with open_history(path) as found:
        yield found


def seen(path: Path, since: int = 0, until: int = NEVER) -> list[Seen]:
    """Read every sum between these."""
    with reading(path) as found:
        return list(found.seen(since, until))


# Sums


def test_the_same_place_in_the_same_hour_is_one_row(store: Store, path: Path) -> None:
    """Looks add up; the first and the last time are kept."""
    first, later = part(attempts=1), part(bytes_in=7)
    later = later._replace(first_ns=later.first_ns + SECOND, last_ns=later.last_ns + SECOND)
    store.write(batch(first))
    store.write(batch(later))
    (row,) = seen(path)
    assert (row.bytes_out, row.packets_out, row.bytes_in, row.attempts) == (200, 2, 7, 1)
    assert (row.first_ns, row.last_ns) == (first.first_ns, later.last_ns)
    assert (row.hour_ns, row.target, row.exe, row.uid) == (NOON_NS, "ollama", "/usr/bin/curl", 1000)
    assert (row.name, row.name_source, row.remote_addr, row.remote_port) == HUB[:4]


def test_every_counter_keeps_its_column(store: Store, path: Path) -> None:
    """None is mistaken for another: each has a value of its own."""
    counts = {name: 10**position for position, name in enumerate(COUNTERS)}
    store.write(batch(part(**counts)))
    (row,) = seen(path)
    assert {name: getattr(row, name) for name in COUNTERS} == counts


@pytest.mark.parametrize(
    "other",
    [
        part(hour=NOON + 1),
        part(who=CURL._replace(comm="wget")),
        part(who=CURL._replace(uid=None)),
        part(HUB._replace(name="other.example")),
        part(HUB._replace(name=None, name_source="none")),
        part(HUB._replace(remote_port=None)),
        part(HUB._replace(phase="pull")),
        part(HUB._replace(direction="in")),
    ],
)
def test_what_differs_in_anything_is_told_apart(store: Store, path: Path, other: Part) -> None:
    """An hour, a process, an address under another name, a phase."""
    store.write(batch(part(), other, other))
    assert sorted(row.bytes_out for row in seen(path)) == [100, 200]


def test_processes_alike_are_one(store: Store, path: Path) -> None:
    """Process ids are not kept: a thousand short lives make one row."""
    parts = [part(who=CURL._replace(pid=number, ppid=number)) for number in range(1000)]
    store.write(batch(*parts))
    (row,) = seen(path)
    assert row.packets_out == 1000


def test_hours_that_overlap_are_given(store: Store, path: Path) -> None:
    """Of an hour of which a part is asked for, all; the end is not included."""
    store.write(batch(*(part(hour=NOON + number) for number in range(4))))
    found = seen(path, NOON_NS + HOUR_NS + 1, NOON_NS + 3 * HOUR_NS)
    assert [row.hour_ns for row in found] == [NOON_NS + HOUR_NS, NOON_NS + 2 * HOUR_NS]


def test_a_crowd_of_places_is_bounded_and_not_a_byte_short(path: Path) -> None:
    """Beyond the bound there is one more place, of all others in a scope and phase; and it is counted."""
    with contextlib.closing(Store(path, ROOM, places_max=10)) as store:
        store.begin("one", NOON_NS)
        assert store.write(batch(*(part(elsewhere(number)) for number in range(8)))) == 0
        assert store.write(batch(*(part(elsewhere(number)) for number in range(30)))) == 20
        assert store.write(batch(part(elsewhere(3)), part(elsewhere(25)))) == 1
        assert store.write(batch(part(elsewhere(25), who=CURL._replace(comm="wget")))) == 0
        assert store.write(batch(part(elsewhere(25), hour=NOON + 1))) == 0
    rows = [row for row in seen(path) if row.comm == "curl" and row.hour_ns == NOON_NS]
    (other,) = [row for row in rows if row.remote_addr is None]
    assert len(rows) == 11
    assert (other.packets_out, other.name, other.name_source, other.remote_port) == (21, None, "none", None)
    assert (other.scope, other.phase) == (HUB.scope, HUB.phase)
    assert sum(row.packets_out for row in rows) == 40


def test_the_crowd_is_known_after_a_restart(path: Path) -> None:
    """The bound is of the hour, not of a run."""
    for _ in range(3):
        with contextlib.closing(Store(path, ROOM, places_max=10)) as store:
            store.begin("one", NOON_NS)
            store.write(batch(*(part(elsewhere(number)) for number in range(30))))
    rows = seen(path)
    assert (len(rows), sum(row.packets_out for row in rows)) == (11, 90)


# Marks


def test_marks_outlive_a_run_and_not_an_epoch(path: Path) -> None:
    """The same kernel tables go on; others begin at zero."""
    with contextlib.closing(Store(path, ROOM)) as store:
        assert store.begin("one", NOON_NS) == {}
        store.write(batch(part(), marks={b"a": Mark(b"1"), b"b": Mark(b"1", "example.org", "sni")}))
        store.write(batch(part(), marks={b"a": Mark(b"2")}))
    with contextlib.closing(Store(path, ROOM)) as store:
        assert store.begin("one", NOON_NS) == {b"a": b"2", b"b": b"1"}
        assert (store.name_of(b"a"), store.name_of(b"b")) == (None, ("example.org", "sni"))
        store.write(batch(gone={b"a"}))
    with contextlib.closing(Store(path, ROOM)) as store:
        assert store.begin("one", NOON_NS) == {b"b": b"1"}
        assert store.begin("two", NOON_NS) == {}
    assert sum(row.packets_out for row in seen(path)) == 2


def test_the_last_look_is_the_newest_runs_whatever_the_clock_said_before(path: Path) -> None:
    """A clock that was set back leaves an older run that looked later: nobody looks in the future."""
    for at_ns in (NOON_NS + HOUR_NS, NOON_NS):
        with contextlib.closing(Store(path, ROOM)) as store:
            store.begin("epoch", at_ns)
            store.write(batch(look_ns=at_ns + SECOND))
    with reading(path) as history:
        assert history.last_look_ns() == NOON_NS + SECOND


def test_a_batch_is_written_whole_or_not_at_all(store: Store, path: Path) -> None:
    """Where the last of it cannot be written, no sum has moved, and no mark."""
    store.write(batch(part(), marks={b"a": Mark(b"1")}))
    with pytest.raises(sqlite3.Error):
        store.write(batch(part(), marks={b"a": Mark(b"2")}, losses={(NOON, "x"): object()}))
    assert [row.packets_out for row in seen(path)] == [1]
    assert store.begin("one", NOON_NS) == {b"a": b"1"}
    store.write(batch(part()))
    assert [row.packets_out for row in seen(path)] == [2]


def test_what_is_not_written_makes_no_crowd(path: Path) -> None:
    """Places of a batch that failed take no room from those of the next one."""
    with contextlib.closing(Store(path, ROOM, places_max=10)) as store:
        store.begin("one", NOON_NS)
        store.write(batch(part()))
        with pytest.raises(sqlite3.Error):
            store.write(batch(*map(part, map(elsewhere, range(9))), losses={(NOON, "x"): object()}))
        assert store.write(batch(*map(part, map(elsewhere, range(9))))) == 0


def test_a_full_disk_stops_nothing_for_good(path: Path) -> None:
    """What cannot be written raises, leaves the file as it was, and can be written when there is room."""
    with contextlib.closing(Store(path, ROOM)) as store:
        store.begin("one", NOON_NS)
        store._pragma("max_page_count = 64")
        many = [part(who=CURL._replace(exe=f"/{number}" + "x" * 400)) for number in range(1000)]
        store.write(batch(part()))
        with pytest.raises(sqlite3.OperationalError) as caught:
            store.write(batch(*many))
        assert not spoiled(caught.value)
        assert [row.packets_out for row in seen(path)] == [1]
        store.write(batch(part()))
    with contextlib.closing(Store(path, ROOM)) as store:
        store.begin("one", NOON_NS)
        store.write(batch(*many))
    assert sum(row.packets_out for row in seen(path)) == 1002


# Bounds


def test_whole_hours_grow_old(store: Store, path: Path) -> None:
    """Older hours go with their losses, processes and places; no younger one is touched."""
    for number in range(5):
        who = CURL._replace(comm=f"curl{number}")
        store.write(batch(part(who=who, hour=NOON + number), losses={(NOON + number, "flows_full"): 1}))
    assert store.prune(oldest=NOON + 2, present=NOON + 4) == 2
    assert [row.comm for row in seen(path)] == ["curl2", "curl3", "curl4"]
    with reading(path) as found:
        assert found.losses(0, NEVER) == {"flows_full": 3}
        assert found.gaps(0, NOON_NS + 4 * HOUR_NS)[0] == Gap(0, NOON_NS + 2 * HOUR_NS, "pruned")
    assert rows_of(path, "who") == rows_of(path, "place") == 3


def test_the_present_hour_is_never_pruned(store: Store, path: Path) -> None:
    """Not even when it is too old by a clock that jumped."""
    store.write(batch(part()))
    assert store.prune(oldest=NOON + 10, present=NOON) == 0
    assert len(seen(path)) == 1


def test_size_is_bounded_and_no_hour_too_many_goes(path: Path) -> None:
    """Oldest first; with one hour less deleted it would still be too big; the disk gets its room back."""
    room = 2 << 20
    with contextlib.closing(Store(path, room)) as store:
        store.begin("one", NOON_NS)
        hour = NOON
        while not store.tight():
            store.write(batch(*(part(elsewhere(number), hour=hour) for number in range(500))))
            hour += 1
        before = {row.hour_ns for row in seen(path)}
        assert store.prune(oldest=0, present=hour) == 1
        assert not store.tight()
    left = {row.hour_ns for row in seen(path)}
    assert before - left == {NOON_NS}
    assert path.stat().st_size <= room
    with reading(path) as found:
        assert found.gaps(0, NOON_NS + 2 * HOUR_NS)[0] == Gap(0, NOON_NS + HOUR_NS, "pruned")


def test_an_hour_that_is_too_big_gets_no_more_places(path: Path) -> None:
    """Whoever changes its name all the time cannot fill the disk; what is known goes on; no byte is lost."""
    room = 1 << 20
    with contextlib.closing(Store(path, room)) as store:
        store.begin("one", NOON_NS)
        written = crowded = 0
        for number in range(300):
            many = [part(who=CURL._replace(comm=f"x{number}-{one}")) for one in range(50)]
            crowded += store.write(batch(part(), *many))
            written += 51
            if store.tight():
                assert store.prune(oldest=0, present=NOON) == 0
    rows = seen(path)
    assert crowded
    assert path.stat().st_size <= room
    assert sum(row.packets_out for row in rows) == written
    (other,) = [row for row in rows if row.remote_addr is None]
    assert (other.packets_out, other.target, other.comm) == (crowded, "ollama", None)
    assert next(row.packets_out for row in rows if row.comm == "curl") == 300


def test_a_smaller_bound_shrinks_the_file(path: Path) -> None:
    """Whoever lowers max_mb gets the room back at the next start."""
    with contextlib.closing(Store(path, ROOM)) as store:
        store.begin("one", NOON_NS)
        for hour in range(40):
            store.write(batch(*(part(elsewhere(number), hour=NOON + hour) for number in range(500))))
    with contextlib.closing(Store(path, 1 << 20)) as store:
        store.begin("one", NOON_NS)
        assert store.prune(oldest=0, present=NOON + 40)
        store.write(batch(part(hour=NOON + 40)))
    assert path.stat().st_size <= 1 << 20
    hours = sorted({row.hour_ns for row in seen(path)})
    assert hours == list(range(hours[0], NOON_NS + 41 * HOUR_NS, HOUR_NS))


# A file that is none


def test_a_spoiled_file_is_noticed_and_put_aside(path: Path) -> None:
    """Whatever it was is kept under another name, once; a new history begins."""
    for content in (b"no database, " * 1000, b"nor this, " * 1000):
        path.write_bytes(content)
        with pytest.raises(sqlite3.DatabaseError) as caught:
            Store(path, ROOM)
        assert spoiled(caught.value)
        aside = set_aside(path)
        assert (aside.read_bytes(), path.exists()) == (content, False)
    with contextlib.closing(Store(path, ROOM)) as store:
        store.begin("one", NOON_NS)
        store.write(batch(part()))
    assert len(seen(path)) == 1


def test_a_hole_in_the_middle_is_noticed(store: Store, path: Path) -> None:
    """Not only the head of the file is looked at."""
    store.write(batch(*(part(elsewhere(number)) for number in range(200))))
    store.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2 // 4096 * 4096)
        file.write(bytes(range(256)) * 32)
    with pytest.raises(sqlite3.DatabaseError) as caught:
        Store(path, ROOM)
    assert spoiled(caught.value)


def test_a_history_of_another_version_is_put_aside(store: Store, path: Path) -> None:
    """Nobody guesses what its columns mean, neither who writes nor who reads."""
    store.close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(sqlite3.DatabaseError) as caught:
        Store(path, ROOM)
    assert spoiled(caught.value)
    with pytest.raises(HostError, match="version 99"):
        open_history(path)


def test_nobody_else_may_read_it(store: Store, path: Path) -> None:
    """It tells who talks to whom."""
    store.write(batch(part()))
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}


# Reading


def test_no_history_says_how_to_have_one(path: Path) -> None:
    """Exit 3, and the switch."""
    with pytest.raises(HostError, match="no history yet") as caught:
        open_history(path)
    assert "[history]" in caught.value.hint
    assert caught.value.exit_code == 3


def test_an_unreadable_one_says_so(path: Path) -> None:
    """When it is opened or, where only a part is spoiled, when it is read."""
    path.write_bytes(b"no database, " * 1000)
    with pytest.raises(HostError, match="cannot be read: file is not a database"):
        open_history(path)


def test_a_folder_that_may_not_be_entered_says_sudo(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for who is not root."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "stat", refuse)
    with pytest.raises(HostError, match="cannot be read: Permission denied") as caught:
        open_history(path)
    assert "sudo" in caught.value.hint


def test_it_can_be_read_while_it_is_written(store: Store, path: Path) -> None:
    """A reader sees whole looks, and holds nobody up."""
    store.write(batch(part()))
    with reading(path) as found:
        rows = found.seen(0, NEVER)
        assert next(rows).packets_out == 1
        store.write(batch(part()))
        assert not list(rows)
        assert [row.packets_out for row in found.seen(0, NEVER)] == [2]


def test_losses_are_summed_by_reason(store: Store, path: Path) -> None:
    """Of the hours that are asked for."""
    store.write(batch(losses={(NOON, "flows_full"): 3, (NOON, "ring_full"): 1}))
    store.write(batch(losses={(NOON, "flows_full"): 4, (NOON + 1, "flows_full"): 5}))
    with reading(path) as found:
        assert found.losses(NOON_NS, NOON_NS + 1) == {"flows_full": 7, "ring_full": 1}
        assert found.losses(NOON_NS + HOUR_NS, NEVER) == {"flows_full": 5}


def runs(path: Path, *spans: tuple[int, int, bool], epochs: str = "abcdefgh") -> None:
    """Have runs started, looked last (seconds after noon) and ended by themselves or not."""
    for (start, last, over), epoch in zip(spans, epochs, strict=False):
        with contextlib.closing(Store(path, ROOM)) as store:
            store.begin(epoch, NOON_NS + start * SECOND)
            store.write(batch(look_ns=NOON_NS + last * SECOND, over=over))


def told(path: Path, since: int, until: int) -> list[tuple[int, int, str]]:
    """Give the gaps between these, in seconds after noon."""
    with reading(path) as found:
        gaps = found.gaps(NOON_NS + since * SECOND, NOON_NS + until * SECOND)
    return [
        ((one.start_ns - NOON_NS) // SECOND, (one.end_ns - NOON_NS) // SECOND, one.reason) for one in gaps
    ]


def test_gaps_are_told_with_their_reason(path: Path) -> None:
    """Before the first run, after a stop, after a kill; nothing where looks follow each other."""
    runs(path, (100, 200, True), (300, 400, False), (450, 500, True))
    everything = [(0, 100, "before"), (200, 300, "stopped"), (400, 450, "killed"), (500, 600, "stopped")]
    assert told(path, 0, 600) == everything
    assert told(path, 250, 420) == [(250, 300, "stopped"), (400, 420, "killed")]
    assert told(path, 300, 400) == []
    with reading(path) as found:
        assert found.last_look_ns() == NOON_NS + 500 * SECOND


def test_a_gap_says_whether_the_kernel_went_on_counting(path: Path) -> None:
    """Only if the next run has the same counters, whoever ended the one before: not after a power cut."""
    spans = ((100, 200, True), (300, 400, False), (500, 600, True), (700, 800, False))
    runs(path, *spans, (900, 950, False), epochs="aaabc")
    with reading(path) as found:
        gaps = found.gaps(NOON_NS, NOON_NS + 1000 * SECOND)
    assert [(one.reason, one.counted) for one in gaps] == [
        ("before", False),
        ("stopped", True),
        ("killed", True),
        ("stopped", False),
        ("killed", False),
        ("killed", False),
    ]


def test_a_run_that_goes_on_has_no_gap(path: Path) -> None:
    """As long as it looked a while ago; one that looked long ago was killed, or cannot write."""
    now = time.time_ns()
    with contextlib.closing(Store(path, ROOM)) as store:
        store.begin("one", now - 3600 * SECOND)
        store.write(batch(look_ns=now - SECOND))
        with reading(path) as found:
            assert found.gaps(now - 1800 * SECOND, now + 1800 * SECOND) == []
        last = now - ALIVE_NS - SECOND
        store.write(batch(look_ns=last))
        with reading(path) as found:
            assert found.gaps(now - 1800 * SECOND, now) == [Gap(last, now, "killed")]


def test_gaps_of_pruned_hours_are_one(path: Path) -> None:
    """What is older than what is kept is told once; the gap that reaches out of it stays."""
    hour = 3600
    runs(path, (0, 60, True), (120, 180, True), (hour + 10, hour + 20, True), (5 * hour, 5 * hour + 60, True))
    with contextlib.closing(Store(path, ROOM)) as store:
        store.begin("one", NOON_NS + 6 * hour * SECOND)
        store.write(batch(part(hour=NOON + 1), part(hour=NOON + 6), look_ns=NOON_NS + 6 * hour * SECOND))
        assert store.prune(oldest=NOON + 3, present=NOON + 6) == 1
    assert told(path, 0, 6 * hour) == [
        (0, 2 * hour, "pruned"),
        (2 * hour, 5 * hour, "stopped"),
        (5 * hour + 60, 6 * hour, "stopped"),
    ]
    assert rows_of(path, "run") == 3


def rows_of(path: Path, name: str) -> int:
    """Count the rows of a table."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        return int(db.execute(f"SELECT count(*) FROM {name}").fetchone()[0])  # noqa: S608
