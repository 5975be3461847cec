"""What cannot be blocked is refused with a reason, and nothing is half done."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.kernel.egress_paths import WAYS
from tests.support.cgroups import Jail, tattle
from tests.support.daemon import Tattle, command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.network import Lab


@pytest.fixture
def cell(lab: Lab, scratch: Path) -> Iterator[Jail]:
    """Give a cgroup and an instance that is not loaded."""
    made = Jail(lab, Tattle(scratch))
    try:
        yield made
    finally:
        made.daemon.remove()


def test_a_proxy_of_the_target_is_said_first(cell: Jail, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the block does not stop comes before what it does: loopback stays open, a proxy is another's."""
    proxy = lab.start("api.py", name="proxy")
    proxy.go(json.dumps({"do": "listen", "host": "127.0.0.1"}))
    port = proxy.ready()["port"]
    monkeypatch.setenv("ALL_PROXY", f"socks5h://localhost:{port}")
    lab.start("api.py", name="runtime", cgroup=cell.inside)
    first, second, *_ = cell.block().splitlines()
    assert first.startswith(f"ALL_PROXY sends traffic through localhost:{port}, on this host: ")
    assert f"(pid {proxy.pid}). What it sends is not the target's: name " in first
    assert second.startswith(f"{cell.selector} is blocked")


@pytest.mark.parametrize(
    "rule", ["1.2.3", "1.2.3.4/33", "@everything", "2001:db8::1", "1.2.3.4:99999", "a b"]
)
@pytest.mark.parametrize("option", ["--allow", "--deny"])
def test_a_malformed_rule_is_quoted(rule: str, option: str, cell: Jail) -> None:
    """Exit code 2, the rule in the message, and nothing is loaded."""
    told = tattle(cell.daemon.instance, "block", cell.selector, option, rule, code=2)
    assert f"'{rule}' is no rule" in told
    assert "to mend it" in told
    assert not Path(f"/sys/fs/bpf/{cell.daemon.instance}").exists()


REFUSED = {
    "nonsense": (2, "'nonsense'"),
    "cgroup:relative": (2, "'cgroup:relative' is no target"),
    "cgroup:/": (3, "root cgroup"),
    "pid:4194304": (3, "no such process: 4194304"),
}


@pytest.mark.parametrize("target", REFUSED)
def test_an_unknown_target_is_refused(target: str, cell: Jail) -> None:
    """Named, with the reason and a way to mend it; nothing is kept."""
    code, words = REFUSED[target]
    told = tattle(cell.daemon.instance, "block", target, code=code)
    assert words in told
    assert "to mend it" in told
    assert cell.daemon.ask("status")["targets"] == []


def test_tattle_does_not_block_itself(cell: Jail) -> None:
    """The cgroup that it runs in is refused, also by pid."""
    line = command("block", cell.selector, "--instance", cell.daemon.instance)
    own = Path("/proc/self/cgroup").read_text().rpartition("0::")[2].strip()
    (cell.inside / "cgroup.procs").write_text(str(os.getpid()))
    try:
        done = subprocess.run(
            line, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
        )
    finally:
        (cell.lab.cgroup_root / own.lstrip("/") / "cgroup.procs").write_text(str(os.getpid()))
    assert done.returncode == 3
    assert "tattle's own cgroup" in done.stderr


def test_two_policies_of_one_process_both_bind(lab: Lab, cell: Jail) -> None:
    """What either denies is denied; lifting one leaves the other in force."""
    cell.block("--allow", "@internet", "--allow", "@lan")
    assert WAYS["s01-tcp"](lab, cell.inside).said["errno"] != "EPERM"
    shell = subprocess.Popen(["sleep", "60"])
    try:
        (cell.inside / "cgroup.procs").write_text(str(shell.pid))
        other = f"cgroup:/lab-{lab.token}/*"
        tattle(cell.daemon.instance, "block", other)
        assert WAYS["s01-tcp"](lab, cell.inside).said["errno"] == "EPERM"
        assert {one["state"] for one in cell.daemon.ask("status")["targets"]} == {"enforced"}
        cell.block("--default", "allow")
        assert WAYS["s01-tcp"](lab, cell.inside).said["errno"] == "EPERM"
        tattle(cell.daemon.instance, "unblock", other)
        assert WAYS["s01-tcp"](lab, cell.inside).said["errno"] != "EPERM"
    finally:
        shell.kill()
        shell.wait()
    assert tattle(cell.daemon.instance, "unblock", "cgroup:/not/blocked", code=2)


def test_a_full_table_changes_nothing(lab: Lab, cell: Jail, scratch: Path) -> None:
    """More prefixes than there is room for: refused, the old policy as it was, no rule left behind."""
    config = scratch / f"{lab.name('many')}.toml"
    rules = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(65_535)]
    config.write_text(f"[[policy]]\ntarget = {json.dumps(cell.selector)}\nallow = {json.dumps(rules)}\n")
    assert "2 rules" in cell.block("--allow", "203.0.113.2", "--allow", "203.0.113.3")
    cell.daemon.options = ("--config", str(config))
    cell.daemon.start()
    assert "more than there is room for" in cell.daemon.errors.read_text()
    assert cell.state()["rules"] == ["allow 203.0.113.2", "allow 203.0.113.3"]
    assert WAYS["s01-tcp"](lab, cell.inside).said["errno"] == "EPERM"


def test_help_shows_the_flow() -> None:
    """Watch, audit, block, verify, unblock: as commands that can be typed."""
    told = tattle("tattle", "block", "--help")
    steps = ["tattle watch ollama", "--audit", "--allow", "tattle status", "tattle unblock ollama"]
    places = [told.rindex(step) for step in steps]
    assert places == sorted(places)


def test_a_fifth_policy_of_one_cgroup_is_refused(lab: Lab, cell: Jail) -> None:
    """Four bind; a fifth is an error that says what to do, and what was in force stays in force."""
    inside = lab.cgroup(f"lab-{lab.token}/five/b/c/d")
    path = lab.cgroup_path(inside)
    four = [f"cgroup:{path.removesuffix(end)}" for end in ("/b/c/d", "/c/d", "/d", "")]
    for one in four:
        tattle(cell.daemon.instance, "block", one)
    told = tattle(cell.daemon.instance, "block", f"cgroup:/lab-{lab.token}/fi*", code=3)
    assert "more targets than can be told apart" in told
    assert {one["target"]: one["state"] for one in cell.daemon.ask("status")["targets"]} == dict.fromkeys(
        four, "enforced"
    )
    assert WAYS["s01-tcp"](lab, inside).said["errno"] == "EPERM"
    for one in four:
        tattle(cell.daemon.instance, "unblock", one)
    assert WAYS["s01-tcp"](lab, inside).said["errno"] != "EPERM"
