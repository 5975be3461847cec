"""Every way out that is known, as functions that try it from a cgroup.

Each makes its traffic under a name of its own and returns that name and what the program said: EPERM, where
a call can be refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.network import CONTAINER_PEER4, PEER4, PEER6, TRANSLATED4, Lab

MIB = 1 << 20


class Try(NamedTuple):
    """Who tried, and what the last program said."""

    comms: tuple[str, ...]
    said: dict[str, Any]


Way = Callable[[Lab, Path], Try]
WAYS: dict[str, Way] = {}
DROPPED = {"source-route-tcp", "o13-ping-ipv6", "o33-opened-inside", "o42-exec"}
"""Nothing arrives, but no EPERM is seen: the call is another cgroup's, the kernel keeps the error to itself
(net/ipv6/ping.c), or the program that saw it is another one by now."""


def way(name: str) -> Callable[[Way], Way]:
    """Enter a function into the table."""

    def enter(function: Way) -> Way:
        WAYS[name] = function
        return function

    return enter


def _run(lab: Lab, cgroup: Path, source: str, *words: str, **arguments: Any) -> Try:  # noqa: ANN401 - any
    program, said = lab.run(source, *words, cgroup=cgroup, **arguments)
    return Try((program.name,), said)


def _tcp(name: str, host: str = PEER4, **arguments: Any) -> None:  # noqa: ANN401 - any
    @way(name)
    def connect(lab: Lab, cgroup: Path) -> Try:
        port = lab.peer.serve(host=host)
        return _run(
            lab, cgroup, "tcp.py", **{"op": "transfer", "up": 5000, **arguments}, host=host, port=port
        )


def _udp(name: str, host: str = PEER4, kind: str = "udp", **arguments: Any) -> None:  # noqa: ANN401 - any
    @way(name)
    def send(lab: Lab, cgroup: Path) -> Try:
        port = lab.peer.serve(kind, host=host)
        return _run(
            lab, cgroup, "udp.py", **{"op": "unconnected", "count": 5, **arguments}, host=host, port=port
        )


def _raw(name: str, host: str = PEER4, **arguments: Any) -> None:  # noqa: ANN401 - any
    @way(name)
    def send(lab: Lab, cgroup: Path) -> Try:
        return _run(
            lab, cgroup, "raw.py", **{"count": 3, "size": 100, "reply": False, **arguments}, host=host
        )


def _group(name: str, host: str) -> None:
    @way(name)
    def send(lab: Lab, cgroup: Path) -> Try:
        return _run(lab, cgroup, "udp.py", op="group", host=host, port=lab.port(), count=3, device="wire")


def _uring(mode: str) -> None:
    @way(f"o06-io-uring-{mode}")
    def connect(lab: Lab, cgroup: Path) -> Try:
        return _run(lab, cgroup, "uring.c", PEER4, str(lab.peer.serve()), "5000", "0", mode)


_tcp("s01-tcp")
_tcp("s07-tcp-ipv6", PEER6)
_tcp("s14-sendfile", by="sendfile")
_tcp("s22-splice", by="splice")
_tcp("o01-fastopen-sendto", op="fastopen", variant="sendto")
_tcp("o01-fastopen-connect", op="fastopen", variant="connect")
_tcp("o02-mptcp", mptcp=True)
_tcp("o05-mapped-tcp", mapped=True)
_tcp("o11-nonblocking", op="nonblocking")
_tcp("o32-forked", op="forked")
_tcp("o32-held", op="probe", times=20)
_udp("s04-udp")
_udp("s06-udp-connected", op="connected")
_udp("s24-udp-ipv6", PEER6)
_udp("o05-mapped-udp", mapped=True)
_udp("o15-udplite", kind="udplite", lite=True)
_udp("o17-large-datagram", datagram=60_000)
_udp("o17-ipv4-options", op="options")
_udp("o17-ipv6-options", PEER6, op="options")
_udp("source-route-udp", op="routed", claimed="127.0.0.1")
_udp("source-route-udp-control-message", op="routed", claimed="127.0.0.1", by="message")
_udp("source-route-udp-ipv6", PEER6, op="routed", claimed="::1")
_tcp("source-route-tcp", op="routed", claimed="127.0.0.1")
_raw("s05-raw-icmp", op="echo")
_raw("s10-raw-protocol", op="protocol", proto=253)
_raw("o13-ping", op="echo", ping=True)
_raw("o13-ping-connected", op="echo", ping=True, connect=True)
_raw("o13-ping-ipv6", PEER6, op="echo", ping=True)
_raw("o13-raw-icmpv6", PEER6, op="echo")
_raw("o14-forged-source", op="forged", sender="198.51.100.99", proto=17, port=4242)
_raw("o14-raw-ipv6", PEER6, op="protocol", proto=253)
_raw("o15-gre", op="protocol", proto=47)
_raw("o15-raw-connected", op="protocol", proto=254, connect=True)
_group("o16-multicast", "224.0.0.251")
_group("o16-multicast-ipv6", "ff02::fb")
_group("o16-broadcast", "255.255.255.255")
_group("o16-subnet-broadcast", "198.51.100.255")
for _mode in ("transfer", "connect", "connect-async", "connect-sqpoll"):
    _uring(_mode)


@way("s15-sendmmsg")
def sendmmsg(lab: Lab, cgroup: Path) -> Try:
    """Batches: each message is refused."""
    return _run(lab, cgroup, "batch.c", "send", "64", "500", PEER4, str(lab.peer.serve("udp")))


@way("s17-container")
def container(lab: Lab, cgroup: Path) -> Try:
    """A container below the target, in a network namespace of its own."""
    made = lab.container(lab.cgroup_path(cgroup))
    port = str(lab.peer.serve(host=CONTAINER_PEER4))
    return _run(lab, made.cgroup, "rename.c", CONTAINER_PEER4, port, "5000", namespace=made.namespace)


@way("s19-sixty")
def sixty(lab: Lab, cgroup: Path) -> Try:
    """Sixty connections."""
    port = lab.peer.serve()
    return _run(lab, cgroup, "tcp.py", op="transfer", host=PEER4, port=port, up=100, times=60)


@way("s20-thirty-at-once")
def thirty(lab: Lab, cgroup: Path) -> Try:
    """Thirty processes."""
    name, port = lab.name("swarm"), lab.peer.serve()
    swarm = [
        lab.start("tcp.py", name=name, cgroup=cgroup, op="transfer", host=PEER4, port=port, up=1000)
        for _ in range(30)
    ]
    return Try((name,), [program.result() for program in swarm][-1])


@way("o03-detour")
def detour(lab: Lab, cgroup: Path) -> Try:
    """Connected to one, sent to another."""
    first, second = lab.peer.serve("udp"), lab.peer.serve("udp")
    return _run(lab, cgroup, "udp.py", op="detour", host=PEER4, first=first, second=second, count=5)


@way("o10-reconnected")
def reconnected(lab: Lab, cgroup: Path) -> Try:
    """One descriptor, several peers."""
    ports = [lab.peer.serve("udp") for _ in range(3)]
    return _run(lab, cgroup, "udp.py", op="reconnected", host=PEER4, ports=ports, timeout=1)


@way("o20-dnat-tcp")
def dnat_tcp(lab: Lab, cgroup: Path) -> Try:
    """What was asked for is judged, not what local NAT makes of it."""
    port, asked = lab.peer.serve(), lab.port()
    lab.translate("tcp", asked, PEER4, port)
    return _run(lab, cgroup, "tcp.py", op="transfer", host=TRANSLATED4, port=asked, up=5000)


@way("o20-dnat-udp")
def dnat_udp(lab: Lab, cgroup: Path) -> Try:
    """Likewise for datagrams."""
    port, asked = lab.peer.serve("udp"), lab.port()
    lab.translate("udp", asked, PEER4, port)
    return _run(lab, cgroup, "udp.py", op="unconnected", host=TRANSLATED4, port=asked, count=5)


@way("o20-dnat-from-loopback")
def dnat_loopback(lab: Lab, cgroup: Path) -> Try:
    """The peer's resolver behind a loopback address: DNS stays denied."""
    port = lab.peer.serve("udp")
    lab.translate("udp", 53, PEER4, port)
    return _run(lab, cgroup, "udp.py", op="unconnected", host=TRANSLATED4, port=53, count=5)


@way("o30-thread")
def thread(lab: Lab, cgroup: Path) -> Try:
    """A thread with another name."""
    return _run(lab, cgroup, "rename.c", PEER4, str(lab.peer.serve()), "5000")


@way("o31-gone-at-once")
def brief(lab: Lab, cgroup: Path) -> Try:
    """A hundred processes that are gone within a millisecond."""
    child = lab.name("brief")
    lab.program("brief.c", child)
    port = str(lab.peer.serve())
    tried = _run(lab, cgroup, "brief.c", PEER4, port, "100", str(lab.scratch / child))
    return Try((child,), tried.said)


@way("o32-shared-udp")
def shared(lab: Lab, cgroup: Path) -> Try:
    """Parent and child with one socket."""
    return _run(lab, cgroup, "handover.py", op="shared", host=PEER4, port=lab.peer.serve("udp"))


def _handed(lab: Lab, giver: Path, taker: Path) -> Try:
    port, path = lab.peer.serve(), str(lab.scratch / lab.name("door"))
    common = {"state": "open", "host": PEER4, "port": port, "path": path}
    gives = lab.start("handover.py", name=lab.name("giver"), cgroup=giver, op="give", **common)
    gives.ready()
    gives.go()
    takes, said = lab.run("handover.py", name=lab.name("taker"), cgroup=taker, op="take", **common, up=5000)
    gives.result()
    return Try((takes.name, gives.name), said)


def _outsider(lab: Lab) -> Path:
    return lab.cgroup(f"lab-{lab.token}/{lab.name('other')}")


@way("o33-opened-inside")
def opened_inside(lab: Lab, cgroup: Path) -> Try:
    """The target opens, an outsider connects: the socket is the target's."""
    return _handed(lab, cgroup, _outsider(lab))


@way("o33-opened-outside")
def opened_outside(lab: Lab, cgroup: Path) -> Try:
    """An outsider opens, the target connects: the call is the target's."""
    return _handed(lab, _outsider(lab), cgroup)


@way("o35-other-namespace")
def other_namespace(lab: Lab, cgroup: Path) -> Try:
    """setns(2) after the start."""
    made = lab.container(f"lab-{lab.token}/engine")
    port = lab.peer.serve(host=CONTAINER_PEER4)
    into = f"/run/netns/{made.namespace.name}"
    return _run(lab, cgroup, "handover.py", op="enter", into=into, host=CONTAINER_PEER4, port=port, up=5000)


@way("o38-nested")
def nested(lab: Lab, cgroup: Path) -> Try:
    """Twelve cgroups further down."""
    deep = lab.cgroup(lab.cgroup_path(cgroup) + "/" + "/".join(f"level-{n}" for n in range(12)))
    return _run(lab, deep, "rename.c", PEER4, str(lab.peer.serve()), "5000")


@way("o42-exec")
def execed(lab: Lab, cgroup: Path) -> Try:
    """Becoming another program first."""
    become = lab.program("tcp.py", lab.name("later"))[0]
    port = lab.peer.serve()
    return _run(lab, cgroup, "tcp.py", op="execed", host=PEER4, port=port, up=1000, become=become)


@way("o43-other-user")
def other_user(lab: Lab, cgroup: Path) -> Try:
    """Another user."""
    return _run(
        lab,
        cgroup,
        "handover.py",
        op="become",
        uid=os.getuid() or 65_534,
        host=PEER4,
        port=lab.peer.serve(),
        up=9,
    )


@way("o43-root-of-a-user-namespace")
def user_namespace(lab: Lab, cgroup: Path) -> Try:
    """Root of a user namespace."""
    return _run(lab, cgroup, "handover.py", op="rooted", uid=65_534, host=PEER4, port=lab.peer.serve(), up=9)
