"""Names as real resolvers and clients make them (dnsmasq, dig, curl, openssl, QUIC), with their evidence."""

from __future__ import annotations

import secrets
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.support.daemon import PATIENCE, Tattle, until
from tests.support.network import MORE4, PEER4, Lab
from tests.support.packet_counters import die_with_parent, enter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.packet_counters import Namespace

LOCAL = "127.0.0.53"
"""Where a resolver of the client's own listens, as systemd-resolved does."""
SHARED, LONE = MORE4[0], MORE4[1]
QUIC = f"""
import socket, sys
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
known = QuicConfiguration(is_client=True, server_name=sys.argv[1], alpn_protocols=["h3"])
connection = QuicConnection(configuration=known)
connection.connect(("{LONE}", 443), now=0.0)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    if sys.argv[2] == "connected":
        sock.connect(("{LONE}", 443))
    for datagram, _ in connection.datagrams_to_send(now=0.0):
        sock.send(datagram) if sys.argv[2] == "connected" else sock.sendto(datagram, ("{LONE}", 443))
"""


class World(NamedTuple):
    """Clients in the lab's client namespace; every name carries a token, so that tests find their own."""

    lab: Lab
    tattle: Tattle
    port: int
    conf: Path
    token: str
    lost: dict[str, int]  # before, in the floods of other tests

    def name(self, first: str) -> str:
        """Return a name that the resolvers know: under `shared` at two servers' address, else at LONE."""
        return f"{first}.{self.token}.example"

    def run(self, *words: str, check: bool = False) -> str:
        """Run a client that sees the test's resolv.conf; it may fail after it has spoken."""
        script = 'mount --bind "$0" /etc/resolv.conf; exec "$@"'
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-ec", script, str(self.conf), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=check,
            preexec_fn=lambda: enter(self.lab.client.fd),
        )
        return done.stdout

    def curl(self, *words: str) -> None:
        """Run curl; the server speaks no HTTP."""
        self.run("curl", "--silent", "--insecure", "--max-time", "30", *words)

    def events(self, kind: str, **wanted: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - values of JSON
        """Return the log's events of a kind with these values."""
        return [
            one
            for one in self.tattle.events()
            if one["event"] == kind and all(one[key] == value for key, value in wanted.items())
        ]

    def await_event(self, kind: str, **wanted: Any) -> dict[str, Any]:  # noqa: ANN401
        """Wait for such an event and return the newest."""
        until(lambda: [] if self.events(kind, **wanted) else [f"no {kind} with {wanted}: {self.seen()}"])
        return self.events(kind, **wanted)[-1]

    def seen(self) -> list[object]:
        """Say what there was instead."""
        keys = ("event", "comm", "name", "name_source", "remote_addr", "remote_port")
        return [tuple(one[key] for key in keys) for one in self.tattle.events()][-20:]


def listens(namespace: Namespace, address: str) -> list[str]:
    """Complain as long as no resolver listens there."""
    found = namespace.run("ss", "-Hltun", "sport", "=", "53")
    return [] if f"{address}:53 " in found else [f"no resolver at {address}: {found}"]


def resolver(namespace: Namespace, address: str, *words: str) -> subprocess.Popen[bytes]:
    """Run dnsmasq."""
    known = ["dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--user=root", "--pid-file"]
    known += ["--conf-file=/dev/null", "--bind-interfaces", f"--listen-address={address}", *words]

    def prepare() -> None:
        die_with_parent()
        enter(namespace.fd)

    process = subprocess.Popen(known, preexec_fn=prepare)  # noqa: PLW1509 - no threads here
    until(lambda: listens(namespace, address))
    return process


@pytest.fixture(scope="module")
def servers(lab: Lab, scratch: Path) -> Iterator[tuple[int, str]]:
    """Run a TLS server at every address of the peer, a resolver there, and one at the client that asks it."""
    token = secrets.token_hex(4)
    pem = scratch / "spoken.pem"
    key = scratch / "spoken.key"
    words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    words += ["-keyout", str(key), "-out", str(pem), "-subj", "/CN=test", "-days", "2"]
    subprocess.run(["openssl", *words], check=True, capture_output=True)
    pem.write_bytes(pem.read_bytes() + key.read_bytes())
    port = lab.port()
    server = lab.start("named.py", op="serve", port=port, pem=str(pem), namespace=lab.peer_ns)
    server.ready()
    server.go()
    zone = f"{token}.example"
    shared = [f"--address=/{name}.{zone}/{SHARED}" for name in ("one", "two")]
    chain = [f"--cname=alias.{zone},end.{zone}", f"--host-record=end.{zone},{LONE}"]
    loop = [f"--address=/loop.{zone}/127.0.0.1"]
    lone = f"--address=/lone.{zone}/{LONE}"
    upstream = resolver(
        lab.peer_ns, PEER4, *shared, *chain, *loop, lone, f"--local=/{zone}/", "--local-ttl=60"
    )
    local = resolver(lab.client, LOCAL, f"--server={PEER4}", "--cache-size=0")
    yield port, token
    for process in (local, upstream):
        process.terminate()
        process.wait(10)


@pytest.fixture
def world(lab: Lab, plain: Tattle, servers: tuple[int, str], scratch: Path) -> World:
    """Give the clients, a resolv.conf, and a log that begins now."""
    conf = scratch / "spoken.resolv.conf"
    conf.write_text(f"nameserver {PEER4}\noptions timeout:2\n")
    plain.mark()
    port, token = servers
    return World(lab, plain, port, conf, token, plain.losses())


@pytest.mark.parametrize("how", ["+notcp", "+tcp"])
def test_dig(how: str, world: World) -> None:
    """A chain's asked name with its answers, by UDP and by TCP, told once, by who asked."""
    name = world.name("alias")
    said = world.run("dig", how, "+short", name, "A", check=True)
    event = world.await_event("dns", name=name)
    expected = {"comm": "dig", "dns_type": "A", "result": "ok", "remote_addr": PEER4, "remote_port": 53}
    assert {key: event[key] for key in expected} == expected
    assert event["answers"] == [LONE]
    assert LONE in said
    assert event["proto"] == how.removeprefix("+").removeprefix("no").replace(
        "tcp", "udp" if "no" in how else "tcp"
    )
    assert event["duration_ms"] > 0
    assert len(world.events("dns", name=name)) == 1


def test_a_name_that_is_none(world: World) -> None:
    """NXDOMAIN, as the resolver said it."""
    world.run("dig", world.name("nowhere"))
    assert world.await_event("dns", name=world.name("nowhere"))["result"] == "NXDOMAIN"


def test_curl(world: World) -> None:
    """By DNS when it connects, by what it says when it is over; in flows, too."""
    name = world.name("alias")
    world.curl(f"https://{name}:{world.port}/")
    event = world.await_event("close", name=name, comm="curl")
    assert (event["name_source"], event["remote_addr"]) == ("sni", LONE)
    assert event["names"][0]["own"]
    (flow,) = [
        one
        for one in world.tattle.flows("curl")
        if one["pid"] == event["pid"] and one["remote_port"] == world.port
    ]
    assert (flow["name"], flow["name_source"]) == (name, "sni")


def test_metrics_tell_names(world: World, scratch: Path) -> None:
    """A destination's label is its name; here with room for whatever else this host speaks to."""
    config = scratch / "many.toml"
    config.write_text("[metrics]\nmax_destinations = 5000\n")
    tattle = Tattle(scratch, "--config", str(config))
    try:
        alone = world._replace(tattle=tattle.start())
        name = alone.name("alias")
        alone.curl(f"https://{name}:{alone.port}/")
        alone.await_event("close", name=name, comm="curl")
        with urllib.request.urlopen(f"http://127.0.0.1:{tattle.port}/metrics", timeout=PATIENCE) as page:
            lines = [line for line in page.read().decode().splitlines() if f'destination="{name}"' in line]
        tattle.stop()
    finally:
        tattle.remove()
    assert any(
        line.startswith("tattle_connection_attempts_total") and 'process="curl"' in line for line in lines
    )


def test_glibc_asks_for_its_own_process(world: World) -> None:
    """A client that names no server goes by the answer that it was given itself."""
    name = world.name("lone")
    world.run("openssl", "s_client", "-noservername", "-connect", f"{name}:{world.port}")
    event = world.await_event("close", comm="openssl", remote_addr=LONE, remote_port=world.port)
    assert (event["name"], event["name_source"], event["names"][0]["own"]) == (name, "dns", True)


def test_plain_http(world: World) -> None:
    """The Host of the request."""
    name = world.name("host")
    world.curl(f"http://{LONE}:{world.port}/", "--header", f"Host: {name}")
    assert world.await_event("close", name=name)["name_source"] == "sni"


def test_two_names_on_one_address(world: World) -> None:
    """Each connection by what it said; the flow, which is both, lists both."""
    names = [world.name("one"), world.name("two")]
    world.curl(*(f"https://{name}:{world.port}/" for name in names))
    for name in names:
        assert world.await_event("close", name=name)["remote_addr"] == SHARED
    pid = world.events("close", name=names[0])[-1]["pid"]
    flows = [
        one for one in world.tattle.flows("curl") if one["pid"] == pid and one["remote_port"] == world.port
    ]
    assert set(names) <= {one["name"] for flow in flows for one in flow["names"]}


def test_what_the_client_says_wins_over_dns(world: World) -> None:
    """A wrong server's name is what was said, and the answer stands beside it."""
    name, said = world.name("lone"), world.name("said")
    world.run("openssl", "s_client", "-servername", said, "-connect", f"{name}:{world.port}")
    event = world.await_event("close", name=said)
    assert [(one["name"], one["source"]) for one in event["names"][:2]] == [(said, "sni"), (name, "dns")]


def test_a_resolver_of_the_hosts(world: World) -> None:
    """Asked over loopback, the answer is the client's own; who is only told an address has it from others."""
    world.conf.write_text(f"nameserver {LOCAL}\n")
    name = world.name("one")
    world.curl(f"http://{name}:{world.port}/", "--header", "Host:")
    event = world.await_event("close", comm="curl", remote_addr=SHARED, remote_port=world.port)
    assert (event["name"], event["name_source"], event["names"][0]["own"]) == (name, "dns", True)
    assert world.await_event("dns", name=name, comm="curl")["remote_addr"] == LOCAL
    assert world.await_event("dns", name=name, comm="dnsmasq")["remote_addr"] == PEER4
    world.tattle.mark()
    world.curl(f"http://{SHARED}:{world.port}/")
    event = world.await_event("close", comm="curl", remote_addr=SHARED, remote_port=world.port)
    assert (event["name_source"], [one["own"] for one in event["names"] if one["name"] == name]) == (
        "dns",
        [False],
    )


def test_nobody_renames_loopback(world: World) -> None:
    """An answer of 127.0.0.1 names no traffic: that of the local resolver stays as it is."""
    world.conf.write_text(f"nameserver {LOCAL}\n")
    world.run("dig", f"@{LOCAL}", world.name("loop"), check=True)
    world.await_event("dns", name=world.name("loop"), comm="dig")
    loops = [one for one in world.tattle.read()["flows"] if one["scope"] == "loopback"]
    assert not [one for one in loops if one["name"]]


@pytest.mark.parametrize("first", [False, True], ids=["name-first", "name-last"])
@pytest.mark.parametrize("cuts", [(), (1,), (100, 130, 140), tuple(range(40, 1640, 40))], ids=len)
@pytest.mark.parametrize("more", [0, 1500, 15000])
def test_a_hello_in_pieces(cuts: tuple[int, ...], more: int, first: bool, world: World) -> None:  # noqa: FBT001 - a parameter
    """Sent in several writes, each a packet of its own, and longer than a packet."""
    from tests.support.hellos import client, padded  # noqa: PLC0415

    name = world.name(f"p{len(cuts)}-{more}-{first:d}")
    said = padded(client(name), more, first=first)
    cuts = tuple(cut for cut in cuts if cut < len(said))
    edges = [0, *cuts, len(said)]
    pieces = [said[edges[at] : edges[at + 1]].hex() for at in range(len(edges) - 1)]
    world.lab.run("named.py", op="hello", host=LONE, port=world.port, pieces=pieces)
    assert world.await_event("close", name=name)["name_source"] == "sni"


@pytest.mark.parametrize("how", ["connected", "sendto"])
def test_quic(how: str, world: World) -> None:
    """The name in an Initial packet, on a connected socket and on one that is not."""
    name = world.name(f"quic-{how}")
    world.run(sys.executable, "-c", QUIC, name, how, check=True)
    event = world.await_event("send", name=name)
    assert (event["name_source"], event["proto"], event["remote_port"]) == ("sni", "udp", 443)


def test_nothing_was_lost(world: World) -> None:
    """Every sample was read, and every name is kept."""
    lost = world.tattle.losses()
    reasons = ("samples_full", "names_full", "hellos_full", "streams_full")
    assert not [reason for reason in reasons if lost.get(reason, 0) > world.lost.get(reason, 0)]
