"""tattle tells, of ordinary programs on a small internet, who sent how much to whom: as the wire has it."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.world.miniature.comparing import Flow, Watched, eventually, watched
from tests.world.miniature.layout import (
    DNS_V4,
    DNS_V6,
    HOST_LINK,
    HOST_V4,
    HOST_V6,
    NET,
    NET_LINK,
    NET_V4,
    NET_V6,
    addresses,
)
from tests.world.miniature.tattled import Tattle
from tests.world.miniature.world import World

NGINX = """
daemon off; user root; master_process on; worker_processes 1; pid {state}/nginx.pid; error_log stderr notice;
events {{ }}
http {{
    access_log off; client_body_temp_path {state}; proxy_temp_path {state}; fastcgi_temp_path {state};
    uwsgi_temp_path {state}; scgi_temp_path {state};
    server {{ listen 80; listen [::]:80; root {state}/pages; }}
}}
"""
PAGE = 300_000
DNS = 53  # http.server looks the name of its own address up when it starts
LOOK_UP = "import socket; print(len(socket.getaddrinfo('huggingface.co', 443, type=socket.SOCK_STREAM)))"


@pytest.fixture(name="here")
def a_watched_group(world: World, tattle: Tattle, request: pytest.FixtureRequest) -> Iterator[Watched]:
    """Make a cgroup of this test's own that is compared with the wire."""
    with watched(world, tattle, re.sub(r"\W+", "-", request.node.name)) as it:
        yield it


@pytest.fixture(scope="session")
def pages(world: World) -> Path:
    """Make a directory of pages: `page`, of PAGE bytes."""
    directory = world.state / "pages"
    directory.mkdir()
    (directory / "page").write_bytes(bytes(PAGE))
    return directory


def run(here: Watched, *words: str, namespace: str = "world-host", group: str | None = None) -> str:
    """Run WORDS, by default in the watched cgroup; they must succeed."""
    done = here.world.run(group or here.cgroup.rpartition("/")[2], *words, namespace=namespace)
    assert done.returncode == 0, done.stderr
    return done.stdout


def only(flows: list[Flow], **wanted: object) -> Flow:
    """Return the one flow that has the WANTED values."""
    (found,) = [flow for flow in flows if wanted.items() <= flow.items()]
    return found


@pytest.mark.parametrize(("family", "name"), [("ipv4", "v4only.example"), ("ipv6", "v6only.example")])
def test_curl(here: Watched, family: str, name: str) -> None:
    """A download over TLS is one attempt, one connection, and the bytes of the wire, under curl's name."""
    run(here, "curl", "-sS", "-o", "/dev/null", f"https://{name}/bytes/200000")
    flow = only(here.settled(), proto="tcp")
    assert (flow["comm"], flow["exe"], flow["uid"]) == ("curl", "/usr/bin/curl", 0)
    assert (flow["remote_addr"], flow["remote_port"], flow["family"]) == (*addresses(name), 443, family)
    assert (flow["attempts"], flow["established"], flow["direction"]) == (1, 1, "out")
    assert flow["scope"] == "internet"
    assert flow["bytes_in"] > 200_000


def test_curl_in_the_event_log(here: Watched) -> None:
    """The log tells of the attempt, the connection and its end, each with who and where."""
    port = int(run(here, "curl", "-sS", "-o", "/dev/null", "-w", "%{local_port}", "https://v4only.example"))
    flow = only(here.settled(), proto="tcp")

    def three_events() -> list[Flow]:
        events = [event for event in here.tattle.events(here.cgroup) if event["proto"] == "tcp"]
        assert [event["event"] for event in events] == ["connect", "established", "close"]
        return events

    events = eventually(three_events)
    assert {(one["comm"], one["exe"], one["remote_addr"], one["result"]) for one in events[1:]} == {
        ("curl", "/usr/bin/curl", "203.0.113.60", "ok")
    }
    assert {one["local_port"] for one in events[1:]} == {port}
    assert events[-1]["bytes_in"] == flow["bytes_in"]


@pytest.mark.parametrize("server", [DNS_V4, DNS_V6])
def test_dig_over_udp(here: Watched, server: str) -> None:
    """A DNS query is one datagram out and one in, to the byte."""
    run(here, "dig", f"@{server}", "ollama.com")
    (flow,) = here.settled(exact=True)
    assert (flow["comm"], flow["remote_addr"], flow["remote_port"]) == ("dig", server, 53)
    assert (flow["proto"], flow["packets_out"], flow["packets_in"]) == ("udp", 1, 1)
    assert (flow["attempts"], flow["established"]) == (1, 0)


@pytest.mark.parametrize("server", [DNS_V4, DNS_V6])
def test_dig_over_tcp(here: Watched, server: str) -> None:
    """A DNS query over TCP is a connection to port 53."""
    run(here, "dig", f"@{server}", "+tcp", "ollama.com")
    (flow,) = here.settled()
    assert (flow["comm"], flow["proto"], flow["remote_addr"], flow["remote_port"]) == (
        "dig",
        "tcp",
        server,
        53,
    )
    assert (flow["attempts"], flow["established"]) == (1, 1)


def test_nobody_answers(here: Watched) -> None:
    """A connect that times out is one attempt, never established, however many SYNs leave."""
    here.world.run(here.cgroup.rpartition("/")[2], "curl", "-sS", "-m", "1.5", "https://dead.example")
    flow = only(here.settled(exact=True), proto="tcp")
    assert (flow["remote_addr"], flow["attempts"], flow["established"]) == ("203.0.113.99", 1, 0)
    assert flow["packets_out"] >= 1


def test_looking_a_name_up_is_no_traffic_to_it(here: Watched) -> None:
    """Getaddrinfo connects UDP sockets to each address and sends nothing: only the DNS queries are flows."""
    assert int(run(here, "python3", "-c", LOOK_UP)) == len(addresses("huggingface.co"))
    flows = here.settled(exact=True)
    assert {(flow["remote_addr"], flow["remote_port"]) for flow in flows} == {(DNS_V4, 53)}
    assert {flow["event"] for flow in here.tattle.events(here.cgroup)} <= {"send", "close", "dns"}


def visit(here: Watched, port: int, visitors: dict[str, str]) -> None:
    """Fetch the page from world-net: from each of VISITORS' addresses at the host's address it maps to."""
    options = ("-sSf", "-g", "-o", "/dev/null", "--interface")
    with here.world.group("visitor"):
        for visitor, address in visitors.items():
            url = f"http://{address}:{port}/page"
            # only the interface tells which link a link-local address is meant on
            source = f"if!{NET_LINK}" if visitor.startswith("fe80:") else visitor
            run(here, "curl", *options, source, url, namespace=NET, group="visitor")


def link_local(here: Watched, namespace: str, link: str) -> str:
    """Return the link-local address of LINK."""
    shown = run(here, "ip", "-6", "-br", "address", "show", "dev", link, "scope", "link", namespace=namespace)
    return shown.split()[2].partition("/")[0]


@pytest.mark.parametrize(
    ("comm", "port", "ready"),
    [("nginx", 80, b""), ("python3", 8000, b"Serving")],
    ids=["nginx", "http.server"],
)
def test_visitors(here: Watched, pages: Path, comm: str, port: int, ready: bytes) -> None:
    """Connections that a server accepted are `in`, under the server, with the visitor's address and scope."""
    state = here.world.state
    (state / "nginx.conf").write_text(NGINX.format(state=state))
    server = {
        "nginx": ("nginx", "-c", str(state / "nginx.conf")),
        "python3": ("python3", "-u", "-m", "http.server", "--bind", "::", "-d", str(pages), "8000"),
    }[comm]
    near, far = link_local(here, "world-host", HOST_LINK), link_local(here, NET, NET_LINK)
    ways = {NET_V4: HOST_V4, NET_V6: f"[{HOST_V6}]", far: f"[{near}%25{NET_LINK}]"}
    with here.world.running(here.cgroup.rpartition("/")[2], *server, ready=ready):
        eventually(lambda: listening(here, port))
        visit(here, port, ways)
    visits = [flow for flow in here.settled() if flow["remote_port"] != DNS]
    assert {one["remote_addr"]: one["scope"] for one in visits} == {
        NET_V4: "internet",
        NET_V6: "internet",
        far: "lan",
    }
    assert {(one["direction"], one["established"]) for one in visits} == {("in", 1)}
    assert {one["comm"].startswith(comm) for one in visits} == {True}
    assert min(one["bytes_out"] for one in visits) > PAGE


def listening(here: Watched, port: int) -> None:
    """Check that somebody listens on PORT in world-host."""
    assert f":{port}" in run(here, "ss", "-Hltn", f"sport = {port}", group="")


def test_ordinary_traffic_loses_nothing(here: Watched) -> None:
    """A download moves no counter of losses, and all hooks are still attached after it."""

    def no_loss() -> None:  # again, if other programs of this host have flooded tattle meanwhile
        before = here.tattle.ask("status")
        run(here, "curl", "-sSf", "-o", "/dev/null", "https://v4only.example/bytes/100000")
        after = here.tattle.ask("status")
        assert after["losses"] == before["losses"]
        assert all(hook["attached"] for hook in after["hooks"])

    eventually(no_loss)
