"""What the daemon writes down: each byte once, whatever is killed, full, spoiled or gone in the meantime."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.support.fakes import flow
from tests.support.recorder import HOUR, MINUTE, SECOND, Clock, Scene, during_the_write
from tracer.history import recorder as module
from tracer.history.recorder import Pile
from tracer.history.store import FILE, HOUR_NS, Store

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(name="clock")
def a_clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Stop the time."""
    return Clock(monkeypatch)


@pytest.fixture(name="scene")
def a_scene(tmp_path: Path, clock: Clock) -> Scene:
    """Return a fresh table and file."""
    return Scene(tmp_path / FILE, clock)


# What has come since


def test_a_look_adds_what_has_come_since_the_last_one(scene: Scene) -> None:
    """And nothing where nothing has."""
    scene.move(100)
    assert scene.recorder.look()
    assert scene.recorder.look()
    scene.move(11)
    scene.move(7, remote_port=80)
    assert scene.recorder.look()
    assert {row.remote_port: row.bytes_out for row in scene.seen()} == {443: 111, 80: 7}
    (row,) = [row for row in scene.seen() if row.remote_port == 443]
    assert (row.comm, row.exe, row.unit, row.uid) == ("curl", "/usr/bin/curl", "demo.service", 1000)
    assert (row.proto, row.scope, row.direction, row.phase) == ("tcp", "internet", "out", "unknown")
    assert (row.attempts, row.packets_out) == (0, 2)


def test_many_flows_are_written_in_parts(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that fails in the middle is none: what is written stays, the rest comes with the next one."""
    monkeypatch.setattr(module, "ROWS_MAX", 10)
    for number in range(35):
        scene.move(100, remote_port=1000 + number)
    with during_the_write(monkeypatch, lambda: scene.move(1, remote_port=1000), fails=3):
        assert not scene.recorder.look()
    assert len(scene.seen()) == 20
    assert scene.recorder.look()
    assert (len(scene.seen()), scene.total()) == (35, 3503)


def test_a_killed_daemon_is_followed_by_one_that_goes_on(scene: Scene) -> None:
    """What the kernel counted meanwhile is told once; the gap is told, too."""
    scene.move(100)
    scene.recorder.look()
    scene.clock.now += MINUTE
    scene.move(11)
    scene.begin()
    scene.move(7)
    scene.recorder.look()
    assert scene.total() == 118
    assert [(gap.end_ns - gap.start_ns, gap.reason) for gap in scene.gaps()][1:] == [(MINUTE, "killed")]


def test_a_new_table_begins_at_zero(scene: Scene) -> None:
    """The same flow under the same key, counted anew from the start of the next run: all of it counts."""
    scene.move(100)
    scene.end()
    scene.maps.rows, scene.maps.number = [], 2
    scene.clock.now += MINUTE
    scene.begin()
    scene.move(100)
    scene.end()
    assert scene.total() == 200
    assert [gap.reason for gap in scene.gaps()] == ["before", "stopped"]


def test_what_leaves_the_table_and_comes_again(scene: Scene) -> None:
    """The last of it is told, then it begins at zero; also if it comes again with more than before."""
    scene.move(100)
    scene.recorder.look()
    scene.move(11)
    scene.clock.now += 2 * MINUTE
    scene.settle()
    assert scene.maps.rows == []
    scene.move(500)
    scene.recorder.look()
    scene.clock.now += 2 * MINUTE
    scene.settle()
    scene.settle()
    scene.recorder.look()
    scene.move(500)
    scene.recorder.look()
    assert scene.total() == 1111


@pytest.mark.parametrize("fails", [False, True])
def test_what_leaves_the_table_while_it_is_written(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, *, fails: bool
) -> None:
    """Once, whether the writing succeeds or not, and whether it comes again before the next look or not."""
    scene.move(100)
    scene.recorder.look()
    scene.move(11)
    scene.clock.now += 2 * MINUTE

    def leave() -> None:
        scene.settle()
        scene.move(7)

    with during_the_write(monkeypatch, leave, fails=fails):
        assert scene.recorder.look() is not fails
    scene.move(500)
    scene.recorder.look()
    assert scene.total() == 618


@pytest.mark.parametrize("fails", [False, True])
def test_a_mark_of_what_is_gone_is_not_believed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, *, fails: bool
) -> None:
    """Killed between leaving and writing: the flow that came again is another one, even if it has more."""
    scene.move(100)
    scene.move(100, remote_port=80)
    scene.recorder.look()
    scene.clock.now += 2 * MINUTE
    scene.settle()
    scene.move(500)
    scene.begin()
    if fails:
        with during_the_write(monkeypatch, lambda: None, fails=True):
            assert not scene.recorder.look()
    scene.recorder.look()
    assert scene.total() == 700
    scene.move(30, remote_port=80)
    scene.recorder.look()
    assert scene.total() == 730


OPS = st.lists(
    st.sampled_from(
        ("move", "other", "look", "fail", "late", "idle", "flight", "crash", "late crash", "kill", "end")
    ),
    max_size=40,
)


@given(OPS)
@settings(max_examples=80, deadline=None)
def test_every_byte_is_told_once(tmp_path_factory: pytest.TempPathFactory, ops: list[str]) -> None:
    """Traffic, looks that fail, flows that leave at any moment, kills and stops, in any order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROWS_MAX", 1)
        scene = Scene(tmp_path_factory.mktemp("any") / FILE, Clock(patch))
        truth = unsaved = unsure = 0

        def leave() -> None:
            scene.clock.now += 2 * MINUTE
            scene.settle()

        for number, op in enumerate(ops, 1):
            scene.clock.now += SECOND
            if op in {"move", "other"}:
                scene.move(number, age=number % 3 * SECOND, remote_port=443 if op == "move" else 80)
                truth += number
            elif op == "idle":
                leave()
            elif op in {"look", "fail", "late"}:
                with during_the_write(patch, lambda: None, fails=("look", "fail", "late").index(op)):
                    scene.recorder.look()
            elif op in {"flight", "crash", "late crash"}:
                with during_the_write(patch, leave, fails=("flight", "crash", "late crash").index(op)):
                    scene.recorder.look()
            elif op == "kill":
                # What left the table and was not written is lost, if it was not written by a daemon before
                waits = sum(part.counts[5] for part in scene.recorder._left)
                unsaved += waits if scene.recorder._store else 0
                unsure += waits if not scene.recorder._store else 0
                scene.begin()
            else:
                scene.end()
                scene.begin()
        scene.end()
        assert scene.marks() == len(scene.maps.rows) + 2
        assert truth - unsaved - unsure <= scene.total() <= truth - unsaved


def test_what_leaves_before_the_file_can_be_opened(scene: Scene) -> None:
    """Its mark is not known then: what was told of it before is taken off when it is."""
    scene.move(100)
    scene.recorder.look()
    scene.clock.now += 2 * MINUTE
    scene.move(11)
    scene.begin()
    scene.clock.now += 2 * MINUTE
    scene.settle()
    scene.recorder.look()
    assert scene.total() == 111
    scene.move(7)
    scene.recorder.look()
    assert scene.total() == 118


def test_handshakes_that_nobody_completed(scene: Scene) -> None:
    """They are in no flow: told whole, and none is mistaken for a flow of the same key."""
    knock = flow(direction=1, remote_port=0, bytes_in=60, packets_in=1, first_ns=1, last_ns=1)
    scene.maps.rows = [knock._replace(bytes_in=1000, packets_in=10, last_ns=scene.clock.boot)]
    scene.recorder.look()
    scene.maps.knocks = [knock]
    scene.accounts._settle_handshakes()
    scene.recorder.look()
    scene.recorder.look()
    assert [(row.bytes_in, row.direction) for row in scene.seen()] == [(1060, "in")]


def test_what_found_no_room_in_the_table(scene: Scene) -> None:
    """A place of no address and of unknown scope; from its mark on after a restart."""
    for size in (100, 200):
        scene.maps.unplaced = {"bytes_out": size, "packets_out": 1, "last_ns": scene.clock.boot}
        scene.recorder.look()
        scene.begin()
    scene.recorder.look()
    (row,) = scene.seen()
    assert (row.bytes_out, row.remote_addr, row.scope, row.comm) == (200, None, "unknown", None)


# Where it is told


def test_ports_of_clients_are_not_told(scene: Scene) -> None:
    """A busy server has one row for each client, not one for each connection."""
    for number in range(100):
        scene.move(1, remote_port=50_000 + number, direction=1)
    scene.recorder.look()
    (row,) = scene.seen()
    assert (row.remote_port, row.bytes_out) == (None, 100)


def test_a_name_is_kept_over_a_restart(scene: Scene) -> None:
    """Who said it is gone; the connection is the same."""
    remote = flow().remote
    scene.names[remote] = "example.org"
    scene.move(100)
    scene.recorder.look()
    scene.names.clear()
    scene.begin()
    scene.move(11)
    scene.recorder.look()
    scene.move(7)
    scene.recorder.look()
    assert [(row.name, row.name_source, row.bytes_out) for row in scene.seen()] == [
        ("example.org", "sni", 118)
    ]


def test_a_flow_waits_until_its_client_can_have_said_a_name(scene: Scene) -> None:
    """Else a look between connect and first words made a place without one. The last look does not wait."""
    scene.move(60, age=0)
    scene.recorder.look()
    assert scene.seen() == []
    scene.clock.now += 5 * SECOND
    scene.names[flow().remote] = "example.org"
    scene.move(500)
    scene.recorder.look()
    scene.move(60, age=0, remote_port=80)
    scene.end()
    assert {(row.name, row.remote_port): row.bytes_out for row in scene.seen()} == {
        ("example.org", 443): 560,
        ("example.org", 80): 60,
    }


def test_an_address_under_two_names_is_two_places(scene: Scene) -> None:
    """Each has what came while it was called so."""
    remote = flow().remote
    for name, size in (("a.example", 100), ("b.example", 11)):
        scene.names[remote] = name
        scene.move(size)
        scene.recorder.look()
    assert {row.name: row.bytes_out for row in scene.seen()} == {"a.example": 100, "b.example": 11}


def hours(scene: Scene) -> dict[int, int]:
    """Give the bytes of each hour, counted from the first of the scene."""
    found: dict[int, int] = {}
    for row in scene.seen():
        hour = row.hour_ns // HOUR_NS - HOUR
        found[hour] = found.get(hour, 0) + row.bytes_out
        assert row.hour_ns <= row.first_ns <= row.last_ns < row.hour_ns + HOUR_NS
    return found


def test_an_hour_ends_with_a_look_of_its_own(scene: Scene) -> None:
    """What it finds is of the hour that ends, though it came a moment later."""
    scene.recorder.look()
    scene.move(100)
    scene.recorder.look()
    scene.clock.now = (HOUR + 1) * HOUR_NS - SECOND
    scene.move(11)
    scene.clock.now = (HOUR + 1) * HOUR_NS + SECOND // 100
    scene.move(3)
    scene.recorder.look()
    scene.clock.now += SECOND
    scene.move(7)
    scene.recorder.look()
    assert hours(scene) == {0: 114, 1: 7}


def test_what_was_counted_without_a_daemon_is_told_when_it_moved_last(scene: Scene) -> None:
    """Not in the hour in which somebody looked again."""
    scene.move(100)
    scene.recorder.look()
    scene.clock.now += HOUR_NS
    scene.move(11)
    scene.move(50, remote_port=80)
    scene.clock.now += 3 * HOUR_NS
    scene.begin()
    scene.move(7, remote_port=22)
    scene.recorder.look()
    assert hours(scene) == {0: 100, 1: 61, 4: 7}


def test_a_clock_that_jumps_loses_nothing(scene: Scene) -> None:
    """Forth and back."""
    for step in (0, 50 * HOUR_NS, -80 * HOUR_NS, 30 * HOUR_NS):
        scene.clock.now += step
        scene.move(100)
        scene.recorder.look()
    assert scene.total() == 400


# What goes wrong


def test_losses_are_told_by_hour(scene: Scene) -> None:
    """The kernel's go on over a restart; those of the history itself begin with each daemon."""
    scene.maps.lost["flows_full"] = 3
    scene.recorder.look()
    scene.accounts.count_lost("history_full", 2)
    scene.accounts.count_lost("log_full", 9)
    scene.recorder.look()
    scene.begin()
    scene.maps.lost["flows_full"] = 5
    scene.accounts.count_lost("history_full", 1)
    scene.recorder.look()
    assert scene.losses() == {"flows_full": 5, "history_full": 3}
    scene.maps.lost["flows_full"], scene.maps.number = 1, 2
    scene.begin()
    scene.recorder.look()
    assert scene.losses() == {"flows_full": 6, "history_full": 3}


def test_a_full_disk_delays_and_loses_nothing(scene: Scene) -> None:
    """It is said once, counted each time, and all is there when there is room again."""
    scene.move(100)
    scene.recorder.look()
    assert scene.recorder._store
    scene.recorder._store._pragma("max_page_count = 1")
    for number in range(300):
        scene.move(10, remote_port=1000 + number)
    with capture_logs() as logs:
        assert not scene.recorder.look()
        scene.clock.now += 2 * MINUTE
        scene.settle()
        assert not scene.recorder.look()
        scene.recorder._store._pragma("max_page_count = 100000")
        assert scene.recorder.look()
    assert [(record["event"], record.get("error")) for record in logs] == [
        ("the history cannot be written now; what has come waits", "database or disk is full"),
        ("the history is written again, nothing is missing from it", None),
    ]
    assert (scene.total(), scene.losses()["history_unwritten"]) == (3100, 2)


def test_a_spoiled_file_is_put_aside(scene: Scene) -> None:
    """A new one begins, with all that the kernel still knows; the loss is counted in it."""
    scene.path.write_bytes(b"no database, " * 1000)
    scene.move(100)
    with capture_logs() as logs:
        assert scene.recorder.look()
    scene.move(11)
    assert scene.recorder.look()
    assert (scene.total(), scene.losses()) == (111, {"history_reset": 1})
    assert scene.path.with_name(f"{FILE}.broken").read_bytes().startswith(b"no database")
    assert [record["event"] for record in logs] == ["the history is spoiled; a new one begins"]


def test_a_disk_that_spoils_everything_is_said(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not tried again and again in one look."""

    def spoil(*_: object) -> int:
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error

    scene.move(100)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", spoil)
        assert not scene.recorder.look()
    assert scene.accounts.lost == {"history_reset": 1, "history_unwritten": 1}
    assert scene.recorder.look()
    assert scene.total() == 100


def test_a_file_that_somebody_removed_begins_anew(scene: Scene) -> None:
    """Nothing is written into a file that no name leads to."""
    scene.move(100)
    scene.recorder.look()
    for path in scene.path.parent.iterdir():
        path.unlink()
    scene.move(11)
    scene.recorder.look()
    assert scene.total() == 111


def test_a_folder_that_cannot_be_written_is_said(scene: Scene, tmp_path: Path) -> None:
    """And does not end the daemon."""
    (tmp_path / "blocked").write_text("a file where a folder should be")
    scene.recorder._path = tmp_path / "blocked" / FILE
    scene.move(100)
    with capture_logs() as logs:
        assert not scene.recorder.look()
    assert [record["event"] for record in logs] == ["the history cannot be written now; what has come waits"]
    scene.recorder._path = scene.path
    assert scene.recorder.look()
    assert scene.total() == 100


def test_old_hours_go_by_the_configuration(scene: Scene) -> None:
    """After so many days, at the next turn of an hour."""
    scene.move(100)
    scene.recorder.look()
    scene.clock.now += 30 * 24 * HOUR_NS
    scene.move(11)
    scene.recorder.look()
    assert scene.total() == 111
    scene.clock.now += HOUR_NS
    scene.recorder.look()
    assert scene.total() == 11


def test_waiting_sums_are_bounded(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing can be written, what is gone and too much to be told apart keeps its hour and target."""
    monkeypatch.setattr(module, "LEFT_MAX", 10)
    scene.recorder._left = Pile(10)
    for number in range(30):
        scene.move(100, remote_port=1000 + number)
    scene.clock.now += 2 * MINUTE
    scene.settle()
    scene.recorder.look()
    rows = scene.seen()
    assert (len(rows), scene.total()) == (11, 3000)
    assert [(row.bytes_out, row.comm) for row in rows if row.remote_addr is None] == [(2000, None)]
    assert scene.accounts.lost["history_full"] == 20


# Its thread


def test_the_thread_looks_at_once_and_at_the_end(tmp_path: Path) -> None:
    """A stop is told as one, and what came until then is there."""
    with pytest.MonkeyPatch.context() as patch:
        scene = Scene(tmp_path / FILE, Clock(patch))
    scene.recorder.start()
    scene.move(100)
    scene.recorder.close()
    assert scene.total() == 100
    with contextlib.closing(sqlite3.connect(scene.path)) as db:
        ((last, ended),) = db.execute("SELECT last_look_ns, ended_ns FROM run").fetchall()
    assert last == ended
