"""Programs are targets wherever they run; what stands beside them in a terminal is left alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.cgroups import tattle as command
from tests.support.daemon import until as wait_for
from tests.support.network import PEER4

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.daemon import Tattle
    from tests.support.network import Lab

ROUNDS = int(os.environ.get("TATTLE_TEST_ROUNDS", "24"))
"""Two of each way; 200 were run for bpf/README.md."""
FORKS = 1000


class Counter:
    """Counts what arrives at the peer for one port, by TCP or UDP."""

    def __init__(self, lab: Lab, port: int) -> None:
        self._peer, self._table = lab.peer_ns, f"programs{port}"
        self._peer.run(
            "nft",
            "-f",
            "-",
            text=f"""
table inet {self._table} {{
  counter arrived {{}}
  chain count {{
    type filter hook prerouting priority -430;
    meta l4proto {{ tcp, udp }} th dport {port} counter name arrived
  }}
}}
""",
        )

    def packets(self) -> int:
        """Return how many have arrived up to now."""
        listing = json.loads(self._peer.run("nft", "-j", "list", "counters", "table", "inet", self._table))
        return next(int(one["counter"]["packets"]) for one in listing["nftables"] if "counter" in one)


class Terminal:
    """A cgroup as a terminal has it, and a program in a directory of its own."""

    def __init__(self, lab: Lab, scratch: Path) -> None:
        self.lab = lab
        self.cgroup = lab.cgroup(f"lab-{lab.token}/user.slice/{lab.name('session')}.scope")
        self.directory = scratch / lab.name("opt")
        self.directory.mkdir()
        self.port, self.other_port = lab.peer.serve("udp"), lab.peer.serve("udp")

    def program(self, name: str, source: str | None = None) -> Path:
        """Put a program here: an interpreter under another name, or what is built of a source."""
        made = self.directory / name
        shutil.copy2(self.lab.build(source) if source else Path("/usr/bin/python3").resolve(), made)
        return made

    def rounds(self, count: int, program: Path) -> dict[str, Any]:
        """Start the program, and bystanders, in all ways; return what each could do."""
        _, said = self.lab.run(
            "terminal.py",
            cgroup=self.cgroup,
            op="rounds",
            program=str(program),
            script="vllm",
            host=PEER4,
            port=self.port,
            other_port=self.other_port,
            rounds=count,
        )
        return said


@pytest.fixture
def terminal(lab: Lab, scratch: Path) -> Terminal:
    """Make a terminal."""
    return Terminal(lab, scratch)


@pytest.fixture(params=["alone", "daemon"])
def instance(request: pytest.FixtureRequest, tattle: Tattle) -> Iterator[Tattle]:
    """Hand out an instance without a daemon, and with one."""
    if request.param == "daemon":
        tattle.start()
    yield tattle
    if request.param == "daemon":
        tattle.stop()


def target(instance: Tattle, name: str) -> dict[str, Any]:
    """Return what `status` says of a target."""
    return next(one for one in instance.ask("status")["targets"] if one["target"] == name)


def test_a_program_is_denied_from_its_first_instruction_and_its_neighbours_are_not(
    terminal: Terminal, instance: Tattle
) -> None:
    """In all rounds of children, daemons and scripts nothing arrives; each bystander gets through."""
    for name in ("llama.cpp", "vllm"):
        command(instance.instance, "block", name)
        assert target(instance, name)["state"] == "waiting"
        assert target(instance, name)["active"]
    counter = Counter(terminal.lab, terminal.port)
    said = terminal.rounds(ROUNDS, terminal.program("llama-server"))
    assert [one for one in said["members"] if one[1] != "EPERM EPERM"] == []
    assert [one for one in said["others"] if not one.startswith("through")] == []
    assert counter.packets() == 0
    assert terminal.lab.peer.stats(terminal.other_port)["datagrams"] == ROUNDS
    assert target(instance, "vllm")["members"] == []
    assert instance.ask("status")["losses"]["marks_full"] == 0


def test_what_runs_already_is_marked_without_a_race(terminal: Terminal, tattle: Tattle) -> None:
    """Of 1,000 daemons that are forked while their program is blocked, none gets through."""
    program = terminal.program("forker", "forks.c")
    counter = Counter(terminal.lab, terminal.port)
    running = terminal.lab.start(
        "forks.c", PEER4, str(terminal.port), str(FORKS), exe=str(program), cgroup=terminal.cgroup
    )
    stdout = running.process.stdout
    assert stdout is not None
    assert stdout.readline() == "begins\n"
    command(tattle.instance, "block", "exe:forker")
    assert stdout.readline() == "made\n"
    out, _ = running.process.communicate("", timeout=120)
    assert out.splitlines() == ["refused"] * (FORKS + 1)
    assert counter.packets() == 0


def test_a_process_and_its_children_are_a_target_and_not_its_neighbours(
    terminal: Terminal, tattle: Tattle
) -> None:
    """`pid:N` is that process; the terminal's next program is not, and N is forgotten with it."""
    process = subprocess.Popen(["sleep", "600"])
    try:
        (terminal.cgroup / "cgroup.procs").write_text(str(process.pid))
        command(tattle.instance, "block", f"pid:{process.pid}")
        found = target(tattle, f"pid:{process.pid}")
        assert [one["pid"] for one in found["members"]] == [process.pid]
        assert found["state"] == "enforced"
        assert terminal.rounds(1, terminal.program("llama-server"))["others"] == ["through ECONNREFUSED"]
    finally:
        process.kill()
        process.wait()
    assert target(tattle, f"pid:{process.pid}")["members"] == []


def test_leaving_the_cgroup_is_no_way_out(terminal: Terminal, tattle: Tattle) -> None:
    """A process that moves itself out of a blocked cgroup stays blocked, as do the children it has then."""
    inside = terminal.lab.cgroup(f"lab-{terminal.lab.token}/{terminal.lab.name('cell')}")
    command(tattle.instance, "block", f"cgroup:{terminal.lab.cgroup_path(inside)}")
    counter = Counter(terminal.lab, terminal.port)
    out = terminal.cgroup / "cgroup.procs"
    send = f'import socket; socket.socket(2, 2).sendto(b"x", ("{PEER4}", {terminal.port}))'
    line = f"echo 0 > {out}; cat /proc/self/cgroup >&2; python3 -c '{send}'; exec python3 -c '{send}'"
    running = terminal.lab.start("api.py", "-c", line, exe="/bin/sh", cgroup=inside)
    _, said = running.process.communicate(timeout=60)
    assert "session" in said
    assert said.count("PermissionError") == 2
    assert counter.packets() == 0


def test_leaving_the_cgroup_is_told(terminal: Terminal, tattle: Tattle) -> None:
    """The log says which process of which target is in which cgroup now; to go deeper is not to leave."""
    inside = terminal.lab.cgroup(f"lab-{terminal.lab.token}/{terminal.lab.name('cell')}")
    deeper = terminal.lab.cgroup(f"{terminal.lab.cgroup_path(inside)}/deeper")
    tattle.start()
    command(tattle.instance, "block", f"cgroup:{terminal.lab.cgroup_path(inside)}")
    line = f"echo 0 > {deeper}/cgroup.procs; echo 0 > {terminal.cgroup}/cgroup.procs"
    running = terminal.lab.start("api.py", "-c", line, exe="/bin/sh", cgroup=inside)
    running.process.communicate(timeout=60)
    away = terminal.lab.cgroup_path(terminal.cgroup)
    wait_for(lambda: [] if f"cgroup={away}" in tattle.errors.read_text() else [tattle.errors.read_text()])
    (told,) = [one for one in tattle.errors.read_text().splitlines() if "moved to another cgroup" in one]
    assert f"target=cgroup:{terminal.lab.cgroup_path(inside)}" in told
    assert f"pid={running.pid}" in told
    tattle.stop()


def test_an_old_socket_gets_the_targets_label(terminal: Terminal, tattle: Tattle) -> None:
    """A connection older than the block is denied under the target's name, and nothing more arrives."""
    program = terminal.program("llama-server")
    code = (
        "import socket, sys\n"
        f"s = socket.socket(2, 2); s.connect(('{PEER4}', {terminal.port})); s.send(b'x')\n"
        "print('ready', flush=True); sys.stdin.read()\n"
        "try: s.send(b'y')\nexcept OSError: pass\n"
    )
    tattle.start()
    running = terminal.lab.start("api.py", "-c", code, exe=str(program), cgroup=terminal.cgroup)
    assert running.process.stdout is not None
    assert running.process.stdout.readline() == "ready\n"
    before = terminal.lab.peer.stats(terminal.port)["datagrams"]
    command(tattle.instance, "block", "exe:llama-server")
    running.process.communicate("", timeout=60)
    assert terminal.lab.peer.stats(terminal.port)["datagrams"] == before == 1
    flows = [one for one in tattle.ask("flows", "exe:llama-server")["flows"] if one["denied"]]
    assert [(one["target"], one["comm"]) for one in flows] == [("exe:llama-server", "llama-server")]
    tattle.stop()


def test_a_reload_takes_a_program_that_runs_already(
    terminal: Terminal, tattle: Tattle, scratch: Path
) -> None:
    """The daemon may not see any more what others run; what SIGHUP names is met all the same."""
    program, file = terminal.program("again-named"), scratch / terminal.lab.name("reload")
    file.write_text("")
    tattle.options = (*tattle.options, "--config", str(file))
    tattle.start()
    assert tattle.process
    words = [str(program), "-c", "input()"]
    old = subprocess.Popen(words, stdin=subprocess.PIPE, user="nobody", group="nogroup")
    wait_for(lambda: [] if program.samefile(f"/proc/{old.pid}/exe") else ["it is not executed"])
    file.write_text(f'targets = ["exe:{program}"]\n')
    tattle.process.send_signal(signal.SIGHUP)
    wait_for(lambda: [] if "read again" in tattle.errors.read_text() else ["it is not read again"])
    new = subprocess.Popen(words, stdin=subprocess.PIPE)
    wanted = {old.pid, new.pid}
    name = f"exe:{program}"
    wait_for(
        lambda: (
            []
            if {one["pid"] for one in target(tattle, name)["members"]} == wanted
            else [f"members: {target(tattle, name)['members']}, not {wanted}"]
        )
    )
    for one in (old, new):
        one.communicate(b"\n")
    assert tattle.stop() == 0
