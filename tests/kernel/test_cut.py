"""No denial leaves a connection silent: who is cut is told, and so is the peer.

The clients here have no time-out of their own: they wait for as long as the kernel lets them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.kernel.test_name_rules import client_hello
from tests.support.cgroups import Arrived, Jail
from tests.support.daemon import Tattle, run, until
from tests.support.named_world import ALLOWED, HANDSHAKE, OTHER, inhabited, pem, question, resolver, world
from tests.support.network import MORE4, PEER4, PEER6
from tracer.bpf import libbpf
from tracer.bpf.engine import Engine
from tracer.policy.enforcement import Enforcement
from tracer.policy.rules import Policy
from tracer.targets.finder import BOOK, Finder, TargetBook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.cgroups import Judge
    from tests.support.named_world import World
    from tests.support.network import Lab

__all__ = ["pem", "resolver", "world"]

CHANGES = int(os.environ.get("TATTLE_POLICY_CHANGES", "12"))
"""Of policies; more where somebody asks for more."""
BELOW = "deep.sub.wild.example"

TOLD = 2
"""Packets that tell the peer of an end: a reset, and of MPTCP one for the connection beside that."""
WITHIN_S = 10
"""Far more than the promised two seconds, for a busy machine, and far less than what a silent end takes."""


HOW = [{}, {"mptcp": True}, {"control": "bbr"}, {"control": "reno"}]


@pytest.mark.parametrize("how", HOW)
def test_a_wrong_server_name_ends_the_connection(how: dict[str, object], world: World, judge: Judge) -> None:
    """By the daemon: nothing of what it said arrives, the client has an error, and the peer a reset."""
    world.jail.block("--allow", ALLOWED)
    said, arrived = denied_for_its_name(world, judge, how)
    assert said["errno"] == "ECONNABORTED" or said["end"] == "b''"
    assert arrived.resets


@pytest.mark.parametrize("how", HOW)
def test_a_wrong_server_name_ends_the_connection_without_a_daemon(
    how: dict[str, object], alone: World, judge: Judge
) -> None:
    """By the kernel: the client has an error all the same."""
    said, _ = denied_for_its_name(alone, judge, how)
    assert said["errno"] == "ETIMEDOUT"


def denied_for_its_name(world: World, judge: Judge, how: dict[str, object]) -> tuple[dict[str, Any], Arrived]:
    """Say a name that is not allowed, and wait without an end; return what came of it here and there."""
    host = world.try_("rounds", most=2)["met"][0]
    before = judge.arrived()
    said = world.try_("patient", host=host, pieces=[client_hello(OTHER).hex()], **how)
    after = judge.arrived()
    assert said["seconds"] < WITHIN_S
    assert after.packets - before.packets <= HANDSHAKE
    return said, Arrived(after.packets - before.packets, after.resets - before.resets)


@pytest.fixture(scope="module")
def alone(lab: Lab, pem: Path, resolver: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:  # noqa: ARG001 - it only has to run
    """Block a jail by an instance whose daemon has ended."""
    scratch = tmp_path_factory.mktemp("alone")
    daemon = Tattle(scratch)
    daemon.start()
    with inhabited(Jail(lab, daemon), pem, scratch) as made:
        made.jail.block("--allow", ALLOWED)
        daemon.stop()
        try:
            yield made
        finally:
            daemon.remove()


def test_a_refused_question_over_tcp_ends_the_connection(world: World, judge: Judge) -> None:
    """A resolver's client is told, and so is the resolver."""
    world.jail.block("--allow", ALLOWED)
    message = question(OTHER, 7)
    before = judge.arrived()
    pieces = [(len(message).to_bytes(2) + message).hex()]
    said = world.try_("patient", host=PEER4, port=53, pieces=pieces)
    assert said["seconds"] < WITHIN_S
    assert said["errno"] in {"ECONNABORTED", "ETIMEDOUT"}
    assert judge.arrived().resets > before.resets


def by_command(jail: Jail, _config: Path) -> None:
    """Block the jail."""
    assert "1 open connection cut" in jail.block()


def by_reload(jail: Jail, config: Path) -> None:
    """Have the configuration block it: the daemon has given its privileges away."""
    config.write_text(f'[[policy]]\ntarget = "{jail.selector}"\n')
    assert run("reload", "--instance", jail.daemon.instance).returncode == 0


@pytest.mark.parametrize("change", [by_command, by_reload])
@pytest.mark.parametrize("host", [PEER4, PEER6])
@pytest.mark.parametrize("kind", ["tcp", "mptcp"])
def test_a_new_policy_cuts(
    kind: str, host: str, change: Callable[[Jail, Path], None], lab: Lab, configured: tuple[Jail, Path]
) -> None:
    """Whoever waits on a connection that is denied now waits no longer, at either end."""
    jail, config = configured
    port = lab.peer.serve(kind, host)
    client = lab.start("tcp.py", op="wait", host=host, port=port, mptcp=kind == "mptcp", cgroup=jail.inside)
    client.ready()
    lab.drained(port, 24)
    before = lab.wire("tcp", host, port).packets_out
    change(jail, config)
    said = client.result()
    assert said["errno"] in {"ECONNABORTED", "ECONNRESET"} or said["end"] == "b''"
    until(lambda: [] if lab.peer.stats(port).get("broken") else ["the peer was not told"])
    assert lab.wire("tcp", host, port).packets_out - before <= TOLD


@pytest.fixture
def configured(lab: Lab, scratch: Path) -> Iterator[tuple[Jail, Path]]:
    """Give a jail that nothing blocks yet, and the configuration of its daemon."""
    config = scratch / f"{lab.name('conf')}.toml"
    config.write_text("")
    made = Jail(lab, Tattle(scratch, "--config", str(config)))
    try:
        made.daemon.start()
        yield made, config
        made.daemon.stop()
    finally:
        made.daemon.remove()


def test_what_is_allowed_still_goes_on(lab: Lab, jail: Jail) -> None:
    """A new policy that allows a connection leaves it alone, and so does one that an answer has opened."""
    jail.unblock()
    port = lab.peer.serve()
    client = lab.start("tcp.py", op="held", host=PEER4, port=port, early=10, up=10, cgroup=jail.inside)
    client.ready()
    jail.block("--allow", f"{PEER4}/32")
    client.go()
    assert client.result()["errno"] is None
    jail.block()


@pytest.mark.parametrize(
    ("older", "newer", "kept"),
    [
        (BELOW, "*.sub.wild.example", True),
        ("*.sub.wild.example", "*.example", True),
        ("*.wild.example", BELOW, False),
        (f"{BELOW}+plain", f"{BELOW}:1", False),
        (BELOW, OTHER, False),
    ],
)
def test_a_name_rule_is_replaced(older: str, newer: str, kept: bool, lab: Lab, world: World) -> None:  # noqa: FBT001 - a parameter
    """A wider rule keeps what a narrower one had opened; what the new one does not cover is cut."""
    forget(world)
    world.jail.block("--allow", older)
    host = world.try_("rounds", asks=BELOW, most=1)["met"][0]
    client = lab.start(
        *("named.py",),
        op="patient",
        host=host,
        port=world.port,
        pieces=[client_hello(BELOW).hex()],
        talks=True,
        cgroup=world.jail.inside,
    )
    client.ready()
    said = world.jail.block("--allow", newer)
    assert ("1 open connection cut" in said) is not kept
    client.go()
    ended = client.result()
    assert (ended["errno"] is None) is kept, ended
    world.jail.block()


def forget(world: World) -> None:
    """Close the addresses that answers have opened for the jail in earlier tests."""
    with Engine.attach_readonly(world.jail.daemon.instance) as engine:
        fd, shape = engine.maps.fd("openings"), engine.maps.shape("openings")
        for key in list(libbpf.keys(fd, shape.key_size)):
            libbpf.delete(fd, key)


def test_no_change_of_policy_leaves_a_connection_silent(lab: Lab, jail: Jail) -> None:
    """Under traffic, policy after policy: what is denied ends, the rest goes on, nothing just hangs."""
    jail.block()
    peers = [
        {"host": host, "port": lab.peer.serve(kind, host), "mptcp": kind.endswith("mptcp")}
        for host in (PEER4, MORE4[0], PEER6)
        for kind in ("echo", "echo-mptcp")
    ]
    client = lab.start("tcp.py", op="chatter", peers=peers * 4, cgroup=jail.inside)
    policies = [
        Policy(jail.selector, allow, default_allow=default_allow)
        for allow, default_allow in (
            ((), True),
            ((), False),
            ((f"{PEER4}/32",), False),
            ((f"[{PEER6}]/128", f"{MORE4[0]}:{peers[2]['port']}"), False),
        )
    ]
    with Engine.attach_readonly(jail.daemon.instance) as engine:
        state = engine.paths.state
        enforcement = Enforcement(engine, Finder(engine.root), TargetBook(state / BOOK))
        cut = sum(enforcement.block(policies[at % len(policies)]).cut for at in range(CHANGES))
    jail.block()
    client.go()
    said = client.result()
    assert cut > CHANGES // 4
    assert said["longest"] < WITHIN_S
    assert said["bytes_sent"] > CHANGES
