"""Every way out that is known, tried from inside: nothing arrives. The same from outside: it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.kernel.egress_paths import DROPPED, WAYS
from tests.support.daemon import until
from tests.support.network import PEER4, Lab

if TYPE_CHECKING:
    from tests.support.cgroups import Jail, Judge


@pytest.mark.parametrize("name", WAYS)
def test_no_way_out(name: str, lab: Lab, jail: Jail, judge: Judge) -> None:
    """From inside nothing arrives, the call fails with EPERM at once, and the denial is counted."""
    before = judge.arrived()
    tried = WAYS[name](lab, jail.inside)
    assert judge.arrived() == before, tried
    if name not in DROPPED:
        assert "EPERM" in tried.said["errors"], tried.said
    until(lambda: [] if jail.denials(*tried.comms) else [f"no denial of {tried.comms}"])


@pytest.mark.parametrize("name", WAYS)
def test_the_way_is_one(name: str, lab: Lab, jail: Jail, judge: Judge) -> None:
    """From outside of the jail the same program's packets arrive, and nothing is denied."""
    before = judge.arrived()
    tried = WAYS[name](lab, jail.outside)
    until(lambda: [] if judge.arrived().packets > before.packets else [f"nothing arrives: {tried}"])
    assert jail.denials(*tried.comms) == 0


def test_each_attempt_is_a_denial(lab: Lab, jail: Jail) -> None:
    """Calls refused, denials counted and attempts are one number, with the whole identity."""
    tried = WAYS["s19-sixty"](lab, jail.inside)
    assert tried.said["errors"] == {"EPERM": 60}
    (flow,) = jail.flows(*tried.comms)
    assert (flow["denied"], flow["attempts"], flow["established"], flow["bytes_out"]) == (60, 60, 0, 0)
    assert (flow["target"], flow["remote_addr"], flow["scope"]) == (jail.selector, PEER4, "internet")

    def denials() -> list[dict[str, Any]]:
        return [event for event in jail.daemon.events(*tried.comms) if event["event"] == "deny"]

    until(lambda: [] if denials() else ["no denial is told"])
    assert {(event["verdict"], event["rule"]) for event in denials()} == {("denied", "default deny")}
    assert sum(event["packets_out"] for event in denials()) <= 60


def test_a_silent_connect_is_let_be(lab: Lab, jail: Jail) -> None:
    """A UDP connect that sends nothing succeeds: resolvers sort addresses by it. A datagram does not."""
    program, said = lab.run("udp.py", op="silent", host=PEER4, ports=[9, 443], cgroup=jail.inside)
    assert said["errno"] is None
    assert jail.denials(program.name) == 0


QUERIES = {
    "udp": ("udp.py", {"op": "unconnected", "count": 1}),
    "tcp": ("tcp.py", {"op": "probe"}),
}


@pytest.mark.parametrize("proto", QUERIES)
@pytest.mark.parametrize("host", ["127.0.0.53", "::1"])
def test_dns_does_not_go_by_a_local_resolver(host: str, proto: str, lab: Lab, jail: Jail) -> None:
    """Port 53 of loopback is refused, UDP and TCP, IPv4 and IPv6; other ports are not."""
    source, op = QUERIES[proto]
    way = "to6" if ":" in host else "to4"

    def arrived() -> dict[Any, Any]:
        counters = lab.client.counters()  # of all tests so far
        return {key: counters[key] for key in counters if key[0] == way and key[2:] == (host, "53")}

    before = arrived()
    _, query = lab.run(source, host=host, port=53, cgroup=jail.inside, **op)
    _, other = lab.run(source, host=host, port=lab.port(), cgroup=jail.inside, **op)
    assert query["errno"] == "EPERM"
    assert other["errno"] in (None, "ECONNREFUSED")
    assert arrived() == before
