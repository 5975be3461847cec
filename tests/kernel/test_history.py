"""The history that a real daemon writes, held against what the receiving ends of the wire have counted."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.cgroups import Jail
from tests.support.daemon import Tattle, until
from tests.support.network import CLIENT4, MORE4, PEER4, Lab, Wire
from tracer.bpf.engine import EngineOptions
from tracer.config import History
from tracer.errors import HostError
from tracer.history import recorder
from tracer.history.reader import open_history
from tracer.history.recorder import Recorder
from tracer.history.store import FILE
from tracer.session import flows as accounts
from tracer.session.session import Core

if TYPE_CHECKING:
    from tracer.history.reader import Seen

ALWAYS = (0, 1 << 62)
EARLY, LATER = 100_000, 300_000
DATAGRAM = 100 + 28  # of traffic/udp.py, op spread, on the wire


def file_of(tattle: Tattle) -> Path:
    """Return where a daemon keeps its history."""
    return Path("/var/lib") / tattle.instance / FILE


def seen(path: Path, *comms: str) -> list[Seen]:
    """Read the sums of these programs, of all hours."""
    with open_history(path) as history:
        return [row for row in history.seen(*ALWAYS) if row.comm in comms]


def summed(rows: list[Seen]) -> Wire:
    """Add sums up."""
    return Wire(*(sum(getattr(row, name) for row in rows) for name in Wire._fields))


def gaps(path: Path) -> list[str]:
    """Read the reasons of all gaps, the oldest first, and whether the kernel went on counting."""
    with open_history(path) as history:
        return [f"{gap.reason}, counted" if gap.counted else gap.reason for gap in history.gaps(*ALWAYS)]


def begun(path: Path) -> bool:
    """Tell whether a run is written down."""
    try:
        return bool(gaps(path))
    except HostError:
        return False


def test_a_stopped_daemon_has_written_every_byte(lab: Lab, tattle: Tattle) -> None:
    """Two runs, each with counters of its own from zero: the sum is what was on the wire; the gap is told."""
    port, name = lab.peer.serve(), lab.name("night")
    for up in (EARLY, LATER):
        tattle.start()
        program, _ = lab.run("tcp.py", name=name, op="transfer", host=PEER4, port=port, up=up, down=up)
        assert tattle.stop() == 0
    rows = seen(file_of(tattle), name)
    assert summed(rows) == lab.wire("tcp", PEER4, port)
    assert {(row.remote_addr, row.remote_port, row.direction, row.exe) for row in rows} == {
        (PEER4, port, "out", program.exe)
    }
    assert sum(row.attempts for row in rows) == sum(row.established for row in rows) == 2
    assert gaps(file_of(tattle)) == ["before", "stopped", "stopped"]


def test_a_killed_daemon_is_followed_by_one_that_knows_what_is_told(lab: Lab, tattle: Tattle) -> None:
    """SIGKILL, traffic on a connection that is half told, a new daemon: each byte once; the gap is told."""
    port = lab.peer.serve()
    tattle.start()
    program = lab.start("tcp.py", op="held", host=PEER4, port=port, early=EARLY, up=LATER)
    program.ready()
    lab.drained(port, EARLY)
    until(lambda: [] if summed(seen(file_of(tattle), program.name)).bytes_out > EARLY else ["not told yet"])
    tattle.kill()
    half = summed(seen(file_of(tattle), program.name))
    program.go()
    program.result()
    tattle.start()
    assert tattle.stop() == 0
    wire = lab.wire("tcp", PEER4, port)
    assert half.bytes_out < wire.bytes_out
    assert summed(seen(file_of(tattle), program.name)) == wire
    assert gaps(file_of(tattle)) == ["before", "killed, counted", "stopped"]


def test_kills_at_any_moment(lab: Lab, tattle: Tattle) -> None:
    """Killed in the middle of traffic, and of writing, again and again: not a byte twice, none left out."""
    name, count, rounds, first = lab.name("kills"), 1500, 5, 21_000
    before = lab.wire("udp", MORE4[0], None)
    for number in range(rounds):
        tattle.start()
        started = lab.start("udp.py", name=name, op="spread", host=MORE4[0], first=first, count=count)
        if number % 2:
            started.result()
            until(lambda: [] if seen(file_of(tattle), name) else ["nothing is told"])
        tattle.kill()
        if not number % 2:
            started.result()
    tattle.start()
    assert tattle.stop() == 0
    rows = seen(file_of(tattle), name)
    assert summed(rows) == Wire(rounds * count * DATAGRAM, 0, rounds * count, 0)
    assert summed(rows) == lab.wire("udp", MORE4[0], None).less(before)
    assert sum(row.attempts for row in rows) == rounds * count
    told = gaps(file_of(tattle))  # whoever is killed before the first look leaves no word, not even that
    assert (told[0], told[-1], set(told[1:-1])) == ("before", "stopped", {"killed, counted"})


def test_many_flows_that_leave_the_table(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settled between looks and before them, made again under the same key, taken over: all of it once."""
    monkeypatch.setattr(accounts, "IDLE_NS", 0)
    monkeypatch.setattr(recorder, "UNNAMED_NS", 0)
    name, count, rounds, first = lab.name("settle"), 700, 6, 23_000
    before = lab.wire("udp", MORE4[1], None)
    core = Core(EngineOptions(instance=f"remembered-{os.getpid()}", pin=False), None)
    path = tmp_path / FILE
    try:
        writer = Recorder(core.accounts, path, History())
        for number in range(rounds):
            lab.run("udp.py", name=name, op="spread", host=MORE4[1], first=first, count=count)
            if number % 2:
                assert writer.look()
            until(lambda: [] if core.accounts._settle(0) or not mine(core, name) else ["still there"])
            assert not mine(core, name)
            if number % 3:
                assert writer.look()
            if number == rounds // 2 + 1:  # as after a kill, when nothing waits to be written
                core.accounts._settlers.clear()
                writer = Recorder(core.accounts, path, History())
        assert writer.look(over=True)
    finally:
        core.close()
    rows = seen(path, name)
    assert summed(rows) == Wire(rounds * count * DATAGRAM, 0, rounds * count, 0)
    assert summed(rows) == lab.wire("udp", MORE4[1], None).less(before)


def mine(core: Core, name: str) -> list[int]:
    """Return the ports to which a program has flows in the kernel's table."""
    get = core.accounts.registry.get
    return [row.remote_port for row in core.accounts.rows() if (who := get(row.process)) and who.comm == name]


def test_a_policy_keeps_the_kernel_counting(lab: Lab, tattle: Tattle) -> None:
    """Stopped with a policy in force, the counters go on: the next run tells all, and denials by target."""
    port, name = lab.peer.serve(), lab.name("policy")
    tattle.start()
    jail = Jail(lab, tattle)
    jail.block()
    try:
        lab.run("tcp.py", name=name, op="transfer", host=PEER4, port=port, up=EARLY)
        assert tattle.stop() == 0
        lab.run("tcp.py", name=name, op="transfer", host=PEER4, port=port, up=LATER)
        kept = lab.name("kept")
        lab.run("tcp.py", name=kept, cgroup=jail.inside, op="probe", host=PEER4, port=port, times=7)
        tattle.start()
        assert tattle.stop() == 0
    finally:
        jail.unblock()
    assert summed(seen(file_of(tattle), name)) == lab.wire("tcp", PEER4, port)
    (row,) = seen(file_of(tattle), kept)
    assert (row.target, row.attempts, row.denied, row.established) == (jail.selector, 7, 7, 0)
    assert summed([row]) == Wire(0, 0, 0, 0)
    assert gaps(file_of(tattle)) == ["before", "stopped, counted", "stopped"]


def test_clients_of_a_server_are_one_row(lab: Lab, tattle: Tattle) -> None:
    """Direction in has no port: a hundred connections of one client are a place, with all their bytes."""
    port, clients = lab.port(), 100
    tattle.start()
    server = lab.start("tcp.py", op="serve", host=CLIENT4, port=port, up=10, down=LATER, times=clients)
    server.ready()
    server.go()
    before = lab.wire("tcp", PEER4, None)
    for _ in range(clients):
        lab.peer.ask(do="call", host=CLIENT4, port=port, up=10, down=LATER)
    server.result()
    assert tattle.stop() == 0
    (row,) = seen(file_of(tattle), server.name)
    assert (row.direction, row.remote_addr, row.remote_port, row.established) == ("in", PEER4, None, clients)
    assert summed([row]) == lab.wire("tcp", PEER4, None).less(before)


def test_a_full_disk_delays_the_history(lab: Lab, tattle: Tattle) -> None:
    """It is counted and said, the daemon goes on, and when there is room all is told, once."""
    name, count = lab.name("full"), 3000
    before = lab.wire("udp", MORE4[2], None)
    folder = file_of(tattle).parent
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], check=True)
    try:
        tattle.start()
        until(lambda: [] if begun(file_of(tattle)) else ["not begun"])
        with pytest.raises(OSError, match="No space left"):
            (folder / "filler").write_bytes(bytes(1 << 20))
        lab.run("udp.py", name=name, op="spread", host=MORE4[2], first=26_000, count=count)
        until(lambda: [] if tattle.losses().get("history_unwritten") else ["no complaint"])
        assert b"cannot be written now" in tattle.errors.read_bytes()
        subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
        until(lambda: [] if seen(file_of(tattle), name) else ["not told yet"], patience=90)
        assert tattle.stop() == 0
        assert summed(seen(file_of(tattle), name)) == lab.wire("udp", MORE4[2], None).less(before)
        assert gaps(file_of(tattle)) == ["before", "stopped"]
    finally:
        tattle.kill()
        subprocess.run(["umount", str(folder)], check=True)
