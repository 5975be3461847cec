"""What did it do last night: told when the daemon is off, as the receiver saw it, and made into a policy."""

from __future__ import annotations

import csv
import io
import shlex
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.support.cgroups import Jail, tattle
from tests.support.daemon import Tattle, works
from tests.support.named_world import ALLOWED, OTHER, SHARED, World, inhabited, pem, resolver
from tests.support.network import MORE4, PEER4, Lab

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.network import Wire

__all__ = ["pem", "resolver"]  # fixtures

UP, DOWN = 40_000, 70_000
SIZES = ("bytes_out", "bytes_in", "packets_out", "packets_in")


class Night(NamedTuple):
    """A target that was watched for a while, by a daemon that is off now."""

    world: World
    daemon: Tattle
    port: int  # of a server without a name
    asked: Wire  # of the resolver

    @property
    def selector(self) -> str:
        """The target."""
        return self.world.jail.selector

    def spend(self) -> None:
        """Do what it always does: ask for a name and speak to it, and send to an address."""
        assert self.world.try_("rounds", times=8)["said"] == f"you said {ALLOWED}"
        jail = self.world.jail
        how = {"host": PEER4, "port": self.port, "up": UP, "down": DOWN, "cgroup": jail.inside}
        assert jail.lab.run("tcp.py", op="transfer", name="nightly", **how)[1]["errors"] == {}

    def report(self, *words: str) -> dict[str, Any]:
        """Return the report of the target."""
        found: dict[str, Any] = self.daemon.ask("report", self.selector, *words)
        return found


@pytest.fixture(scope="module")
def night(lab: Lab, pem: Path, resolver: None, scratch: Path) -> Iterator[Night]:  # noqa: ARG001 - it only has to run
    """Watch, and stop watching."""
    daemon = Tattle(scratch)
    jail = Jail(lab, daemon)
    daemon.options = ("--target", jail.selector)
    try:
        daemon.start()
        with inhabited(jail, pem, scratch) as world:
            before = lab.wire("udp", PEER4, 53)
            found = Night(world, daemon, lab.peer.serve(), before)
            found.spend()
            assert daemon.stop() == 0
            yield found._replace(asked=lab.wire("udp", PEER4, 53).less(before))
    finally:
        daemon.remove()


def summed(flows: list[dict[str, Any]], addr: str, port: int) -> tuple[int, ...]:
    """Sum up what was sent to one remote end."""
    rows = [one for one in flows if (one["remote_addr"], one["remote_port"]) == (addr, port)]
    return tuple(sum(row[key] for row in rows) for key in SIZES)


def test_the_report_is_what_the_receiver_saw(night: Night, lab: Lab) -> None:
    """Byte by byte and packet by packet, by name, with the daemon off."""
    found = night.report()
    for addr in (SHARED, MORE4[1]):
        assert summed(found["flows"], addr, night.world.port) == lab.wire("tcp", addr, night.world.port)
    assert summed(found["flows"], PEER4, night.port) == lab.wire("tcp", PEER4, night.port)
    assert summed(found["flows"], PEER4, 53) == night.asked
    named = {one["name"] for one in found["flows"] if one["remote_port"] == night.world.port}
    assert named == {ALLOWED}
    sent = sum(one["bytes_out"] for one in found["flows"] if one["direction"] == "out")
    assert sum(one["bytes_out"] for one in found["totals"].values()) == sent
    (bulk,) = [one for one in found["flows"] if one["remote_port"] == night.port]
    assert (bulk["comm"], bulk["target"], bulk["attempts"], bulk["established"]) == (
        "nightly",
        night.selector,
        1,
        1,
    )


def test_the_report_says_what_it_cannot_know(night: Night) -> None:
    """Before the daemon's first start, and since it was stopped."""
    found = night.report()
    assert [one["reason"] for one in found["gaps"]] == ["before", "stopped"]
    assert (found["complete"], found["gaps"][1]["start"]) == (False, found["last_look"])


def test_all_forms_tell_the_same(night: Night) -> None:
    """The page, JSON and CSV."""
    found = night.report()
    text = tattle(night.daemon.instance, "report", night.selector, "--csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [int(row["bytes_out"]) for row in rows] == [one["bytes_out"] for one in found["flows"]]
    page = tattle(night.daemon.instance, "report", night.selector)
    assert f"{ALLOWED}:{night.world.port}" in page
    assert "tattle was off" in page
    assert (
        tattle(night.daemon.instance, "report", "cgroup:/nowhere").count("nothing was sent or received") == 1
    )


def test_a_suggestion_is_the_policy_of_what_was_seen(night: Night) -> None:
    """One rule a destination, by name where it has one; its resolver needs none."""
    found = night.daemon.ask("suggest", night.selector)
    rules = {one["rule"]: one for one in found["rules"]}
    assert rules.keys() == {f"{ALLOWED}:{night.world.port}", f"{PEER4}:{night.port}/tcp"}
    assert rules[f"{PEER4}:{night.port}/tcp"]["bytes_out"] > UP
    assert (found["lookups"], found["unexpected"], found["denied"], found["cautions"]) == ([], [], [], [])


def obey(line: str) -> None:
    """Run a command as it stands on the page."""
    name, *words = shlex.split(line)
    assert name == "tattle"
    works(*words)


def test_watching_becomes_a_policy(night: Night, lab: Lab) -> None:
    """Audited, all passes and what it would deny is told; enforced, what was seen passes, and no more."""
    commands = night.daemon.ask("suggest", night.selector)["commands"]
    night.daemon.start()
    obey(commands["audit"])
    night.spend()
    assert night.world.try_("rounds", asks=OTHER, port=night.world.port)["bytes_received"] == 1
    obey(commands["enforce"])
    night.spend()
    refused = night.world.try_("rounds", asks=OTHER)
    assert (refused["errno"], refused["bytes_received"]) == ("EPERM", 0)
    how = {"host": PEER4, "port": lab.peer.serve(), "up": 1, "cgroup": night.world.jail.inside}
    assert lab.run("tcp.py", op="transfer", name="strange", **how)[1]["errors"] == {"EPERM": 1}
    assert night.daemon.stop() == 0
    found = night.report()
    (denied,) = [one for one in found["flows"] if one["comm"] == "strange"]
    assert (denied["denied"], denied["bytes_out"]) == (1, 0)
    audited = {one["name"] for one in found["flows"] if one["would_deny"] and one["remote_port"] != 53}
    assert audited == {OTHER}
    told = night.daemon.ask("suggest", night.selector)
    assert f"{PEER4}:{how['port']}/tcp" in {one["rule"] for one in told["denied"]}
    assert [one["reason"] for one in found["gaps"]] == ["before", "stopped", "stopped"]
    tattle(night.daemon.instance, "unblock", night.selector)
