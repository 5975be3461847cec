"""Rules by name with the resolvers and clients that people have: each finds its names at the first try."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.cgroups import Jail
from tests.support.daemon import until
from tests.support.named_world import pem
from tests.support.network import MORE4, PEER6
from tests.support.resolvers import (
    ALLOWED,
    CLIENTS,
    CONFIGS,
    HOSTED,
    MANY,
    MANY_ADDRESSES,
    OTHER,
    RESOLVED,
    SEARCH,
    SERVERS,
    SOME,
    SOME_ADDRESSES,
    Client,
    Resolving,
    Servers,
    browser,
    clients,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.daemon import Tattle
    from tests.support.network import Lab

__all__ = ["pem"]  # a fixture

NAMES = {ALLOWED, MANY, SOME, HOSTED}
ASKED = NAMES | {f"{name}.{domain}" for name in NAMES for domain in SEARCH}
"""All that may reach a resolver."""
SITE = 443
"""The port for which a browser asks of the name itself, by type HTTPS (RFC 9460 2.3)."""
LONG = bool(os.environ.get("TATTLE_TEST_LONG"))
"""Whether to try all clients with all configurations and resolvers: some minutes instead of one."""
PAIRS = [
    pytest.param(name, config, id=f"{name}-{config}")
    for name in CLIENTS
    for config in CONFIGS
    if LONG or name == "glibc" or config == "ndots" or (config, name) == ("use-vc", "c-ares-tcp")
]
RULES = {
    "plain": ("*.ollama.example", "*.example"),
    "edns0": (ALLOWED, MANY, SOME, HOSTED),
    "use-vc": (ALLOWED, MANY, SOME, HOSTED),
    "ndots": (ALLOWED, MANY, SOME, HOSTED),
    "ndots-use-vc": ("*.ollama.example", MANY, SOME, HOSTED),
    "single-request": (ALLOWED, MANY, SOME, HOSTED),
}


@pytest.fixture(scope="module")
def built(scratch: Path) -> dict[str, Client]:
    """Build the clients."""
    return clients(scratch)


@pytest.fixture(scope="module")
def servers(lab: Lab, scratch: Path) -> Iterator[Servers]:
    """Run the resolvers."""
    made = Servers(lab, scratch)
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def resolving(lab: Lab, plain: Tattle, pem: Path, scratch: Path) -> Iterator[Resolving]:
    """Serve at all addresses of the peer, and put a process into a jail."""
    batch = "".join(f"addr add {address}/32 dev wire\n" for address in MANY_ADDRESSES)
    lab.peer_ns.run("ip", "-batch", "-", text=batch)
    port = lab.port()
    server = lab.start("named.py", op="serve", port=port, pem=str(pem), namespace=lab.peer_ns)
    server.ready()
    server.go()
    made = Resolving(Jail(lab, plain), scratch, port)
    with made.held():
        yield made
    made.jail.unblock()
    lab.peer_ns.run("ip", "-batch", "-", text=batch.replace("addr add", "addr del"))


def block(resolving: Resolving, *names: str) -> None:
    """Allow these names, and nothing else."""
    resolving.jail.block(*(word for name in names for word in ("--allow", name)))


def expect(resolving: Resolving, client: Client, *more: str, hosts_file: bool = True) -> None:
    """Have it look up the names of the rules: all are found, and each address can be connected to at once."""
    many, addresses = (SOME, SOME_ADDRESSES) if "musl" in client.words[0] else (MANY, MANY_ADDRESSES)
    found = {name: resolving.resolve(client, name, *more) for name in (ALLOWED, many)}
    assert found[ALLOWED] == {"error": "", "addresses": {MORE4[0]: 0, PEER6: 0}}
    assert found[many] == {"error": "", "addresses": dict.fromkeys(addresses, 0)}
    if hosts_file:
        assert resolving.resolve(client, HOSTED, *more) == {"error": "", "addresses": {MORE4[2]: 0}}


@pytest.mark.parametrize(("name", "config"), PAIRS)
def test_allowed_names_are_found_and_no_others_leave(
    name: str, config: str, built: dict[str, Client], servers: Servers, resolving: Resolving
) -> None:
    """However resolv.conf tells a client to ask; 64 addresses, UDP and TCP, search lists, the hosts file."""
    resolving.configure(CONFIGS[config])
    block(resolving, *RULES[config])
    mark = servers.mark()
    expect(
        resolving, built[name], *(["tcp"] if name == "c-ares-tcp" else []), hosts_file=name != "node-c-ares"
    )
    assert servers.asked(mark) <= ASKED


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("name", ["glibc", "c-ares", "musl", "c-ares-tcp"] if LONG else ["glibc", "c-ares"])
def test_each_resolver_is_understood(
    name: str, server: str, built: dict[str, Client], servers: Servers, resolving: Resolving
) -> None:
    """dnsmasq, unbound, a stub on loopback, Docker's resolver behind its address translation."""
    # systemd-resolved asks nobody for what ends in .local, blocked or not: no search list of a pod there.
    config = "plain" if server == "stub" and RESOLVED else "ndots"
    resolving.configure(CONFIGS[config], SERVERS[server])
    block(resolving, ALLOWED, MANY, SOME, HOSTED)
    mark = servers.mark()
    expect(resolving, built[name], *(["tcp"] if name == "c-ares-tcp" else []))
    assert servers.asked(mark) <= ASKED


@pytest.mark.parametrize("config", ["plain", "ndots"] if LONG else ["ndots"])
@pytest.mark.parametrize("name", CLIENTS)
def test_another_name_is_refused_and_does_not_leave(
    name: str, config: str, built: dict[str, Client], servers: Servers, resolving: Resolving
) -> None:
    """The client is told so, and the next allowed name is found as ever."""
    resolving.configure(CONFIGS[config])
    block(resolving, ALLOWED, MANY)
    mark = servers.mark()
    said = resolving.resolve(built[name], OTHER)
    assert said["error"]
    assert said["addresses"] == {}
    assert resolving.resolve(built[name], ALLOWED)["addresses"] == {MORE4[0]: 0, PEER6: 0}
    assert servers.asked(mark) <= ASKED


@pytest.mark.parametrize(
    "words", [("+search",), ("+tcp",), ("+dnssec", "+nocookie"), ("+0x20",)], ids=" ".join
)
def test_dig_is_answered(words: tuple[str, ...], servers: Servers, resolving: Resolving) -> None:
    """Two questions at once, with EDNS, DNSSEC OK and cookies."""
    resolving.configure(CONFIGS["ndots"])
    block(resolving, ALLOWED, MANY)
    mark = servers.mark()
    options = [word for word in words if word != "+0x20"]
    name = "rEgistry.oLLama.Example" if "+0x20" in words else ALLOWED
    said = resolving.run(
        Client(("dig",), {}), "+short", *options, name, "A", "+short", *options, name, "AAAA"
    )
    assert set(said.split()) == {MORE4[0], PEER6}
    assert servers.asked(mark) <= ASKED


def test_curl_finds_and_speaks(servers: Servers, resolving: Resolving) -> None:
    """From the name to a TLS connection; what the server says then is no HTTP."""
    resolving.configure(CONFIGS["ndots"])
    block(resolving, ALLOWED)
    mark = servers.mark()
    options = ("--silent", "--insecure", "--max-time", "20", "--write-out", "%{remote_ip} %{time_appconnect}")
    said = resolving.run(Client(("curl", *options), {}), f"https://{ALLOWED}:{resolving.port}/")
    address, handshake_s = said.split()[-2:]
    assert address in {MORE4[0], PEER6}
    assert float(handshake_s) > 0
    assert servers.asked(mark) <= ASKED


@pytest.fixture
def site(lab: Lab, pem: Path) -> Iterator[None]:
    """Serve a page by TLS at the peer, as a site does."""
    words = ["ip", "netns", "exec", lab.peer_ns.name, "openssl", "s_server", "-www", "-quiet"]
    server = subprocess.Popen([*words, "-accept", f"*:{SITE}", "-cert", str(pem), "-key", str(pem)])
    until(lambda: [] if f":{SITE} " in lab.peer_ns.run("ss", "-Hltn") else ["no site"])
    yield
    server.terminate()
    server.wait(10)


@pytest.fixture
def opened(resolving: Resolving, servers: Servers) -> Resolving:
    """Have an address opened by the name that is allowed."""
    assert servers.log.exists()
    resolving.configure("")
    block(resolving, ALLOWED)
    assert MORE4[0] in resolving.run(Client(("dig",), {}), "+short", ALLOWED).split()
    return resolving


@pytest.mark.usefixtures("site")
def test_curl_has_an_error_where_its_server_name_is_denied(opened: Resolving) -> None:
    """At once, whatever its patience: it has no --max-time here, and would wait for ever."""
    options = (
        "--silent",
        "--insecure",
        "--resolve",
        f"{OTHER}:{SITE}:{MORE4[0]}",
        "--write-out",
        "%{exitcode}",
    )
    said = opened.run(Client(("curl", *options), {}), f"https://{OTHER}/")
    assert said in {"35", "56"}  # the connection's end, while and after it greets


@pytest.mark.usefixtures("site")
def test_a_browser_has_an_error_where_its_server_name_is_denied(opened: Resolving, scratch: Path) -> None:
    """It says so on its page."""
    asked = browser(scratch, f"--host-resolver-rules=MAP {OTHER} {MORE4[0]}")
    page = opened.run(asked, f"https://{OTHER}/")
    assert "ERR_CONNECTION_ABORTED" in page or "ERR_CONNECTION_CLOSED" in page, page[-3000:]


@pytest.mark.usefixtures("site")
def test_a_browser_goes_on_without_its_https_question(
    servers: Servers, resolving: Resolving, scratch: Path
) -> None:
    """It asks for HTTPS records beside the addresses; refused, it loads the page all the same."""
    resolving.configure("")
    url = f"https://{ALLOWED}/"
    resolving.jail.unblock()
    mark = servers.mark()
    assert "Secure Renegotiation" in resolving.run(browser(scratch), url)
    assert servers.asked_for_services(mark)
    block(resolving, ALLOWED)
    mark = servers.mark()
    assert "Secure Renegotiation" in resolving.run(browser(scratch), url)
    assert servers.asked(mark) <= ASKED
    assert not servers.asked_for_services(mark)
