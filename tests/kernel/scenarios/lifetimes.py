"""Rows o12 and o52 to o59: connections over time, and wires that are not simple.

Not here: o58 by netem (CONFIG_NET_SCH_NETEM is not set: "qdisc kind is unknown"); nftables loses every 20th
packet instead, behind the counter.
Rows that need a daemon of their own (o50, o51, o55: traffic before the start, and across a kill) are in
test_lifetime.py; sums under load (o56, o57) in test_exactness.py.
"""

from tests.kernel.scenarios.scenario import Expectation, Want, expect, late_in, late_out, row
from tests.support.network import CLIENT4, CLIENT6, PEER4, PEER6, Lab

MIB = 1 << 20
LOCAL = "127.0.0.1"
PAUSE_FIRST = 1
"""traffic/common.py: the server reads late."""


@row("o12-write-and-close")
def o12(lab: Lab) -> Expectation:
    """1 MiB written and closed at once, read late: also what leaves after close()."""
    port = lab.peer.serve()
    program, _ = lab.run(
        "tcp.py", op="transfer", host=PEER4, port=port, up=MIB, flags=PAUSE_FIRST, end="close"
    )
    lab.drained(port, MIB + 24)
    return expect(Want(program.name, "tcp", PEER4, port, unseen_out=late_out(50), unseen_in=late_in(50)))


@row("o12-killed")
def o12_killed(lab: Lab) -> Expectation:
    """Killed with a full send buffer: also what leaves after death."""
    port = lab.peer.serve()
    program = lab.start(
        "tcp.py", op="transfer", host=PEER4, port=port, up=MIB, flags=PAUSE_FIRST, end="killed"
    )
    program.result(status=-9)
    lab.drained(port, MIB + 24)
    return expect(Want(program.name, "tcp", PEER4, port, unseen_out=late_out(50), unseen_in=late_in(50)))


@row("o12-reset")
def o12_reset(lab: Lab) -> Expectation:
    """Closed by a reset (SO_LINGER 0): the reset is the socket's own packet and counts."""
    port = lab.peer.serve()
    program, _ = lab.run("tcp.py", op="transfer", host=PEER4, port=port, up=10_000, end="reset")
    return expect(Want(program.name, "tcp", PEER4, port))


@row("o52-accepted")
def o52(lab: Lab) -> Expectation:
    """Called from outside, answers 4 MiB: direction in, no attempt."""
    return _accepted(lab, CLIENT4, PEER4)


@row("o52-accepted6")
def o52_ipv6(lab: Lab) -> Expectation:
    """The same over IPv6."""
    return _accepted(lab, CLIENT6, PEER6)


def _accepted(lab: Lab, host: str, remote: str) -> Expectation:
    port = lab.port()
    server = lab.start("tcp.py", op="serve", host=host, port=port, up=24, down=4 * MIB)
    server.ready()
    server.go()
    answer = lab.peer.ask(do="call", host=host, port=port, up=24, down=4 * MIB)
    server.result()
    pids = frozenset({server.pid})
    return expect(Want(server.name, "tcp", remote, answer["port"], "in", attempts=0, pids=pids))


@row("o52-dual-stack")
def o52_dual(lab: Lab) -> Expectation:
    """A listener on `::` that IPv4 calls: an IPv4 address."""
    port = lab.port()
    server = lab.start("tcp.py", op="serve", host="::", port=port, up=24, down=10_000)
    server.ready()
    server.go()
    answer = lab.peer.ask(do="call", host=CLIENT4, port=port, up=24, down=10_000)
    server.result()
    return expect(Want(server.name, "tcp", PEER4, answer["port"], "in", attempts=0, more={"family": "ipv4"}))


@row("o53-udp-server")
def o53(lab: Lab) -> Expectation:
    """Answers from an unconnected socket to a peer that asked first: direction in, no attempt."""
    port = lab.port()
    server = lab.start("udp.py", op="answer", host=CLIENT4, port=port, times=1)
    server.ready()
    server.go()
    answer = lab.peer.ask(do="call", kind="udp", host=CLIENT4, port=port, up=700, down=1400)
    server.result()
    return expect(Want(server.name, "udp", PEER4, answer["port"], "in", attempts=0))


@row("o54-self-connect")
def o54(lab: Lab) -> Expectation:
    """A socket connected to itself: one flow; each packet goes out and comes in."""
    port = lab.port()
    program, _ = lab.run("tcp.py", op="selfconnect", host=LOCAL, port=port, up=5000)
    return expect(
        Want(
            program.name, "tcp", LOCAL, port, scope="loopback", unseen_out=late_out(50), unseen_in=late_in(50)
        )
    )


@row("o54-both-ends")
def o54_both(lab: Lab) -> Expectation:
    """Listener and client in one process: both ends, once each."""
    port = lab.port()
    program, result = lab.run("tcp.py", op="both_ends", host=LOCAL, port=port, up=5000)
    return expect(
        Want(program.name, "tcp", LOCAL, port, scope="loopback"),
        Want(program.name, "tcp", LOCAL, result["client_port"], "in", scope="loopback", attempts=0),
    )


@row("o54-own-address")
def o54_own(lab: Lab) -> Expectation:
    """To an own address that is not 127.0.0.1: scope host, both ends."""
    port, own = lab.port(), lab.port()
    server = lab.start("tcp.py", op="serve", host=CLIENT4, port=port, up=24, down=50_000)
    server.ready()
    server.go()
    client, _ = lab.run("tcp.py", op="transfer", host=CLIENT4, port=port, down=50_000, bind=[CLIENT4, own])
    server.result()
    return expect(
        Want(client.name, "tcp", CLIENT4, port, scope="host"),
        Want(server.name, "tcp", CLIENT4, own, "in", scope="host", attempts=0),
    )


@row("o58-lossy-wire")
def o58(lab: Lab) -> Expectation:
    """Every 20th packet is lost: bytes with the retransmitted ones, as they were on the wire."""
    port = lab.peer.serve()
    lab.lose(port, one_of=20)
    program, _ = lab.run("tcp.py", op="transfer", host=PEER4, port=port, up=MIB)
    return expect(Want(program.name, "tcp", PEER4, port, pids=frozenset({program.pid})))


@row("o59-offloads")
def o59(lab: Lab) -> Expectation:
    """Segmented by the device (64 KiB): each segment's header counts, as on a real wire."""
    return _offloaded(lab, 65_536)


@row("o59-big-tcp")
def o59_big(lab: Lab) -> Expectation:
    """BIG TCP, super-packets of 185,000 bytes: the same."""
    return _offloaded(lab, 185_000)


def _offloaded(lab: Lab, most: int) -> Expectation:
    host = lab.offloaded_wire(most)
    port = lab.peer.serve(host=host)
    program, _ = lab.run("tcp.py", op="transfer", host=host, port=port, up=4 * MIB, chunk=MIB)
    return expect(Want(program.name, "tcp", host, port, offloaded=True))
