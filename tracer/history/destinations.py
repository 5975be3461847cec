"""Where a target went, as rules have to know it: cells of history, summed up by destination. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from tracer.errors import UsageError
from tracer.history.report import contact
from tracer.model.destination import HOSTS, SNI
from tracer.model.records import protocol
from tracer.model.scope import Scope, packed, scope
from tracer.policy.rules import DNS_PORT, PROTOCOLS, Policy, compile_policy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tracer.history.reader import Seen
    from tracer.runtimes.purposes import Purposes

Names = Callable[[bytes], Sequence[str]]  # of an address of 16 bytes
_NUMBERS: Final = {protocol(number): number for number in range(256)}
_HANDSHAKE: Final = 6  # packets that open and end a connection which a policy has cut at its first word
_HTTP: Final = 80  # RFC 9110 4.2.1: there the name was read in a Host header
_OPENED: Final = frozenset({Scope.INTERNET, Scope.LAN})  # what answers can open
SUMS: Final = ("attempts", "established", "would_deny", "bytes_out", "bytes_in")


class Fate(StrEnum):
    """What a suggestion makes of a place."""

    WANTED = "wanted"
    UNEXPECTED = "unexpected"  # the target's profile does not name it
    DNS = "dns"  # asking a resolver
    DENIED = "denied"  # nothing ever passed


class Spot(NamedTuple):
    """One remote end; `name` None where nobody has said one."""

    name: str | None
    addr: str
    port: int  # 0: this protocol has none
    proto: str

    @property
    def raw(self) -> bytes:
        """The address in 16 bytes."""
        return packed(self.addr) or bytes(16)

    @property
    def number(self) -> int:
        """The protocol by its IANA number."""
        return _NUMBERS.get(self.proto, 0)

    @property
    def scope(self) -> Scope:
        """How far away policies take it to be: they do not know this host's own addresses."""
        return scope(self.raw)


@dataclass(eq=False)
class Place:
    """What was seen of one remote end."""

    spot: Spot
    sources: set[str] = field(default_factory=set)
    processes: set[str] = field(default_factory=set)
    phases: set[str] = field(default_factory=set)
    unexpected: bool = False
    passed: bool = False
    said: bool = False  # a TLS hello has named this server at this port, at one of its addresses
    denied: int = 0
    sums: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SUMS, 0))
    first_ns: int = 0
    last_ns: int = 0

    def add(self, cell: Seen, purposes: Purposes, target: str) -> None:
        """Add a cell of this place, explained as `target`'s."""
        why = purposes.of(target, contact(cell)._replace(name=self.spot.name))
        self.sources.add(cell.name_source if cell.name else "")
        self.unexpected |= bool(why.unexpected)
        self.passed |= passed(cell)
        self.denied += cell.denied or cell.denied_packets
        self.phases.add(cell.phase)
        self.processes |= set() if cell.comm is None else {cell.comm}
        for key in SUMS:
            self.sums[key] += getattr(cell, key)
        self.first_ns = min(self.first_ns or cell.first_ns, cell.first_ns)
        self.last_ns = max(self.last_ns, cell.last_ns)

    @property
    def fate(self) -> Fate:
        """What to make of it."""
        if self.spot.port == DNS_PORT:
            return Fate.DNS
        if not self.passed:
            return Fate.DENIED
        return Fate.UNEXPECTED if self.unexpected else Fate.WANTED

    @property
    def by_name(self) -> bool:
        """Whether a rule by name can open it: DNS told the name, and it is spoken to at a port."""
        spot = self.spot
        told = spot.name is not None and HOSTS not in self.sources and spot.scope in _OPENED
        return told and spot.port != 0 and spot.proto in PROTOCOLS and _fits(f"{spot.name}:{spot.port}")

    @property
    def plain(self) -> bool:
        """Whether connections were made there whose clients name no server, as rules by name ask of TLS."""
        return self.spot.proto == "tcp" and self.sums["established"] > 0 and not self.said


@lru_cache(maxsize=4096)
def _fits(rule: str) -> bool:
    """Say whether the kernel's tables can hold the name of a rule."""
    try:
        compile_policy(Policy("", (rule,)))
    except UsageError:
        return False
    return True


def passed(cell: Seen) -> bool:
    """Say whether anything of a cell went out, or would have if somebody had answered."""
    if cell.denied_packets:
        return cell.packets_out > _HANDSHAKE * max(cell.established, 1)
    return bool(cell.packets_out or cell.established or cell.attempts > cell.denied)


def places(cells: Iterable[Seen], purposes: Purposes, target: str, hosts: Names) -> list[Place]:
    """Sum up what a target has started towards others, the most bytes first.

    A name that `hosts`, the hosts file, has for an address is one that nobody asks DNS for.
    Replies are not its doing, and loopback needs no rule. Who speaks to an address without a name, which it
    had a name for at another time (it kept the answer, or tattle was started meanwhile), meant that name.
    """
    outward = [(cell, spot) for cell in cells if (spot := _spot(cell)) is not None]
    names = {spot._replace(name=None): spot.name for _, spot in outward if spot.name is not None}
    found: dict[Spot, Place] = {}
    for cell, spot in outward:
        known = spot if spot.name is not None else spot._replace(name=names.get(spot))
        found.setdefault(known, Place(known)).add(cell, purposes, target)
    said = {_service(one.spot) for one in found.values() if SNI in one.sources and one.spot.port != _HTTP}
    for one in found.values():
        one.sources |= {HOSTS} if one.spot.name in hosts(one.spot.raw) else set()
        one.said = _service(one.spot) in said
    return sorted(found.values(), key=lambda one: (-one.sums["bytes_out"], one.spot[1:]))


def _service(spot: Spot) -> Spot:
    """Give a name's service, whichever of its addresses it is at; an address without a name is its own."""
    return spot._replace(addr="") if spot.name is not None else spot


def _spot(cell: Seen) -> Spot | None:
    """Give the remote end of what needs a rule."""
    if cell.direction != "out" or cell.remote_addr is None:
        return None
    spot = Spot(cell.name, cell.remote_addr, cell.remote_port or 0, cell.proto)
    return spot if spot.scope is not Scope.LOOPBACK or spot.port == DNS_PORT else None
