"""Whatever is denied is told under its target's name, whichever came first: block, daemon or traffic."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.cgroups import tattle as command
from tests.support.daemon import until
from tests.support.network import PEER4
from tracer.model.records import timestamp

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import Tattle
    from tests.support.network import Lab, Program

ROUNDS = int(os.environ.get("TATTLE_TEST_ROUNDS", "2"))
"""20 of each were run."""
ENOUGH = 5
"""Events of denials that are looked at; of one place they are told more and more seldom."""

_TALK = """
import socket, time
old = socket.socket(2, 2)
for number in range(10_000):
    for one in (old, socket.socket(2, 2)):
        try: one.sendto(b"x", ("{host}", {port}))
        except PermissionError: pass
    try: socket.create_connection(("{host}", {tcp}), 1).close()
    except OSError: pass
    if not number: print("ready", flush=True)
    time.sleep(0.02)
"""


def talker(lab: Lab, cgroup: Path) -> Program:
    """Start a program that says something every 20 ms, by an old socket and by new ones."""
    code = _TALK.format(host=PEER4, port=lab.peer.serve("udp"), tcp=lab.peer.serve())
    running = lab.start("api.py", "-c", code, exe="/usr/bin/python3", cgroup=cgroup)
    assert running.process.stdout is not None
    assert running.process.stdout.readline() == "ready\n"
    return running


def nameless(tattle: Tattle, pid: int, target: str, since: str) -> list[str]:
    """Complain of what was denied to this process, or seen of it since then, without the target's name."""
    events = [one for one in tattle.events() if one["pid"] == pid]
    denied = [one for one in events if one["verdict"] == "denied"]
    flows: list[dict[str, Any]] = [one for one in tattle.read()["flows"] if one["pid"] == pid]
    found = [f"{one['event']} of {one['target']}" for one in events if one in denied or one["ts"] > since]
    found += [
        f"{one['denied']} denials of {one['target']}, last seen {one['last_seen']}, blocked {since}"
        for one in flows
        if one["denied"] or one["last_seen"] > since
    ]
    wrong = [one for one in found if f" of {target}" not in one]
    return wrong or (
        [] if len(denied) > ENOUGH else [f"{len(denied)} denials, {len(events)} events, {flows[-1:]}"]
    )


@pytest.mark.parametrize("how", ["cgroup", "pid"])
def test_who_talks_while_it_is_blocked_is_denied_by_name(how: str, lab: Lab, tattle: Tattle) -> None:
    """A program that talks every 20 ms when a running daemon's first `block` of it comes."""
    tattle.start()
    for _ in range(ROUNDS):
        cgroup = lab.cgroup(f"lab-{lab.token}/{lab.name('talker')}")
        running = talker(lab, cgroup)
        try:
            pid = running.process.pid
            target = f"pid:{pid}" if how == "pid" else f"cgroup:{lab.cgroup_path(cgroup)}"
            command(tattle.instance, "block", target)
            since = timestamp(time.time_ns())
            until(partial(nameless, tattle, pid, target, since), 5.0)
        finally:
            running.process.kill()
            running.process.wait()
    tattle.stop()


@pytest.mark.parametrize("first", ["denying", "allowing"])
def test_a_denial_bears_the_name_of_the_target_that_denies(first: str, lab: Lab, tattle: Tattle) -> None:
    """Of a process in two targets: the one whose policy it was, whichever of them was named first."""
    cgroup = lab.cgroup(f"lab-{lab.token}/{lab.name('talker')}")
    path = lab.cgroup_path(cgroup)
    blocks = {"denying": (f"cgroup:{path}",), "allowing": (f"cgroup:{path[:-1]}*", "--allow", "@internet")}
    tattle.start()
    for name in sorted(blocks, key=lambda name: name != first):
        command(tattle.instance, "block", *blocks[name])
    running = talker(lab, cgroup)
    try:
        until(partial(nameless, tattle, running.process.pid, f"cgroup:{path}", ""), 5.0)
    finally:
        running.process.kill()
        running.process.communicate()
    denied = [one for one in tattle.events() if one["verdict"] == "denied"]
    assert {one["target"] for one in denied} == {f"cgroup:{path}"}
    tattle.stop()
