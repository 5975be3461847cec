"""Every way out that is known, tried from inside: nothing arrives. The same from outside: it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from jail import Jail, Judge
from lab import PEER4, Lab
from watched import Tattle, until
from ways import DROPPED, WAYS

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def judge(lab: Lab) -> Judge:
    """Count what arrives at the peer."""
    return Judge(lab)


@pytest.fixture(scope="module")
def jail(lab: Lab, plain: Tattle) -> Iterator[Jail]:
    """Block a cgroup, by the daemon that runs anyway."""
    made = Jail(lab, plain)
    made.block()
    yield made
    made.unblock()


@pytest.mark.parametrize("name", WAYS)
def test_no_way_out(name: str, lab: Lab, jail: Jail, judge: Judge) -> None:
    """From inside nothing arrives, the call fails with EPERM at once, and the denial is counted."""
    before = judge.arrived()
    tried = WAYS[name](lab, jail.inside)
    assert judge.arrived() == before, tried
    if name not in DROPPED:
        assert "EPERM" in tried.said["errors"], tried.said
    until(lambda: [] if denials(jail, tried.comms) else [f"no denial of {tried.comms}"])


def denials(jail: Jail, comms: tuple[str, ...]) -> int:
    """Return how many denials of these programs were counted."""
    return sum(flow["denied"] for flow in jail.daemon.flows(*comms))


@pytest.mark.parametrize("name", WAYS)
def test_the_way_is_one(name: str, lab: Lab, jail: Jail, judge: Judge) -> None:
    """From outside of the jail the same program's packets arrive, and nothing is denied."""
    before = judge.arrived()
    tried = WAYS[name](lab, jail.outside)
    assert judge.arrived().packets > before.packets, tried
    assert denials(jail, tried.comms) == 0


def test_each_attempt_is_a_denial(lab: Lab, jail: Jail) -> None:
    """Calls refused, denials counted and attempts are one number, with the whole identity."""
    tried = WAYS["s19-sixty"](lab, jail.inside)
    assert tried.said["errors"] == {"EPERM": 60}
    (flow,) = jail.daemon.flows(*tried.comms)
    assert (flow["denied"], flow["attempts"], flow["established"], flow["bytes_out"]) == (60, 60, 0, 0)
    assert (flow["target"], flow["remote_addr"], flow["scope"]) == (jail.selector, PEER4, "internet")
    events = [event for event in jail.daemon.events(*tried.comms) if event["event"] == "deny"]
    assert events
    assert {(event["verdict"], event["rule"]) for event in events} == {("denied", "default deny")}
    assert sum(event["packets_out"] for event in events) <= 60


def test_a_silent_connect_is_let_be(lab: Lab, jail: Jail) -> None:
    """A UDP connect that sends nothing succeeds: resolvers sort addresses by it. A datagram does not."""
    program, said = lab.run("udp.py", op="silent", host=PEER4, ports=[9, 443], cgroup=jail.inside)
    assert said["errno"] is None
    assert denials(jail, (program.name,)) == 0
