"""No gap: services that restart, policies that change, a tattle that dies, under traffic. Nothing arrives."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.kernel.egress_paths import WAYS
from tests.support.cgroups import Jail, flood, tattle
from tests.support.daemon import Tattle, run, until
from tests.support.network import PEER4
from tests.support.packet_counters import enter
from tracer.bpf import libbpf
from tracer.bpf.engine import Engine
from tracer.policy.rules import Policy, compile_policy
from tracer.policy.tables import PolicyTables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.cgroups import Judge
    from tests.support.network import Lab

ROUNDS = 1000


@pytest.fixture
def daemon(scratch: Path) -> Iterator[Tattle]:
    """Run a daemon of one's own, which may be killed."""
    made = Tattle(scratch)
    try:
        made.start()
        yield made
    finally:
        made.remove()


@pytest.fixture
def cell(lab: Lab, daemon: Tattle) -> Jail:
    """Block a cgroup by a daemon of one's own."""
    made = Jail(lab, daemon)
    made.block()
    return made


def remade(lab: Lab, path: Path, rounds: int, where: str = "") -> list[int]:
    """Remove and make a cgroup so many times, with a first datagram and connect at once in each."""
    port = lab.peer.serve("udp")
    command_ = lab.program("remade.c", lab.name("remade"))
    done = subprocess.run(
        [*command_, str(path), where, PEER4, str(port), str(rounds)],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: enter(lab.client.fd),
    )
    found: list[int] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(("where", "rounds"), [("", ROUNDS), ("/below", ROUNDS // 2)])
def test_a_cgroup_made_again_is_covered(where: str, rounds: int, lab: Lab, cell: Jail, judge: Judge) -> None:
    """A thousand times removed, made and used at once, itself or a cgroup in it: each call fails."""
    before = judge.arrived()
    assert remade(lab, cell.inside, rounds, where) == [0, 2 * rounds]
    assert judge.arrived() == before
    cell.inside.mkdir(exist_ok=True)
    until(lambda: [] if cell.state()["active"] else ["not active"])


def test_a_target_that_is_not_there_yet(lab: Lab, daemon: Tattle, judge: Judge) -> None:
    """Is blocked before it exists, and covered when it appears."""
    made = Jail(lab, daemon)
    made.inside.rmdir()
    assert "not there yet, covered when it appears" in made.block()
    before = judge.arrived()
    assert remade(lab, made.inside, 5) == [0, 10]
    assert judge.arrived() == before
    made.inside.mkdir(exist_ok=True)


def test_policies_are_swapped_whole(lab: Lab, cell: Jail, judge: Judge) -> None:
    """A thousand changes between policies that both deny it, each by other rules: nothing slips through."""
    others = tuple(f"203.0.113.{n}/32:443" for n in range(20))
    policies = [
        Policy(cell.selector, allow=others),
        Policy(cell.selector, deny=("198.51.100.0/24", *others), default_allow=True),
    ]
    with flood(lab, cell, judge), Engine.attach_readonly(cell.daemon.instance) as engine:
        tables, (number,) = PolicyTables(engine.maps, engine.abi), set(engine.maps.target_paths().values())
        compiled = [compile_policy(policy) for policy in policies]
        for swap in range(ROUNDS + 1):
            tables.put(number, compiled[swap % 2])
        assert tables.in_force().keys() == {number}
        left = list(libbpf.keys(engine.maps.fd("rules"), engine.maps.shape("rules").key_size))
        assert len(left) == len(others)


def test_killed_under_traffic(lab: Lab, cell: Jail, judge: Judge) -> None:
    """SIGKILL, and started again: not one packet meanwhile, and the counters go on."""
    with flood(lab, cell, judge) as names:
        for _ in range(3):
            counted = cell.denials(*names)
            cell.daemon.kill()
            assert cell.state()["active"]
            cell.daemon.start()
            assert cell.state()["active"]
            assert cell.denials(*names) > counted > 0


def test_stopped_it_stays_in_force(lab: Lab, cell: Jail, judge: Judge) -> None:
    """Stopping leaves it; unblock without a daemon takes everything away."""
    with flood(lab, cell, judge):
        assert cell.daemon.stop() == 0
        assert cell.state()["active"]
    cell.unblock()
    assert not Path(f"/sys/fs/bpf/{cell.daemon.instance}").exists()
    assert cell.daemon.ask("status")["hooks"] == []


def test_without_a_daemon(lab: Lab, scratch: Path, judge: Judge) -> None:
    """Block needs none: it loads, pins and goes; a daemon that starts later goes on with it."""
    later = Tattle(scratch)
    made = Jail(lab, later)
    try:
        made.block()
        later.start()
        with flood(lab, made, judge):
            assert made.state()["active"]
            assert later.stop() == 0
            made.block("--allow", "203.0.113.0/24")
            assert made.state()["rules"] == ["allow 203.0.113.0/24"]
        made.unblock()
    finally:
        later.remove()


def test_restored_when_nothing_is_left(lab: Lab, scratch: Path, judge: Judge) -> None:
    """After a reboot, which leaves no pin, what was kept is in force before READY=1."""
    again = Tattle(scratch)
    made = Jail(lab, again)
    try:
        made.block("--allow", "203.0.113.0/24:443")
        shutil.rmtree(f"/sys/fs/bpf/{again.instance}")
        assert made.state()["active"] is False
        again.start()
        assert made.state()["active"] is True
        with flood(lab, made, judge):
            tattle(again.instance, "status")
    finally:
        again.remove()


def test_another_build_takes_over_without_a_gap(lab: Lab, cell: Jail, judge: Judge) -> None:
    """A successor with tables of other sizes brings its own, in force before the old ones go."""
    config = cell.daemon.log.with_suffix(".toml")
    config.write_text("[limits]\nflows = 4096\n")
    with flood(lab, cell, judge):
        cell.daemon.kill()
        cell.daemon.options = ("--config", str(config))
        cell.daemon.start()
        assert cell.state()["active"]


def reload(daemon: Tattle) -> None:
    """Have it read its configuration again."""
    assert daemon.process
    daemon.process.send_signal(signal.SIGHUP)


def test_configured_policies(lab: Lab, scratch: Path, judge: Judge) -> None:
    """[[policy]] is in force from the start; SIGHUP applies what has changed, and drops what is gone."""
    config = scratch / f"{lab.name('conf')}.toml"
    config.write_text("")
    daemon = Tattle(scratch, "--config", str(config))
    made = Jail(lab, daemon)
    table = f'[[policy]]\ntarget = "{made.selector}"\nallow = ["203.0.113.0/24"]\n'
    try:
        config.write_text(table)
        daemon.start()
        assert made.state()["active"]
        with flood(lab, made, judge):
            config.write_text(table + 'strict = true\ndeny = ["@dns"]\n')
            reload(daemon)
            until(lambda: [] if "deny @dns" in made.state()["rules"] else ["not reloaded"])
            config.write_text(table + 'deny = ["nonsense//"]\n')
            reload(daemon)
            until(lambda: [] if "'nonsense//'" in daemon.errors.read_text() else ["not refused"])
            assert made.state()["active"]
        config.write_text("")
        reload(daemon)
        until(lambda: [] if not daemon.ask("status")["targets"] else ["still there"])
    finally:
        daemon.remove()


def test_restore_blocks_again_before_any_daemon_runs(lab: Lab, scratch: Path, judge: Judge) -> None:
    """As at boot: with nothing of it in the kernel one command puts all in force; a daemon takes it over."""
    made = Jail(lab, Tattle(scratch))
    name = made.daemon.instance
    try:
        assert tattle(name, "restore") == "nothing is blocked\n"
        assert not Path(f"/sys/fs/bpf/{name}").exists()
        made.block()
        before = judge.arrived()
        shutil.rmtree(f"/sys/fs/bpf/{name}")
        assert tattle(name, "status", "--enforced", made.selector, code=1)
        assert tattle(name, "restore") == f"{made.selector}: blocked again\n"
        assert tattle(name, "status", "--enforced", made.selector) == f"in force: {made.selector}\n"
        assert WAYS["s01-tcp"](lab, made.inside).said["errno"] == "EPERM"
        made.daemon.start()
        assert tattle(name, "restore") == f"{made.selector}: blocked again\n"
        assert made.state()["active"]
        assert WAYS["s01-tcp"](lab, made.inside).said["errno"] == "EPERM"
        assert judge.arrived() == before
    finally:
        made.daemon.remove()


def test_policies_that_meet_are_both_in_force_after_a_reboot(lab: Lab, scratch: Path, judge: Judge) -> None:
    """Two that were accepted while nothing was there: restored, what either denies is denied."""
    made = Jail(lab, Tattle(scratch))
    name, wide = made.daemon.instance, f"cgroup:/lab-{lab.token}/*"
    try:
        made.block("--default", "allow")
        assert tattle(name, "block", wide)
        shutil.rmtree(f"/sys/fs/bpf/{name}")
        before = judge.arrived()
        said = tattle(name, "restore").splitlines()
        assert sorted(said) == sorted(f"{one}: blocked again" for one in (made.selector, wide))
        assert {one["active"] for one in made.daemon.ask("status")["targets"]} == {True}
        assert WAYS["s01-tcp"](lab, made.inside).said["errno"] == "EPERM"
        assert judge.arrived() == before
        tattle(name, "unblock", wide)
        assert WAYS["s01-tcp"](lab, made.inside).said["errno"] is None
    finally:
        made.daemon.remove()


def test_restore_says_what_it_cannot(lab: Lab, scratch: Path) -> None:
    """A damaged file of policies ends it with 3, as it ends the daemon's start."""
    made = Jail(lab, Tattle(scratch))
    try:
        made.block()
        Path(f"/var/lib/{made.daemon.instance}/policies.json").write_text("[{")
        assert "policies.json is damaged" in tattle(made.daemon.instance, "restore", code=3)
    finally:
        made.daemon.remove()


def test_what_cannot_be_kept_is_said(lab: Lab, scratch: Path) -> None:
    """A damaged file of policies: the daemon does not start as if nothing was, and says why."""
    daemon = Tattle(scratch)
    made = Jail(lab, daemon)
    try:
        made.block()
        Path(f"/var/lib/{daemon.instance}/policies.json").write_text("[{")
        done = run("run", "--instance", daemon.instance, "--listen", f"127.0.0.1:{daemon.port}")
        assert done.returncode == 3
        assert "policies.json is damaged" in done.stderr
    finally:
        daemon.remove()
