"""Rows o01 to o20: calls and protocols.

Not here, with what was seen on this suite's kernels (6.18, this machine):
  o15 DCCP       socket(AF_INET, SOCK_DCCP) gives ESOCKTNOSUPPORT: removed in 6.16
  o18 AF_VSOCK   sock_create is an INET hook; AF_XDP, TUN, Bluetooth likewise: nothing to report
  o19 WireGuard  CONFIG_WIREGUARD is not set: `ip link add type wireguard` gives EOPNOTSUPP
  o08            is a row about blocking; its observing half is o50
"""

from dataclasses import replace

from tests.kernel.scenarios.scenario import Expectation, Want, expect, row
from tests.support.network import MORE4, PEER4, PEER6, SILENT4, TRANSLATED4, UNREACHABLE4, Lab, Wire

MIB = 1 << 20
LOCAL = "127.0.0.1"


@row("o01-fastopen-sendto")
def o01_sendto(lab: Lab) -> Expectation:
    """One attempt, and the SYN's data counts."""
    return _fastopen(lab, "sendto")


@row("o01-fastopen-connect")
def o01_connect(lab: Lab) -> Expectation:
    """One attempt, and the SYN's data counts."""
    return _fastopen(lab, "connect")


def _fastopen(lab: Lab, variant: str) -> Expectation:
    port = lab.peer.serve()
    program, _ = lab.run("tcp.py", op="fastopen", host=PEER4, port=port, variant=variant, down=50_000)
    return expect(Want(program.name, "tcp", PEER4, port, pids=frozenset({program.pid})))


@row("o02-mptcp")
def o02(lab: Lab) -> Expectation:
    """Both subflows under the caller, also the one that a kernel thread joins."""
    lab.client.run("ip", "mptcp", "limits", "set", "subflow", "2", "add_addr_accepted", "2")
    lab.peer_ns.run("ip", "mptcp", "limits", "set", "subflow", "2", "add_addr_accepted", "2")
    lab.peer_ns.run("ip", "mptcp", "endpoint", "add", MORE4[2], "dev", "wire", "signal")
    port = lab.peer.serve("mptcp", "0.0.0.0")
    program, _ = lab.run(
        "tcp.py", op="transfer", host=PEER4, port=port, up=MIB, chunk=32 << 10, pace=0.01, mptcp=True
    )
    lab.peer_ns.run("ip", "mptcp", "endpoint", "flush")
    if not lab.wire("tcp", MORE4[2], port).packets_out:
        raise AssertionError("no second subflow was made")
    return expect(
        Want(program.name, "tcp", PEER4, port, pids=frozenset({program.pid})),
        Want(program.name, "tcp", MORE4[2], port, pids=frozenset({program.pid})),
    )


@row("o03-udp-detour")
def o03(lab: Lab) -> Expectation:
    """Connected to one, sent to another: only the other."""
    first, second = lab.peer.serve("udp"), lab.peer.serve("udp")
    program, _ = lab.run("udp.py", op="detour", host=PEER4, first=first, second=second, count=20)
    return expect(Want(program.name, "udp", PEER4, second))


@row("o04-silent-connect")
def o04(lab: Lab) -> Expectation:
    """A UDP connect that sends nothing is no attempt and no flow."""
    program, _ = lab.run("udp.py", op="silent", host=PEER4, ports=[9, 53, 443])
    return expect(silent=(program.name,))


@row("o05-mapped-tcp")
def o05_tcp(lab: Lab) -> Expectation:
    """A v4-mapped address is IPv4."""
    port = lab.peer.serve()
    program, _ = lab.run("tcp.py", op="transfer", host=PEER4, port=port, up=100_000, mapped=True)
    return expect(Want(program.name, "tcp", PEER4, port, more={"family": "ipv4"}))


@row("o05-mapped-udp")
def o05_udp(lab: Lab) -> Expectation:
    """A v4-mapped address is IPv4, unconnected and connected."""
    name, ports = lab.name("mapped"), [lab.peer.serve("udp"), lab.peer.serve("udp")]
    for port, op in zip(ports, ("unconnected", "connected"), strict=True):
        lab.run("udp.py", name=name, op=op, host=PEER4, port=port, count=20, down=10_000, mapped=True)
    return expect(*(Want(name, "udp", PEER4, port, more={"family": "ipv4"}) for port in ports))


def _uring(lab: Lab, mode: str) -> Expectation:
    port = lab.peer.serve()
    program, _ = lab.run("uring.c", PEER4, str(port), "500000", "500000", mode)
    return expect(Want(program.name, "tcp", PEER4, port, pids=frozenset({program.pid})))


@row("o06-io-uring-connect")
def o06(lab: Lab) -> Expectation:
    """Leader's name and pid."""
    return _uring(lab, "connect")


@row("o06-io-uring-async")
def o06_async(lab: Lab) -> Expectation:
    """Leader's name and pid, although a worker thread connects."""
    return _uring(lab, "connect-async")


@row("o06-io-uring-sqpoll")
def o06_sqpoll(lab: Lab) -> Expectation:
    """Leader's name and pid, although a kernel thread submits."""
    return _uring(lab, "connect-sqpoll")


@row("o07-sendmmsg-three")
def o07(lab: Lab) -> Expectation:
    """Three destinations in one call are three flows."""
    ports = [lab.peer.serve("udp") for _ in range(3)]
    program, _ = lab.run("batch.c", "send", "96", "500", PEER4, *map(str, ports))
    return expect(*(Want(program.name, "udp", PEER4, port) for port in ports))


@row("o09-this-host")
def o09(lab: Lab) -> Expectation:
    """0.0.0.0 means this host: scope loopback."""
    port, own = lab.port(), lab.port()
    server = lab.start("tcp.py", op="serve", host="0.0.0.0", port=port, up=24, down=50_000)
    server.ready()
    server.go()
    client, _ = lab.run("tcp.py", op="transfer", host="0.0.0.0", port=port, down=50_000, bind=[LOCAL, own])
    server.result()
    wire = ("tcp", LOCAL, port)
    return expect(
        Want(client.name, "tcp", "0.0.0.0", port, scope="loopback", wire=wire),
        Want(server.name, "tcp", LOCAL, own, "in", scope="loopback", attempts=0),
    )


@row("o10-descriptor-reused")
def o10(lab: Lab) -> Expectation:
    """One flow a destination, and no bytes moved across."""
    dead, ports = lab.port(), [lab.peer.serve(), lab.peer.serve()]
    program, _ = lab.run("tcp.py", op="reuse", host=PEER4, dead=dead, ports=ports, down=20_000)
    return expect(
        Want(program.name, "tcp", PEER4, dead, established=0),
        *(Want(program.name, "tcp", PEER4, port) for port in ports),
    )


@row("o10-udp-reconnected")
def o10_udp(lab: Lab) -> Expectation:
    """One flow a destination, and no bytes moved across."""
    ports = [lab.peer.serve("udp") for _ in range(3)]
    program, _ = lab.run("udp.py", op="reconnected", host=PEER4, ports=ports)
    return expect(*(Want(program.name, "udp", PEER4, port) for port in ports))


def _failed(lab: Lab, op: str, host: str, result: str | None, **arguments: object) -> Expectation:
    port = lab.port()
    program, _ = lab.run("tcp.py", op=op, host=host, port=port, **arguments)
    event = {"event": "close", "comm": program.name, "remote_port": port, "result": result}
    return expect(Want(program.name, "tcp", host, port, established=0), events=(event,) if result else ())


@row("o11-refused")
def o11_refused(lab: Lab) -> Expectation:
    """One attempt, none established, the SYN's bytes and the reset's, ECONNREFUSED."""
    return _failed(lab, "probe", PEER4, "ECONNREFUSED")


@row("o11-refused-100")
def o11_hundred(lab: Lab) -> Expectation:
    """A hundred attempts."""
    expected = _failed(lab, "probe", PEER4, None, times=100)
    return replace(expected, wants=(replace(expected.wants[0], attempts=100),))


@row("o11-nonblocking")
def o11_nonblocking(lab: Lab) -> Expectation:
    """The same without waiting; the descriptor's second connect only fetches the error: no attempt."""
    return _failed(lab, "nonblocking", PEER4, "ECONNREFUSED")


@row("o11-unreachable")
def o11_unreachable(lab: Lab) -> Expectation:
    """One attempt and no packet."""
    return _failed(lab, "probe", UNREACHABLE4, None)


@row("o11-timed-out")
def o11_timed_out(lab: Lab) -> Expectation:
    """Retransmitted SYNs count as bytes and are no second attempt."""
    return _failed(lab, "probe", SILENT4, "ETIMEDOUT", retries=1, blocking=True)


@row("o11-interrupted")
def o11_interrupted(lab: Lab) -> Expectation:
    """A connect that a signal ends, and whose socket is closed, was an attempt."""
    return _failed(lab, "interrupted", SILENT4, None)


@row("o13-ping")
def o13(lab: Lab) -> Expectation:
    """A ping socket, unconnected."""
    return _ping(lab, PEER4, connect=False)


@row("o13-ping-connected")
def o13_connected(lab: Lab) -> Expectation:
    """A ping socket, connected."""
    return _ping(lab, PEER4, connect=True)


@row("o13-ping6")
def o13_ipv6(lab: Lab) -> Expectation:
    """A ping socket, IPv6."""
    return _ping(lab, PEER6, connect=False)


@row("o13-ping6-connected")
def o13_ipv6_connected(lab: Lab) -> Expectation:
    """A ping socket, IPv6, connected."""
    return _ping(lab, PEER6, connect=True)


def _ping(lab: Lab, host: str, *, connect: bool) -> Expectation:
    proto = "ipv6-icmp" if ":" in host else "icmp"
    before = lab.wire(proto, host, None)
    program, _ = lab.run("raw.py", op="echo", host=host, count=20, size=200, ping=True, connect=connect)
    return expect(Want(program.name, proto, host, None, before=before, pids=frozenset({program.pid})))


@row("o13-raw-icmp6")
def o13_raw(lab: Lab) -> Expectation:
    """A raw ICMPv6 socket that filters for replies."""
    before = lab.wire("ipv6-icmp", PEER6, None)
    program, _ = lab.run("raw.py", op="echo", host=PEER6, count=20, size=200)
    return expect(Want(program.name, "ipv6-icmp", PEER6, None, before=before))


@row("o14-forged-source")
def o14(lab: Lab) -> Expectation:
    """A packet whose header the program wrote itself: its protocol and destination."""
    port = lab.port()
    program, _ = lab.run(
        "raw.py", op="forged", host=PEER4, port=port, proto=17, sender="198.51.100.99", count=10
    )
    return expect(Want(program.name, "udp", PEER4, port, pids=frozenset({program.pid})))


@row("o14-raw-ipv6")
def o14_ipv6(lab: Lab) -> Expectation:
    """A raw IPv6 protocol."""
    port = lab.port()
    program, _ = lab.run("raw.py", op="protocol", host=PEER6, proto=253, count=20, size=100, port=port)
    exact = Wire(20 * 140, 0, 20, 0)
    return expect(Want(program.name, "253", PEER6, None, exact=exact))


@row("o15-udplite")
def o15(lab: Lab) -> Expectation:
    """UDP-Lite by its own name, both ways."""
    port = lab.peer.serve("udplite")
    program, _ = lab.run("udp.py", op="unconnected", host=PEER4, port=port, count=30, down=20_000, lite=True)
    return expect(Want(program.name, "udplite", PEER4, port, pids=frozenset({program.pid})))


@row("o15-gre")
def o15_gre(lab: Lab) -> Expectation:
    """Raw protocol 47 by its keyword."""
    before = lab.wire("gre", PEER4, None)
    program, _ = lab.run("raw.py", op="protocol", host=PEER4, proto=47, count=20, size=100)
    return expect(Want(program.name, "gre", PEER4, None, before=before))


@row("o15-raw-connected")
def o15_connected(lab: Lab) -> Expectation:
    """A raw socket that is connected."""
    before = lab.wire("254", PEER4, None)
    program, _ = lab.run("raw.py", op="protocol", host=PEER4, proto=254, count=20, size=100, connect=True)
    return expect(Want(program.name, "254", PEER4, None, before=before))


@row("o16-multicast")
def o16(lab: Lab) -> Expectation:
    """Scope multicast, IPv4."""
    return _group(lab, "224.0.0.251")


@row("o16-multicast6")
def o16_ipv6(lab: Lab) -> Expectation:
    """Scope multicast, IPv6."""
    return _group(lab, "ff02::fb")


@row("o16-broadcast")
def o16_broadcast(lab: Lab) -> Expectation:
    """The limited broadcast counts as multicast."""
    return _group(lab, "255.255.255.255")


def _group(lab: Lab, host: str) -> Expectation:
    port = lab.port()
    program, _ = lab.run("udp.py", op="group", host=host, port=port, count=5, device="wire")
    return expect(Want(program.name, "udp", host, port, scope="multicast"))


@row("o17-large-datagram")
def o17(lab: Lab) -> Expectation:
    """The hook runs before fragmentation: 60,028 bytes are one packet there, and 41 on the wire."""
    port = lab.peer.serve("udp")
    program, _ = lab.run("udp.py", op="unconnected", host=PEER4, port=port, count=3, datagram=60_000)
    if lab.wire("udp", PEER4, None).packets_out < 3 * 41:
        raise AssertionError("the datagrams were not fragmented")
    return expect(Want(program.name, "udp", PEER4, port, exact=Wire(3 * 60_028, 0, 3, 0)))


@row("o17-ipv4-options")
def o17_options(lab: Lab) -> Expectation:
    """Ports are found behind IPv4 options."""
    port = lab.peer.serve("udp")
    program, _ = lab.run("udp.py", op="options", host=PEER4, port=port, count=5)
    return expect(Want(program.name, "udp", PEER4, port))


@row("o17-ipv6-options")
def o17_options6(lab: Lab) -> Expectation:
    """Ports are found behind IPv6 destination options."""
    port = lab.peer.serve("udp", PEER6)
    program, _ = lab.run("udp.py", op="options", host=PEER6, port=port, count=5)
    return expect(Want(program.name, "udp", PEER6, port))


@row("o20-dnat-tcp")
def o20(lab: Lab) -> Expectation:
    """The destination that was asked for, not the one that local NAT made of it."""
    port = lab.peer.serve()
    lab.translate("tcp", 443, PEER4, port)
    program, _ = lab.run("tcp.py", op="transfer", host=TRANSLATED4, port=443, up=50_000, down=50_000)
    return expect(Want(program.name, "tcp", TRANSLATED4, 443, wire=("tcp", PEER4, port)))


@row("o20-dnat-udp")
def o20_udp(lab: Lab) -> Expectation:
    """The same for datagrams of an unconnected socket, both ways."""
    port = lab.peer.serve("udp")
    lab.translate("udp", 4430, PEER4, port)
    program, _ = lab.run("udp.py", op="unconnected", host=TRANSLATED4, port=4430, count=10, down=10_000)
    return expect(Want(program.name, "udp", TRANSLATED4, 4430, wire=("udp", PEER4, port)))
