"""A jail whose rules are by name, a resolver that it may ask, a server with many names: for several tests."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.support.cgroups import Jail
from tests.support.daemon import until
from tests.support.network import MORE4, PEER4, PEER6, TRAFFIC, Lab
from tests.support.packet_counters import enter

sys.path.insert(0, str(TRAFFIC))
from named import AAAA, answer_to, question

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.daemon import Tattle

__all__ = ["AAAA", "answer_to", "pem", "question", "resolver", "world"]

ALLOWED, OTHER = "registry.ollama.example", "evil.example"
SHARED = MORE4[0]
"""An address of both names."""
LASTING = "lasting.example"
"""A name whose answer is good for longer than a test takes."""
TARGET = MORE4[2]
"""An address that no true answer gives for an allowed name."""
LIAR = MORE4[0]
HANDSHAKE = 6
"""Packets that open a connection and end it."""
HOSTS = f"""\
{SHARED} {ALLOWED}
{MORE4[1]} {ALLOWED}
{PEER6} {ALLOWED}
{SHARED} {OTHER}
{MORE4[2]} {OTHER}
{MORE4[1]} deep.sub.wild.example
{MORE4[1]} wild.example
{MORE4[1]} registry.ollama.ai
10.9.8.7 inside.example
127.0.0.9 loop.example
"""


class World(NamedTuple):
    """A jail beside a resolver that it may ask, and a TLS server at every address of the peer."""

    jail: Jail
    port: int

    def try_(self, op: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - arguments of the program
        """Run one operation of the traffic program inside the jail and return what came of it."""
        more = {"resolver": PEER4, "asks": ALLOWED, "port": self.port, **more}
        return self.jail.lab.run("named.py", op=op, cgroup=self.jail.inside, **more)[1]


@pytest.fixture(scope="module")
def pem(scratch: Path) -> Path:
    """Make a certificate; nobody checks it."""
    key, pem = scratch / "names.key", scratch / "names.pem"
    words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    words += ["-keyout", str(key), "-out", str(pem), "-subj", "/CN=test", "-days", "2"]
    subprocess.run(["openssl", *words], check=True, capture_output=True)
    pem.write_bytes(pem.read_bytes() + key.read_bytes())
    return pem


@pytest.fixture(scope="module")
def resolver(lab: Lab, scratch: Path) -> Iterator[None]:
    """Run dnsmasq at the peer, for IPv4 and IPv6, UDP and TCP; most answers are good for two seconds."""
    hosts = scratch / "names.hosts"
    hosts.write_text(HOSTS)
    words = ["dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", f"--addn-hosts={hosts}"]
    words += ["--local-ttl=2", "--user=root", "--pid-file", "--conf-file=/dev/null"]
    words += [f"--host-record={LASTING},{PEER4},300"]
    words += ["--bind-interfaces", f"--listen-address={PEER4},{PEER6}"]
    process = subprocess.Popen(words, preexec_fn=lambda: enter(lab.peer_ns.fd))  # noqa: PLW1509 - no threads here
    until(lambda: [] if _listens(lab) else ["dnsmasq does not listen"])
    yield
    process.terminate()
    process.wait(10)


def _listens(lab: Lab) -> bool:
    return f"{PEER4}:53 " in lab.peer_ns.run("ss", "-Hltun", "sport", "=", "53")


@pytest.fixture(scope="module")
def world(lab: Lab, plain: Tattle, pem: Path, resolver: None, scratch: Path) -> Iterator[World]:  # noqa: ARG001 - it only has to run
    """Put a process into a jail of the daemon that runs anyway."""
    with inhabited(Jail(lab, plain), pem, scratch) as made:
        yield made
        made.jail.unblock()


@contextlib.contextmanager
def inhabited(jail: Jail, pem: Path, scratch: Path) -> Iterator[World]:
    """Serve at the peer, and have a process in the jail see a resolv.conf of its own, as a container does."""
    port = jail.lab.port()
    server = jail.lab.start("named.py", op="serve", port=port, pem=str(pem), namespace=jail.lab.peer_ns)
    server.ready()
    server.go()
    conf = scratch / "resolv.conf"
    conf.write_text(f"nameserver {PEER4}\nnameserver {PEER6}\nnameserver {MORE4[0]}\n")
    holder = _see(jail, conf)
    try:
        yield World(jail, port)
    finally:
        holder.kill()
        holder.wait(10)


def _see(jail: Jail, conf: Path) -> subprocess.Popen[bytes]:
    script = f"echo $$ >{jail.inside}/cgroup.procs; mount --bind {conf} /etc/resolv.conf; echo; exec cat"
    words = ["unshare", "--mount", "sh", "-ec", script]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"\n"
    return process
