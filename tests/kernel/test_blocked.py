"""What a block lets be, what it cuts, what rules and modes do: by the packets that arrive."""

from __future__ import annotations

import ipaddress
import random
import shlex
from typing import TYPE_CHECKING

import pytest

from tests.kernel.egress_paths import WAYS
from tests.support.cgroups import Jail
from tests.support.daemon import PATIENCE, Tattle, run, until
from tests.support.network import CLIENT4, CLIENT6, MORE4, PEER4, PEER6, Lab
from tracer.bpf import libbpf
from tracer.bpf.engine import Engine
from tracer.policy.rules import Policy, compile_policy
from tracer.policy.tables import PolicyTables

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.cgroups import Judge

MIB = 1 << 20


@pytest.mark.parametrize("host", [CLIENT4, CLIENT6])
def test_replies_pass(host: str, lab: Lab, jail: Jail) -> None:
    """Its clients are answered, also by a listener that was there before the block; not when strict."""
    jail.unblock()
    port = lab.port()
    server = lab.start(
        "tcp.py", op="serve", host=host, port=port, up=24, down=MIB, times=2, cgroup=jail.inside
    )
    server.ready()
    jail.block()
    server.go()
    assert lab.peer.ask(do="call", host=host, port=port, up=24, down=MIB)["bytes_received"] == MIB
    jail.block("--strict")
    with pytest.raises(RuntimeError, match="timed out"):
        lab.peer.ask(do="call", host=host, port=port, up=24, down=MIB)
    jail.block()
    assert lab.peer.ask(do="call", host=host, port=port, up=24, down=MIB)["bytes_received"] == MIB
    assert server.result()["bytes_sent"] == 2 * MIB


def test_loopback_passes(lab: Lab, jail: Jail) -> None:
    """Its own services on loopback work, also under --strict."""
    for options in ((), ("--strict",)):
        jail.block(*options)
        port = lab.port()
        server = lab.start(
            "tcp.py", op="serve", host="127.0.0.1", port=port, up=24, down=MIB, cgroup=jail.inside
        )
        server.ready()
        server.go()
        _, said = lab.run("tcp.py", op="transfer", host="127.0.0.1", port=port, down=MIB, cgroup=jail.inside)
        assert said["bytes_received"] == MIB
        server.result()
    jail.block()


def test_a_denied_address_comes_with_the_command_that_allows_just_it(lab: Lab, jail: Jail) -> None:
    """What `flows` advises is put in force by it, opens that end alone, and is not advised again."""
    port, other = (lab.peer.serve(host=MORE4[0]) for _ in range(2))
    jail.block("--deny", MORE4[1])
    ask = {"op": "transfer", "host": MORE4[0], "up": 10, "cgroup": jail.inside}
    for one in (port, other):
        assert lab.run("tcp.py", port=one, **ask)[1]["errno"] == "EPERM"
    assert lab.run("tcp.py", port=port, **{**ask, "host": MORE4[1]})[1]["errno"] == "EPERM"
    advised = {one["name"]: one["command"] for one in jail.daemon.ask("flows", jail.selector)["refused"]}
    wanted = f"{MORE4[0]}:{port}/tcp"
    assert {wanted, f"{MORE4[0]}:{other}/tcp"} <= advised.keys()
    assert not [name for name in advised if name.startswith(MORE4[1])]
    assert run(*shlex.split(advised[wanted].removeprefix("sudo "))[1:]).returncode == 0
    assert lab.run("tcp.py", port=port, **ask)[1]["errno"] is None
    assert lab.run("tcp.py", port=other, **ask)[1]["errno"] == "EPERM"
    assert wanted not in {one["name"] for one in jail.daemon.ask("flows", jail.selector)["refused"]}
    jail.block()


ANY4, ANY6 = "0.0.0.0", "::"


@pytest.mark.parametrize("mptcp", [False, True])
@pytest.mark.parametrize(("bound", "asked"), [(ANY4, "127.0.0.1"), (ANY6, "::1"), (ANY6, "127.0.0.1")])
def test_strict_leaves_loopback_to_old_listeners(
    bound: str, asked: str, lab: Lab, jail: Jail, *, mptcp: bool
) -> None:
    """A listener of all addresses that is older than a strict block goes on to answer its own host."""
    jail.unblock()
    port = lab.port()
    server = lab.start(
        "tcp.py", op="serve", host=bound, port=port, up=24, down=MIB, mptcp=mptcp, cgroup=jail.inside
    )
    server.ready()
    jail.block("--strict")
    server.go()
    _, said = lab.run("tcp.py", op="transfer", host=asked, port=port, down=MIB, cgroup=jail.outside)
    assert said["bytes_received"] == MIB
    server.result()
    jail.block()


def test_a_datagram_server_answers_who_asked(lab: Lab, jail: Jail, judge: Judge) -> None:
    """Replies go to who asked, not to anybody else; under --strict to nobody."""
    port = lab.port()
    server = lab.start("udp.py", op="answer", host=CLIENT4, port=port, times=1, cgroup=jail.inside)
    server.ready()
    server.go()
    call = {"do": "call", "kind": "udp", "host": CLIENT4, "port": port, "up": 100, "down": 200}
    assert lab.peer.ask(**call)["bytes_received"] == 200
    assert server.result()["errno"] is None
    jail.block("--strict")
    server = lab.start("udp.py", op="answer", host=CLIENT4, port=port, times=1, cgroup=jail.inside)
    server.ready()
    server.go()
    before = judge.arrived()
    lab.peer.tell(**call)
    assert server.result()["errno"] == "EPERM"
    assert judge.arrived() == before
    with pytest.raises(RuntimeError):
        lab.peer.answer()
    jail.block()


def test_an_answers_time_ends_for_a_socket_that_had_another_peer(lab: Lab, jail: Jail, judge: Judge) -> None:
    """Who asked long ago is not spoken to, though the socket was allowed to answer and connected since."""
    port = lab.port()
    other = {"other": MORE4[0], "other_port": 9}
    server = lab.start("udp.py", op="estranged", host=CLIENT4, port=port, cgroup=jail.inside, **other)
    server.ready()
    server.go()
    call = {"do": "call", "kind": "udp", "host": CLIENT4, "port": port, "up": 100, "down": 100}
    assert lab.peer.ask(**call)["bytes_received"] == 100
    server.ready()
    a_minute_passes(jail)
    before = judge.arrived()
    server.go()
    said = server.result()
    assert (said["errors"], said["bytes_sent"]) == ({"EPERM": 1}, 100)
    assert judge.arrived() == before


def a_minute_passes(jail: Jail) -> None:
    """Make the kernel half forget who has sent datagrams, as it does after REPLY_SECONDS."""
    with Engine.attach_readonly(jail.daemon.instance) as engine:
        fd, shape = engine.maps.fd("asked_peers"), engine.maps.shape("asked_peers")
        asked = list(libbpf.keys(fd, shape.key_size))
        assert asked
        for key in asked:
            libbpf.delete(fd, key)


@pytest.mark.parametrize("host", [PEER4, PEER6])
def test_open_connections_are_cut(host: str, lab: Lab, jail: Jail, judge: Judge) -> None:
    """One that was there before the block is reset at both ends, and no data leaves any more."""
    jail.unblock()
    port = lab.peer.serve(host=host)
    program = lab.start("tcp.py", op="held", host=host, port=port, early=1000, up=5000, cgroup=jail.inside)
    program.ready()
    lab.drained(port, 1024)
    assert "1 open connection cut" in jail.block()
    before = judge.arrived()
    until(lambda: [] if lab.peer.stats(port).get("broken") else ["the peer was not told"])
    program.go()
    _, errors = program.process.communicate(timeout=PATIENCE)
    # ECONNABORTED: as the kernel says it of a connection that somebody else ended (sock_diag(7))
    assert "ConnectionAbortedError" in errors or "BrokenPipeError" in errors
    assert judge.arrived().packets == before.packets


def test_a_waiting_program_is_told(lab: Lab, jail: Jail) -> None:
    """Who is waiting for data on a connection that is cut, waits no longer."""
    jail.unblock()
    port = lab.peer.serve()
    program = lab.start("tcp.py", op="transfer", host=PEER4, port=port, down=1 << 40, cgroup=jail.inside)
    lab.drained(port, 24)
    jail.block()
    assert program.result()["errno"] == "ECONNABORTED"


def test_a_connected_datagram_socket_is_cut(lab: Lab, jail: Jail, judge: Judge) -> None:
    """One that was connected before the block sends nothing any more."""
    jail.unblock()
    program = lab.start(
        "udp.py", op="held", host=PEER4, port=lab.peer.serve("udp"), count=5, cgroup=jail.inside
    )
    program.ready()
    jail.block()
    before = judge.arrived()
    program.go()
    assert program.result()["errors"] == {"EPERM": 5}
    assert judge.arrived() == before


def test_what_is_allowed_passes(lab: Lab, jail: Jail, judge: Judge) -> None:
    """Of three destinations in one call, the one that a rule names gets its datagrams."""
    ports = [lab.peer.serve("udp") for _ in range(3)]
    jail.block("--allow", f"{PEER4}:{ports[0]}/udp", "--allow", f"{MORE4[0]}/32", "--deny", f"{MORE4[0]}:80")
    before = judge.arrived()
    lab.run("batch.c", "send", "96", "500", PEER4, *map(str, ports), cgroup=jail.inside)
    # Each call ends at the first message that is refused, and the program begins again.
    lab.drained(ports[0], 96 * 500)
    assert judge.arrived().packets - before.packets == 96
    assert [lab.peer.stats(port).get("datagrams", 0) for port in ports] == [96, 0, 0]
    for port, expected in ((80, "EPERM"), (81, "ECONNREFUSED")):
        _, said = lab.run("tcp.py", op="probe", host=MORE4[0], port=port, cgroup=jail.inside)
        assert said["errno"] == expected
    jail.block()


def test_audit_changes_nothing(lab: Lab, jail: Jail, judge: Judge) -> None:
    """An audited target's packets arrive; the log has what would be denied. Then block, without a gap."""
    jail.block("--audit")
    assert (jail.state()["mode"], jail.state()["active"]) == ("audit", True)
    before = judge.arrived()
    tried = WAYS["s19-sixty"](lab, jail.inside)
    assert tried.said["errno"] is None
    assert judge.arrived().packets > before.packets
    assert jail.denials(*tried.comms) == 0
    until(
        lambda: (
            []
            if {("would-deny", "default deny")}
            == {(e["verdict"], e["rule"]) for e in jail.daemon.events(*tried.comms) if e["event"] == "deny"}
            else ["no would-deny in the log"]
        )
    )
    jail.block()
    before = judge.arrived()
    assert WAYS["s01-tcp"](lab, jail.inside).said["errno"] == "EPERM"
    assert judge.arrived() == before


def test_a_watched_target_inside_is_blocked_too(lab: Lab, scratch: Path) -> None:
    """What is merely watched below a blocked cgroup has the policy above it."""
    inner = lab.cgroup(f"lab-{lab.token}/{lab.name('outer')}/inner")
    daemon = Tattle(scratch, "--target", f"cgroup:{lab.cgroup_path(inner)}")
    try:
        daemon.start()
        made = Jail(lab, daemon)
        made.selector = f"cgroup:{lab.cgroup_path(inner.parent)}"
        made.block()
        assert WAYS["s01-tcp"](lab, inner).said["errno"] == "EPERM"
        made.unblock()
        assert WAYS["s01-tcp"](lab, inner).said["errno"] is None
    finally:
        daemon.remove()


RULES = (
    *("0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16:443", "10.1.2.0/24:443/tcp", "10.1.2.3", "127.0.0.0/8:53/udp"),
    *(
        "[::]/0:443",
        "[2001:db8::]/32",
        "[2001:db8:1::]/48:53",
        "[fe80::]/10",
        "[::1]",
        "203.0.113.0/24:53/tcp",
    ),
    *("@loopback", "@host", "@lan", "@internet", "@dns"),
)
PEERS = [
    (host, port)
    for host in ("10.0.0.1", "10.1.2.3", "10.1.2.4", "127.0.0.1", "203.0.113.9", "192.0.2.1", "224.0.0.251")
    for port in (53, 443, 8080)
] + [
    (host, port)
    for host in (
        "2001:db8::1",
        "2001:db8:1::1",
        "::1",
        "2600::1",
        "64:ff9b::10.1.2.3",
        "64:ff9b:1::cb00:7109",
    )
    for port in (53, 443, 8080)
]


def test_the_kernel_judges_as_the_rules_say(lab: Lab, jail: Jail) -> None:
    """For random policies each call is refused or not as the policy's tables say, which unit tests hold."""
    dice = random.Random(20)  # noqa: S311 - the same policies each time
    with Engine.attach_readonly(jail.daemon.instance) as engine:
        tables, number = PolicyTables(engine.maps, engine.abi), number_of(engine, jail)
        for _ in range(25):
            allow, deny = (tuple(dice.sample(RULES, dice.randrange(6))) for _ in range(2))
            policy = Policy(jail.selector, allow, deny, default_allow=dice.random() < 0.5)
            table = compile_policy(policy)
            tables.put(number, table)
            _, said = lab.run("udp.py", op="survey", peers=PEERS, cgroup=jail.inside)
            expected = [
                table.judge(packed(host), port, proto).denied for host, port in PEERS for proto in (17, 6)
            ]
            assert said["refused"] == expected, policy
    jail.block()


def number_of(engine: Engine, jail: Jail) -> int:
    """Return the number that the kernel knows the jail by."""
    return engine.maps.target_paths()[jail.lab.cgroup_path(jail.inside).encode()]


def packed(host: str) -> bytes:
    """Return 16 bytes, IPv4 mapped."""
    address = ipaddress.ip_address(host)
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed
