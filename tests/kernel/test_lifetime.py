"""Traffic that is older than the daemon, and traffic while no daemon runs: rows o50, o51, o55 of the table.

Here each test starts a daemon of its own, after its traffic has begun.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kernel.scenarios.scenario import Want, complaints, expect
from tests.support.daemon import Tattle, until
from tests.support.network import CLIENT4, PEER4, PEER6, Lab, Program, Wire

EARLY, LATER = 100_000, 300_000


def held(lab: Lab, host: str, port: int, source: str = "tcp.py", **arguments: object) -> tuple[Program, Wire]:
    """Open a connection, exchange something, and return it with what was on the wire so far."""
    program = lab.start(source, op="held", host=host, port=port, **arguments)
    program.ready()
    if "early" in arguments:
        lab.drained(port, EARLY + 24)
    proto = "udp" if source == "udp.py" else "tcp"
    until(lambda: still(lab, proto, host, port))
    return program, lab.wire(proto, host, port)


def still(lab: Lab, proto: str, host: str, port: int) -> list[str]:
    """Complain while packets still move: two looks at the counters that differ."""
    one = lab.wire(proto, host, port)
    return [] if one == lab.wire(proto, host, port) and one.packets_out else [f"moving: {one}"]


@pytest.mark.parametrize("host", [PEER4, PEER6])
def test_a_connection_from_before_counts_from_now_on(lab: Lab, tattle: Tattle, host: str) -> None:
    """o50: opened before the start, used after it: its process, its bytes from the start on, no attempt."""
    port = lab.peer.serve(host=host)
    program, before = held(lab, host, port, early=EARLY, up=LATER, down=LATER)
    tattle.start()
    program.go()
    program.result()
    want = Want(
        program.name,
        "tcp",
        host,
        port,
        attempts=0,
        established=0,
        before=before,
        pids=frozenset({program.pid}),
        more={"exe": program.exe, "cgroup": program.cgroup, "uid": 0},
    )
    agree(lab, tattle, want)


def test_an_idle_connection_shows_when_it_speaks(lab: Lab, tattle: Tattle) -> None:
    """o51: a connection that was silent all the time is no flow; its first byte makes it one."""
    port = lab.peer.serve()
    program, before = held(lab, PEER4, port)
    tattle.start()
    assert tattle.flows(program.name) == []
    program.go()
    program.result()
    agree(lab, tattle, Want(program.name, "tcp", PEER4, port, attempts=0, established=0, before=before))


def test_a_datagram_socket_from_before(lab: Lab, tattle: Tattle) -> None:
    """o50 for connected UDP."""
    port = lab.peer.serve("udp")
    program, before = held(lab, PEER4, port, "udp.py", count=30)
    tattle.start()
    program.go()
    program.result()
    agree(lab, tattle, Want(program.name, "udp", PEER4, port, attempts=0, before=before), attempts=(0, 1))


def test_a_listener_from_before(lab: Lab, tattle: Tattle) -> None:
    """A listener that is older than the daemon: what it accepts is direction in, under its process."""
    port = lab.port()
    server = lab.start("tcp.py", op="serve", host=CLIENT4, port=port, up=24, down=LATER)
    server.ready()
    tattle.start()
    server.go()
    answer = lab.peer.ask(do="call", host=CLIENT4, port=port, up=24, down=LATER)
    server.result()
    pids = frozenset({server.pid})
    agree(lab, tattle, Want(server.name, "tcp", PEER4, answer["port"], "in", attempts=0, pids=pids))


def test_a_killed_daemon_misses_nothing(lab: Lab, tattle: Tattle) -> None:
    """o55: SIGKILL, traffic, a new daemon: one flow with all bytes, those of the gap included."""
    port = lab.peer.serve()
    tattle.start()
    program = lab.start("tcp.py", op="held", host=PEER4, port=port, early=EARLY, up=LATER)
    program.ready()
    tattle.kill()
    program.go()
    program.result()
    gap, _ = lab.run("tcp.py", op="transfer", host=PEER4, port=port, up=LATER)
    tattle.start()
    agree(lab, tattle, Want(program.name, "tcp", PEER4, port), Want(gap.name, "tcp", PEER4, port), sums=True)


def test_a_stopped_daemon_leaves_nothing(lab: Lab, tattle: Tattle) -> None:
    """SIGINT: exit code 0, no pin, no socket (only an empty lock); and traffic goes on unhindered."""
    tattle.start()
    assert tattle.stop() == 0
    left = [root / tattle.instance for root in (Path("/sys/fs/bpf"), Path("/run"))]
    there = [path for root in left if root.exists() for path in root.iterdir()]
    assert [path.name for path in there if not path.name.endswith("lock")] == []
    _, result = lab.run("tcp.py", op="transfer", host=PEER4, port=lab.peer.serve(), up=1000)
    assert result["errno"] is None


def agree(lab: Lab, tattle: Tattle, *wants: Want, attempts: tuple[int, ...] = (), sums: bool = False) -> None:
    """Wait until the report agrees with the wire; `sums`: of several processes to one port together."""
    expected = expect(*wants)

    def look() -> list[str]:
        flows = tattle.flows(*expected.comms)
        if sums:
            return summed(lab, wants, flows)
        for flow in flows:
            if flow["attempts"] in attempts:
                flow["attempts"] = wants[0].attempts
        return complaints(lab, expected, flows, loopback=False)

    until(look)


def summed(lab: Lab, wants: tuple[Want, ...], flows: list[dict[str, int]]) -> list[str]:
    """Compare the sum over processes that used one port, which the wire cannot tell apart."""
    wire = lab.wire(wants[0].proto, wants[0].remote, wants[0].port)
    got = Wire(*(sum(flow[key] for flow in flows) for key in Wire._fields))
    attempts = sum(flow["attempts"] for flow in flows)
    good = got == wire and len(flows) == len(wants) and attempts == sum(want.attempts for want in wants)
    return [] if good else [f"{got} in {len(flows)} flows, {attempts} attempts; the wire had {wire}"]
