"""A blocked cgroup to break out of, a free one beside it, and a judge at the other end of the wire."""

from __future__ import annotations

import contextlib
import json
import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.support.daemon import Tattle, run, until
from tests.support.network import PEER4

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.network import Lab

# Resets are told apart: a bare one may leave, to tell the peer of a connection that was cut. Group
# reports and neighbour discovery are the kernel's own, nobody's socket sends them.
_TABLE = """
table inet judge {
  counter arrived {}
  counter resets {}
  chain count {
    type filter hook prerouting priority -440;
    iifname "lo" return
    meta l4proto igmp return
    icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } return
    icmpv6 type { mld-listener-report, mld-listener-done, mld2-listener-report } return
    tcp flags & rst == rst ip length 40-60 counter name resets return
    tcp flags & rst == rst ip6 length 20-40 counter name resets return
    counter name arrived
  }
}
"""


class Arrived(NamedTuple):
    """Packets that came to the peer: bare resets, and all else."""

    packets: int
    resets: int


class Judge:
    """Counts every packet that arrives at the peer, whoever sent it."""

    def __init__(self, lab: Lab) -> None:
        self._peer = lab.peer_ns
        self._peer.run("nft", "-f", "-", text=_TABLE)

    def arrived(self) -> Arrived:
        """Return what has arrived up to now."""
        listing = json.loads(self._peer.run("nft", "-j", "list", "counters", "table", "inet", "judge"))
        found = {
            item["counter"]["name"]: item["counter"] for item in listing["nftables"] if "counter" in item
        }
        return Arrived(found["arrived"]["packets"], found["resets"]["packets"])


def tattle(instance: str, *words: str, code: int = 0) -> str:
    """Run a tattle command; its exit code must be `code`. Returns what it printed, errors included."""
    done = run(*words, "--instance", instance, stderr=subprocess.STDOUT)
    if done.returncode != code:
        raise AssertionError(f"tattle {' '.join(words)}: exit {done.returncode}: {done.stdout}")
    return done.stdout


class Jail:
    """An instance of tattle with one blocked cgroup, `inside`, and one that is not, `outside`."""

    def __init__(self, lab: Lab, daemon: Tattle) -> None:
        self.lab = lab
        self.daemon = daemon
        name = lab.name("jail")
        self.inside = lab.cgroup(f"lab-{lab.token}/{name}")
        self.outside = lab.cgroup(f"lab-{lab.token}/{name}-free")
        self.selector = f"cgroup:{lab.cgroup_path(self.inside)}"

    def block(self, *options: str) -> str:
        """Block the jail."""
        return tattle(self.daemon.instance, "block", self.selector, *options)

    def unblock(self) -> str:
        """Lift it."""
        return tattle(self.daemon.instance, "unblock", self.selector)

    def flows(self, *comms: str) -> list[dict[str, Any]]:
        """Return the flows of these programs, in whichever of the lab's cgroups; not those of the host."""
        asked = self.daemon.ask("flows", f"cgroup:/lab-{self.lab.token}")
        found: list[dict[str, Any]] = asked["flows"]
        return [flow for flow in found if flow["comm"] in comms]

    def denials(self, *comms: str) -> int:
        """Return how many denials of these programs were counted."""
        return sum(flow["denied"] for flow in self.flows(*comms))

    def state(self) -> dict[str, Any]:
        """Return what `status` says of the jail."""
        targets: list[dict[str, Any]] = self.daemon.ask("status")["targets"]
        return next(one for one in targets if one["target"] == self.selector)

    def below(self, name: str) -> Path:
        """Make a cgroup inside."""
        return self.lab.cgroup(f"{self.lab.cgroup_path(self.inside)}/{name}")


@contextlib.contextmanager
def flood(lab: Lab, jail: Jail, judge: Judge) -> Iterator[list[str]]:
    """Have programs inside try without a pause; in the end they still run, and nothing has arrived."""
    port = lab.peer.serve("udp")
    programs = [
        lab.start("batch.c", "send", "1000000000", "100", PEER4, str(port), cgroup=jail.inside),
        lab.start("tcp.py", op="burst", host=PEER4, port=port, times=1 << 40, cgroup=jail.inside),
    ]
    names = [program.name for program in programs]
    before = judge.arrived()
    try:
        until(lambda: [] if jail.denials(*names) else ["nobody tries"])
        yield names
        assert [program.process.poll() for program in programs] == [None, None]
    finally:
        for program in programs:
            program.process.kill()
            program.process.communicate()
    assert judge.arrived() == before
