"""`status` and `tattle_target_enforced` tell the truth: they ask the kernel, and do not remember."""

from __future__ import annotations

import http.client
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.kernel.egress_paths import WAYS
from tests.support.cgroups import Jail, tattle
from tests.support.daemon import PATIENCE, ROOT, Tattle, command, until
from tracer.bpf import libbpf
from tracer.bpf.engine import Engine
from tracer.errors import KernelError
from tracer.policy.enforcement import HOOKS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.network import Lab


@pytest.fixture
def cell(lab: Lab, scratch: Path) -> Iterator[Jail]:
    """Block a cgroup by a daemon of one's own."""
    daemon = Tattle(scratch)
    try:
        daemon.start()
        made = Jail(lab, daemon)
        made.block()
        assert told(made) == (True, True, True)
        yield made
    finally:
        daemon.remove()


def told(jail: Jail) -> tuple[bool, bool, bool]:
    """Return whether it is in force, by status, metrics and /healthz."""
    lines = fetch(jail, "/metrics")[1].splitlines()
    metric = [line for line in lines if line.startswith("tattle_target_enforced{") and jail.selector in line]
    assert len(metric) == 1, metric
    healthy = fetch(jail, "/healthz")[0] == http.client.OK
    return bool(jail.state()["active"]), metric[0].endswith((" 1", " 1.0")), healthy


def fetch(jail: Jail, path: str) -> tuple[int, str]:
    """Return status and body of a page of the daemon."""
    connection = http.client.HTTPConnection("127.0.0.1", jail.daemon.port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def pin(jail: Jail, name: str) -> Path:
    """Return where something of the instance is pinned."""
    return Path("/sys/fs/bpf") / jail.daemon.instance / name


@pytest.mark.parametrize("hook", [hook for hook in HOOKS if hook != "cgroup_mkdir"])
def test_a_detached_link_is_noticed(hook: str, cell: Jail) -> None:
    """Somebody detaches a hook (BPF_LINK_DETACH): not in force."""
    subprocess.run(["bpftool", "link", "detach", "pinned", str(pin(cell, hook))], check=True)
    assert told(cell) == (False, False, False)
    assert "is not attached" in tattle(cell.daemon.instance, "block", cell.selector, code=3)


@pytest.mark.parametrize("name", [*HOOKS, "policies", "cgroups"])
def test_a_deleted_pin_is_noticed(name: str, cell: Jail) -> None:
    """Somebody deletes a pin: it would not outlive the daemon, hence it is not said to be in force."""
    pin(cell, name).unlink()
    assert told(cell) == (False, False, False)


def test_an_exchanged_program_is_noticed(cell: Jail) -> None:
    """Somebody puts another program behind the link: attached, but not ours."""
    link, other = libbpf.open_pin(pin(cell, "egress")), libbpf.open_pin(pin(cell, "ingress"))
    assert link
    assert other
    ours = libbpf.link_info(other).program_id
    try:
        fd = libbpf.program_of(ours)
        libbpf.link_update("egress", link, fd)
    except KernelError:
        pytest.fail("the kernel did not exchange the program")
    for one in (link, other, fd):
        os.close(one)
    assert told(cell) == (False, False, False)


def test_a_policy_taken_away_is_noticed(cell: Jail) -> None:
    """Somebody deletes the entry of `policies`, or moves a cgroup out of the target."""
    with Engine.attach_readonly(cell.daemon.instance) as engine:
        (number,) = set(engine.maps.target_paths().values())
        cgroup = cell.inside.stat().st_ino
        engine.maps.set_target(cgroup, 0)
        assert told(cell) == (False, False, False)
        engine.maps.set_target(cgroup, number)
        assert told(cell) == (True, True, True)
        libbpf.delete(engine.maps.fd("policies"), number.to_bytes(4, "little"))
        assert told(cell) == (False, False, False)


def test_a_path_taken_away_is_noticed(cell: Jail) -> None:
    """Without the path a cgroup that is made again would not be covered."""
    with Engine.attach_readonly(cell.daemon.instance) as engine:
        engine.maps.set_target(os.fsencode(cell.selector.removeprefix("cgroup:")), 0)
    assert told(cell) == (False, False, False)


def test_an_unmounted_bpffs_is_noticed(lab: Lab, cell: Jail) -> None:
    """Seen from where bpffs is not mounted, nothing is in force, and status says so."""
    line = ["unshare", "-m", "sh", "-c", 'umount -l /sys/fs/bpf && exec "$@"', "-"]
    words = [*line, "python3", "-c", "import os; print(os.path.ismount('/sys/fs/bpf'))"]
    assert subprocess.run(words, check=True, capture_output=True, text=True).stdout == "False\n"
    shown = tattle_in(line, cell, "status", "--json")
    assert f'"target": "{cell.selector}"' in shown
    assert '"active": false' in shown
    assert '"active": true' not in shown
    assert WAYS["s01-tcp"](lab, cell.inside).said["errno"] == "EPERM"
    assert told(cell) == (True, True, True)


def tattle_in(wrapper: list[str], jail: Jail, *words: str) -> str:
    """Run a tattle command inside of another one."""
    line = [*wrapper, *command(*words, "--instance", jail.daemon.instance)]
    return subprocess.run(line, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_a_new_cgroup_is_in_the_target_at_once(cell: Jail) -> None:
    """What is made inside is listed and covered; what is removed is gone."""
    below = cell.below("below")
    assert below.stat().st_ino in cell.state()["cgroup_ids"]
    assert told(cell) == (True, True, True)
    below.rmdir()
    until(lambda: [] if len(cell.state()["cgroup_ids"]) == 1 else ["still listed"])


def test_what_is_dead_is_not_in_force(cell: Jail) -> None:
    """Without daemon and pins the policy that is kept is shown, and not as active."""
    cell.daemon.kill()
    for path in pin(cell, "").iterdir():
        path.unlink()
    state = cell.state()
    assert (state["active"], state["mode"], state["default"]) == (False, "enforce", "deny")
