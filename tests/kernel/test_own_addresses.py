"""A blocked program may speak to the addresses of its own host: they never leave the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import until
from tests.support.network import CLIENT4, CLIENT6, MORE4, PEER4, PEER6

if TYPE_CHECKING:
    from tests.support.cgroups import Jail, Judge
    from tests.support.network import Lab

LATER4, LATER6 = "198.51.100.77", "2001:db8:1::77"


@pytest.mark.parametrize("host", [CLIENT4, CLIENT6])
@pytest.mark.parametrize("options", [(), ("--strict",)])
def test_own_addresses_are_open(host: str, options: tuple[str, ...], lab: Lab, jail: Jail) -> None:
    """Its workers talk to each other by an address of the host, whatever range it is from."""
    jail.block(*options)
    _talks(lab, jail, host)
    _datagrams_arrive(lab, jail, host)
    jail.block()


def _talks(lab: Lab, jail: Jail, host: str) -> None:
    port = lab.port()
    server = lab.start("tcp.py", op="serve", host=host, port=port, up=24, down=1000, cgroup=jail.inside)
    server.ready()
    server.go()
    _, said = lab.run("tcp.py", op="transfer", host=host, port=port, down=1000, cgroup=jail.inside)
    assert said["bytes_received"] == 1000, said
    server.result()


def _datagrams_arrive(lab: Lab, jail: Jail, host: str) -> None:
    port = lab.port()
    server = lab.start("udp.py", op="answer", host=host, port=port, times=1, cgroup=jail.inside)
    server.ready()
    server.go()
    _, said = lab.run("udp.py", op="unconnected", host=host, port=port, count=1, cgroup=jail.inside)
    assert said["errno"] is None


@pytest.mark.parametrize("host", [LATER4, LATER6])
def test_an_address_that_comes_later_is_open_and_closed_when_it_goes(
    host: str, lab: Lab, jail: Jail, judge: Judge
) -> None:
    """No table has it, and no daemon is asked: the kernel knows its own addresses."""
    jail.block()
    device, bits = "wire", 32 if host == LATER4 else 128
    lab.client.run("ip", "address", "add", f"{host}/{bits}", "dev", device, "nodad")
    try:
        _talks(lab, jail, host)
        _datagrams_arrive(lab, jail, host)
    finally:
        lab.client.run("ip", "address", "del", f"{host}/{bits}", "dev", device)
    before = judge.arrived()
    assert _probe(lab, jail, host) == "EPERM"
    _, said = lab.run("udp.py", op="unconnected", host=host, port=9, count=3, cgroup=jail.inside)
    assert said["errors"] == {"EPERM": 3}
    assert judge.arrived() == before


@pytest.mark.parametrize("host", [PEER4, PEER6])
@pytest.mark.parametrize("how", [{}, {"mapped": True}, {"freebind": True}, {"mptcp": True}])
def test_no_other_host_is_taken_for_this_one(
    host: str, how: dict[str, bool], lab: Lab, jail: Jail, judge: Judge
) -> None:
    """Neither a socket that may have any address nor any other way makes a stranger of the peer."""
    if host == PEER6 and "mapped" in how:
        host = MORE4[0]
    jail.block()
    before = judge.arrived()
    assert _probe(lab, jail, host, **how) == "EPERM"
    assert judge.arrived() == before


@pytest.mark.parametrize("host", [PEER4, PEER6])
def test_where_any_address_may_be_bound_nothing_is_taken_for_own(
    host: str, lab: Lab, jail: Jail, judge: Judge
) -> None:
    """ip_nonlocal_bind, as on hosts of keepalived: a denied connect fails at once as ever."""
    jail.block()
    name = "net.ipv4.ip_nonlocal_bind" if host == PEER4 else "net.ipv6.ip_nonlocal_bind"
    lab.client.run("sysctl", "-qw", f"{name}=1")
    before = judge.arrived()
    try:
        assert _probe(lab, jail, host) == "EPERM"
    finally:
        lab.client.run("sysctl", "-qw", f"{name}=0")
    assert judge.arrived() == before


def test_a_rule_may_close_them(lab: Lab, jail: Jail) -> None:
    """@host names them; a rule by address does, too; DNS to a resolver at one is no exception."""
    for denied in ("@host", CLIENT4):
        jail.block("--deny", denied)
        assert _probe(lab, jail, CLIENT4) == "EPERM"
    jail.block("--default", "allow", "--deny", "@host")
    assert _probe(lab, jail, CLIENT4) == "EPERM"
    jail.block("--default", "allow", "--deny", "@internet")
    assert _probe(lab, jail, CLIENT4) == "ECONNREFUSED"
    jail.block()
    assert _probe(lab, jail, CLIENT4, port=53) == "EPERM"
    jail.block("--allow", "@host", "--allow", "@dns")
    assert _probe(lab, jail, CLIENT4, port=53) == "ECONNREFUSED"
    jail.block()


def test_events_and_flows_say_host(lab: Lab, jail: Jail) -> None:
    """From the connect on, the scope of an own address is `host`, and nothing of it is denied."""
    jail.block()
    program, _ = lab.run("tcp.py", op="probe", host=CLIENT4, port=lab.port(), cgroup=jail.inside)
    until(lambda: [] if jail.daemon.events(program.name) else ["no event yet"])
    assert {event["scope"] for event in jail.daemon.events(program.name)} == {"host"}
    assert {(flow["scope"], flow["denied"]) for flow in jail.flows(program.name)} == {("host", 0)}


@pytest.mark.parametrize("inside", [MORE4[0], "10.1.2.3", "127.0.0.1"])
@pytest.mark.parametrize("form", ["64:ff9b::{}", "64:ff9b:1::{}", "64:ff9b:1:fffe::{}"])
def test_an_address_of_a_nat64_is_judged_as_the_one_inside(
    form: str, inside: str, lab: Lab, jail: Jail
) -> None:
    """What is denied by IPv4 is denied through a NAT64, what is allowed is; nothing there is loopback."""
    host = form.format(inside)
    jail.block()
    assert _probe(lab, jail, host) == "EPERM"
    scope = "@internet" if inside == MORE4[0] else "@lan"
    jail.block("--default", "allow", "--deny", scope)
    assert _probe(lab, jail, host) == "EPERM"
    jail.block("--default", "allow", "--deny", f"{inside}/32")
    assert _probe(lab, jail, host) == "EPERM"
    jail.block("--allow", f"{inside}/32")
    assert _probe(lab, jail, host) != "EPERM"
    jail.block()


def _probe(lab: Lab, jail: Jail, host: str, *, port: int = 0, **how: bool) -> str | None:
    _, said = lab.run("tcp.py", op="probe", host=host, port=port or lab.port(), cgroup=jail.inside, **how)
    errno: str | None = said["errno"]
    return errno
