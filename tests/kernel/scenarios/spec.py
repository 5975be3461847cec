"""Rows s01 to s24: what programs plainly do.

s08 (SCTP) is not here: this suite's kernels lack CONFIG_IP_SCTP (socket() gives EPROTONOSUPPORT).
"""

from tests.kernel.scenarios.scenario import Expectation, Want, expect, late_in, late_out, row
from tests.support.network import CONTAINER_PEER4, MORE4, PEER4, PEER6, Lab, Program

MIB = 1 << 20


def transferred(lab: Lab, port: int, host: str = PEER4, **arguments: object) -> Expectation:
    """Run one TCP transfer and expect one flow of it."""
    program, _ = lab.run("tcp.py", op="transfer", host=host, port=port, **arguments)
    return expect(Want(program.name, "tcp", host, port, pids=frozenset({program.pid})))


def full_identity(program: Program) -> dict[str, object]:
    """Return what is known of a traffic program's process."""
    return {"exe": program.exe, "cgroup": program.cgroup, "uid": 0, "target": None, "container": None}


@row("s01-download")
def s01(lab: Lab) -> Expectation:
    """In: all that was asked for; out: request and acknowledgements."""
    return transferred(lab, lab.peer.serve(), down=4 * MIB)


@row("s02-upload")
def s02(lab: Lab) -> Expectation:
    """Out: all that was sent."""
    return transferred(lab, lab.peer.serve(), up=4 * MIB)


@row("s03-one-name-two-processes")
def s03(lab: Lab) -> Expectation:
    """Two pids of one name, one up and one down: apart."""
    name, ports = lab.name("twin"), [lab.peer.serve(), lab.peer.serve()]
    ways = [{"up": 2 * MIB}, {"down": 2 * MIB}]
    twins = [
        lab.start("tcp.py", name=name, op="transfer", host=PEER4, port=port, **way)
        for port, way in zip(ports, ways, strict=True)
    ]
    for twin in twins:
        twin.result()
    return expect(
        *(Want(name, "tcp", PEER4, p, pids=frozenset({t.pid})) for t, p in zip(twins, ports, strict=True))
    )


@row("s04-unconnected-udp")
def s04(lab: Lab) -> Expectation:
    """Both directions under both processes, and no connection invented."""
    name, ports = lab.name("udp"), [lab.peer.serve("udp"), lab.peer.serve("udp")]
    ways = [{"count": 1500}, {"down": 2 * MIB}]
    wants = []
    for port, way in zip(ports, ways, strict=True):
        program, _ = lab.run("udp.py", name=name, op="unconnected", host=PEER4, port=port, **way)
        wants.append(Want(name, "udp", PEER4, port, pids=frozenset({program.pid})))
    return expect(*wants)


@row("s05-raw-icmp")
def s05(lab: Lab) -> Expectation:
    """Protocol icmp, no port, echo and reply."""
    before = lab.wire("icmp", PEER4, None)
    program, _ = lab.run("raw.py", op="echo", host=PEER4, count=300, size=1000)
    return expect(Want(program.name, "icmp", PEER4, None, before=before, pids=frozenset({program.pid})))


@row("s06-udp-443")
def s06(lab: Lab) -> Expectation:
    """Just udp and port 443: not called QUIC."""
    port = lab.peer.serve("udp", port=443)
    program, _ = lab.run("udp.py", op="connected", host=PEER4, port=port, count=1000)
    return expect(Want(program.name, "udp", PEER4, 443, pids=frozenset({program.pid})))


@row("s07-ipv6")
def s07(lab: Lab) -> Expectation:
    """Family ipv6, address in canonical text."""
    port = lab.peer.serve(host=PEER6)
    program, _ = lab.run("tcp.py", op="transfer", host=PEER6, port=port, down=2 * MIB)
    return expect(Want(program.name, "tcp", PEER6, port, more={"family": "ipv6"}))


@row("s09-no-dns-on-53")
def s09(lab: Lab) -> Expectation:
    """Each datagram's 28 bytes of header count; no name is made from garbage."""
    host = MORE4[1]  # the resolvers of other tests listen at PEER4
    lab.peer.serve("udp", host=host, port=53)
    program, _ = lab.run("udp.py", op="unconnected", host=host, port=53, count=8000, datagram=64)
    return expect(Want(program.name, "udp", host, 53, more={"name": None}))


@row("s10-raw-protocol")
def s10(lab: Lab) -> Expectation:
    """A protocol without a name is shown by its number."""
    before = lab.wire("253", PEER4, None)
    program, _ = lab.run("raw.py", op="protocol", host=PEER4, proto=253, count=500, size=1000)
    return expect(Want(program.name, "253", PEER4, None, before=before))


@row("s11-twenty-in-turn")
def s11(lab: Lab) -> Expectation:
    """Twenty pids under one name, each with exe, parent and cgroup, although all are gone when asked."""
    name, port, pids = lab.name("turn"), lab.peer.serve(), set()
    for _ in range(20):
        program, _ = lab.run("tcp.py", name=name, op="transfer", host=PEER4, port=port, up=65536, end="close")
        pids.add(program.pid)
    return expect(
        Want(
            name,
            "tcp",
            PEER4,
            port,
            attempts=20,
            established=20,
            pids=frozenset(pids),
            unseen_out=late_out(60),
            unseen_in=late_in(60),
            more=full_identity(program) | lab.parent(),
        )
    )


@row("s12-af-packet")
def s12(lab: Lab) -> Expectation:
    """No cgroup hook sees hand-made frames: nothing is reported, and nothing is made up."""
    port = lab.port()
    program, result = lab.run(
        "raw.py",
        op="frames",
        host=PEER4,
        sender="198.51.100.77",
        port=port,
        device="wire",
        mac=lab.peer_mac(),
        count=20,
    )
    if lab.wire("udp", PEER4, port).packets_out != 20 or result["errno"]:
        raise AssertionError("the frames did not arrive")
    return expect(silent=(program.name,))


@row("s13-io-uring-send")
def s13(lab: Lab) -> Expectation:
    """As s02, and the leader's name, never a worker's."""
    port = lab.peer.serve()
    program, _ = lab.run("uring.c", PEER4, str(port), str(2 * MIB), "0", "transfer")
    return expect(Want(program.name, "tcp", PEER4, port, pids=frozenset({program.pid})))


@row("s14-sendfile")
def s14(lab: Lab) -> Expectation:
    """As s02."""
    return transferred(lab, lab.peer.serve(), up=4 * MIB, by="sendfile")


@row("s15-sendmmsg")
def s15(lab: Lab) -> Expectation:
    """Each datagram of a batch is a packet."""
    port = lab.peer.serve("udp")
    program, _ = lab.run("batch.c", "send", "1600", "1400", PEER4, str(port))
    return expect(Want(program.name, "udp", PEER4, port, pids=frozenset({program.pid})))


@row("s16-loopback")
def s16(lab: Lab) -> Expectation:
    """Scope loopback, once for the client and once for the server, never as internet."""
    port = lab.port()
    server = lab.start("tcp.py", op="serve", host="127.0.0.1", port=port, up=24, down=2 * MIB)
    server.ready()
    server.go()
    own = lab.port()
    client, _ = lab.run(
        "tcp.py", op="transfer", host="127.0.0.1", port=port, down=2 * MIB, bind=["127.0.0.1", own]
    )
    server.result()
    return expect(
        Want(client.name, "tcp", "127.0.0.1", port, scope="loopback"),
        Want(server.name, "tcp", "127.0.0.1", own, "in", scope="loopback", attempts=0),
    )


@row("s17-container")
def s17(lab: Lab) -> Expectation:
    """Process, container and cgroup; the true remote, once."""
    container = lab.container()
    port = lab.peer.serve(host=CONTAINER_PEER4)
    program, _ = lab.run(
        "rename.c",
        CONTAINER_PEER4,
        str(port),
        str(2 * MIB),
        namespace=container.namespace,
        cgroup=container.cgroup,
    )
    return expect(
        Want(
            program.name,
            "tcp",
            CONTAINER_PEER4,
            port,
            client=container.namespace,
            pids=frozenset({program.pid}),
            more=full_identity(program) | {"container": container.short_id},
        )
    )


@row("s18-slowly")
def s18(lab: Lab) -> Expectation:
    """One flow, not one a second."""
    return transferred(lab, lab.peer.serve(), up=256 << 10, chunk=16 << 10, pace=0.05)


@row("s19-sixty-connections")
def s19(lab: Lab) -> Expectation:
    """60 attempts, 60 established, one flow, bytes with 60 handshakes."""
    port = lab.peer.serve()
    program, _ = lab.run("tcp.py", op="transfer", host=PEER4, port=port, up=4096, times=60)
    return expect(Want(program.name, "tcp", PEER4, port, attempts=60, established=60))


@row("s20-thirty-at-once")
def s20(lab: Lab) -> Expectation:
    """30 pids."""
    name, port = lab.name("swarm"), lab.peer.serve()
    swarm = [
        lab.start("tcp.py", name=name, op="transfer", host=PEER4, port=port, up=32 << 10) for _ in range(30)
    ]
    for program in swarm:
        program.result()
    pids = frozenset(program.pid for program in swarm)
    return expect(Want(name, "tcp", PEER4, port, attempts=30, established=30, pids=pids))


@row("s21-io-uring-receive")
def s21(lab: Lab) -> Expectation:
    """As s01."""
    port = lab.peer.serve()
    program, _ = lab.run("uring.c", PEER4, str(port), "0", str(2 * MIB), "transfer")
    return expect(Want(program.name, "tcp", PEER4, port, pids=frozenset({program.pid})))


@row("s22-splice")
def s22(lab: Lab) -> Expectation:
    """As s01."""
    return transferred(lab, lab.peer.serve(), down=4 * MIB, into="splice")


@row("s23-recvmmsg")
def s23(lab: Lab) -> Expectation:
    """All that came in."""
    port = lab.peer.serve("udp")
    program, _ = lab.run("batch.c", "receive", "1600", "1400", PEER4, str(port))
    return expect(Want(program.name, "udp", PEER4, port, pids=frozenset({program.pid})))


@row("s24-udp-ipv6")
def s24(lab: Lab) -> Expectation:
    """As s04, IPv6."""
    port = lab.peer.serve("udp", PEER6)
    program, _ = lab.run("udp.py", op="unconnected", host=PEER6, port=port, down=2 * MIB)
    return expect(Want(program.name, "udp", PEER6, port, more={"family": "ipv6"}))
