"""`tattle suggest`: the smallest set of rules that lets a target do what it was seen doing. Pure.

Smallest means: no rule can be left out, and none opens more than it must. A destination goes by its name
where a rule by name can open it, else by its address; a wildcard is taken only where the target's profile
has it, and several names below it were seen. What the profile does not name, what a policy has denied, and
questions to resolvers that no rule by name covers are told apart, and not suggested.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from tracer.history.destinations import SUMS, Fate, places
from tracer.history.report import frame
from tracer.model.records import timestamp
from tracer.model.scope import Scope
from tracer.policy.rules import PROTOCOLS, Mode, Policy, Prefix, as_command, compile_policy, shell
from tracer.runtimes.keep import kept
from tracer.runtimes.purposes import Purposes, matches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from tracer.history.destinations import Names, Place
    from tracer.history.query import Past
    from tracer.policy.rules import Table
    from tracer.runtimes.keep import Kept
    from tracer.runtimes.profiles import Runtime

Json = dict[str, Any]

PORTS_EACH: Final = 8  # of one destination; more are a rule without a port (RULE_PORTS, bpf/abi.h: 16)
LAN_EACH: Final = 4  # addresses of the LAN without a name; where there are more it is @lan
_TCP: Final = "tcp"
_STRANGER: Final = (
    "no resolv.conf that can be read now names this server: if the target has its own, suggest and block"
    " while it runs"
)
_EVERY: Final = (0, "")  # port and protocol


@dataclass(frozen=True)
class Suggestion:
    """A rule, and the places that it lets pass; `note`: what there is to mind."""

    rule: str
    places: tuple[Place, ...]
    note: str = ""

    @property
    def bytes_out(self) -> int:
        """What was sent there."""
        return sum(one.sums["bytes_out"] for one in self.places)


def document(past: Past, resolvers: frozenset[bytes], hosts: Names = lambda _: ()) -> Json:
    """Give the document.

    `resolvers`, 16 bytes each, may be asked for names where there are rules by name; `hosts` gives the names
    that the hosts file has for an address.
    """
    target = past.target or ""
    runtime = past.runtimes.get(target)
    purposes = Purposes()
    purposes.know({target: runtime} if runtime else {})
    wildcards = [one.name for one in runtime.hosts if one.name.startswith("*.")] if runtime else []
    found = places(past.cells, purposes, target, hosts)
    of = {fate: [one for one in found if one.fate is fate] for fate in Fate}
    rules = suggestions(of[Fate.WANTED], wildcards)
    policy = Policy(target, tuple(one.rule for one in rules))
    table = compile_policy(policy)
    purposes_kept, rest = keeping(rules, runtime)
    tighter = replace(policy, allow=tuple(one.rule for one in rest), keep=purposes_kept)
    lookups = [one for one in of[Fate.DNS] if not may_ask(table, one, resolvers)]

    def told(wanted: Iterable[Suggestion]) -> list[Json]:
        return [_json(one, why) for one in wanted]

    def why(name: str, phases: set[str]) -> str | None:
        return purposes.text(target, name, *(phases if len(phases) == 1 else ()))

    return {
        **frame(past),
        "profile": runtime.name if runtime else None,
        "keep": {
            "purposes": list(purposes_kept),
            "command": as_command(tighter, past.instance) if purposes_kept else None,
        },
        "rules": told(rules),
        "unexpected": told(suggestions(of[Fate.UNEXPECTED], wildcards)),
        "lookups": told(replace(one, note=_STRANGER if table.names else "") for one in suggestions(lookups)),
        "denied": told(suggestions(of[Fate.DENIED], wildcards)),
        "cautions": list(_cautions(past, found, table)),
        "commands": {
            "audit": as_command(replace(policy, mode=Mode.AUDIT), past.instance),
            "enforce": as_command(policy, past.instance),
            "look": shell(["tattle", "report", target], past.instance),
        },
    }


def _json(one: Suggestion, why: Callable[[str, set[str]], str | None]) -> Json:
    """Give a rule with what was seen of its places; `why` explains a name in phases."""
    sums = {key: sum(place.sums[key] for place in one.places) for key in SUMS}
    names = sorted({place.spot.name for place in one.places if place.spot.name})
    phases = {name: _phases(place for place in one.places if place.spot.name == name) for name in names}
    texts = (why(name, phases[name]) for name in names)
    return {
        "rule": one.rule,
        "purpose": "; ".join(dict.fromkeys(text for text in texts if text)) or None,
        "unexpected": any(place.unexpected for place in one.places),
        "note": one.note or None,
        "names": names,
        "processes": sorted({name for place in one.places for name in place.processes}),
        "phases": sorted(_phases(one.places)),
        **sums,
        "denied": sum(place.denied for place in one.places),
        "first_seen": timestamp(min(place.first_ns for place in one.places)),
        "last_seen": timestamp(max(place.last_ns for place in one.places)),
    }


def _phases(found: Iterable[Place]) -> set[str]:
    return {phase for one in found for phase in one.phases}


def _cautions(past: Past, found: Sequence[Place], table: Table) -> Iterator[str]:
    """Say what the rules may fail at."""
    if not past.cells:
        yield "nothing of it was seen in this time: it did not run, goes by another name, or was no target"
    if table.names and not any(one.fate is Fate.DNS for one in found):
        yield (
            "it was not seen asking for names itself: rules by name open only what its own DNS answers say."
            " Does systemd-resolved ask for it? Set hosts: files dns in nsswitch.conf"
        )
    refused = sum(one.denied for one in found if one.fate is Fate.DNS)
    if refused:
        yield f"{refused} questions for names were denied: tattle flows says for which, while the daemon runs"
    lost = sum(one.bytes_out for one in past.cells if one.direction == "out" and one.remote_addr is None)
    if lost:
        yield f"{lost} bytes went to places that found no room in the history: no rule speaks of them"


def keeping(rules: Sequence[Suggestion], runtime: Runtime | None) -> tuple[tuple[str, ...], list[Suggestion]]:
    """Return the purposes that let pass what some rules are for, in their phases only, and the rest."""
    if runtime is None:
        return (), list(rules)
    hosts = {one.name: kept(runtime, [one.name]) for one in runtime.purposes}
    needs = [[_purposes_of(place, hosts) for place in one.places] for one in rules]
    chosen = {name for some in needs if all(some) for found in some for name in found}
    rest = [one for one, some in zip(rules, needs, strict=True) if not all(some)]
    return tuple(name for name in hosts if name in chosen), rest


def _purposes_of(place: Place, hosts: Mapping[str, Sequence[Kept]]) -> set[str]:
    """Return the purposes by which a place is open in each phase that it was seen in; none: it is not."""
    spot, found = place.spot, set()
    if not place.by_name or spot.proto != _TCP or spot.scope is not Scope.INTERNET:
        return set()
    for phase in place.phases:
        name = next(
            (name for name, some in hosts.items() if any(_opens(one, place, phase) for one in some)), ""
        )
        if not name:
            return set()
        found.add(name)
    return found


def _opens(one: Kept, place: Place, phase: str) -> bool:
    plain = one.plain or not place.plain
    return plain and phase in one.phases and matches(one.name, place.spot.name or "")


def may_ask(table: Table, place: Place, resolvers: frozenset[bytes]) -> bool:
    """Say whether a policy lets a target ask this resolver for the names that it allows, or for all."""
    spot = place.spot
    by_name = bool(table.names) and spot.raw in resolvers
    return by_name or not table.judge(spot.raw, spot.port, spot.number).denied


def suggestions(wanted: Sequence[Place], wildcards: Sequence[str] = ()) -> list[Suggestion]:
    """Give the rules that these places need, the most bytes first; `wildcards` are a profile's."""
    named = [one for one in wanted if one.by_name]
    rules, rest = _by_name(named, wildcards)
    bare = [one for one in wanted if not one.by_name] + rest
    lan = [one for one in bare if one.spot.scope is Scope.LAN]
    if len({one.spot.addr for one in lan}) > LAN_EACH:
        rules.append(Suggestion("@lan", tuple(lan), "the whole LAN: so many places there were spoken to"))
        bare = [one for one in bare if one not in lan]
    rules += _by_address(bare)
    return sorted(rules, key=lambda one: -one.bytes_out)


def _by_name(named: Sequence[Place], wildcards: Sequence[str]) -> tuple[list[Suggestion], list[Place]]:
    """Give the rules by name, and the places whose names have too many ports that are not TCP's."""
    rules, rest = [], []
    for pattern, found in _grouped(named, lambda one: _pattern(one, named, wildcards)).items():
        ports = _grouped(found, lambda one: (one.spot.port, one.spot.proto))
        if len(ports) > PORTS_EACH and {proto for _, proto in ports} != {_TCP}:
            rest += found
        elif len(ports) > PORTS_EACH:
            rules.append(_name_rule(pattern, _EVERY, found))
        else:
            rules += [_name_rule(pattern, port, some) for port, some in ports.items()]
    return rules, rest


def _pattern(place: Place, named: Iterable[Place], wildcards: Iterable[str]) -> str:
    """Give the wildcard that stands for several of the names, else the name."""
    own = place.spot.name or ""
    for wildcard in sorted(wildcards, key=len):
        below = {one.spot.name for one in named if matches(wildcard, one.spot.name or "")}
        if own in below and len(below) > 1:
            return wildcard
    return own


def _name_rule(pattern: str, port: tuple[int, str], found: Sequence[Place]) -> Suggestion:
    number, proto = port
    tail = (f":{number}" if number else "") + (f"/{proto}" if number and proto != _TCP else "")
    plain = any(one.plain for one in found)
    lan = any(one.spot.scope is Scope.LAN for one in found)
    extras = ("+plain" if plain else "") + ("+lan" if lan else "")
    note = "no TLS server name was read there: +plain lets pass what does without one" if plain else ""
    return Suggestion(f"{pattern}{tail}{extras}", tuple(found), note)


def _by_address(found: Sequence[Place]) -> list[Suggestion]:
    """Give the rules by address: neighbours that fill a prefix are one rule."""
    ports: dict[tuple[int, str], list[Place]] = {}
    for some in _grouped(found, lambda one: one.spot.addr).values():
        here = _grouped(some, lambda one: (one.spot.port, one.spot.proto))
        whole = len(here) > PORTS_EACH or any(not port or proto not in PROTOCOLS for port, proto in here)
        for port, ones in {_EVERY: some}.items() if whole else here.items():
            ports.setdefault(port, []).extend(ones)
    return [rule for port, some in ports.items() for rule in _prefixes(port, some)]


def _prefixes(port: tuple[int, str], found: Sequence[Place]) -> Iterator[Suggestion]:
    tail = f":{port[0]}/{port[1]}" if port[0] else ""
    addresses = {one.spot: Prefix(int.from_bytes(one.spot.raw), 128) for one in found}
    for net in ipaddress.collapse_addresses(ipaddress.IPv6Network(one) for one in addresses.values()):
        prefix = Prefix(int(net.network_address), net.prefixlen)
        inside = tuple(one for one in found if prefix.covers(addresses[one.spot]))
        text = str(prefix) if net.num_addresses > 1 else str(prefix).partition("/")[0]
        yield Suggestion(f"{text}{tail}", inside, _said(inside, whole=not port[0]))


def _said(found: Iterable[Place], *, whole: bool) -> str:
    """Say why it goes by address, and what the rule opens beside."""
    names = sorted({one.spot.name for one in found if one.spot.name})
    why = (
        f"known as {', '.join(names)}, which a rule by name cannot open" if names else "nobody said its name"
    )
    return f"{why}; all its ports" if whole else why


def _grouped(found: Iterable[Place], key: Callable[[Place], Any]) -> dict[Any, list[Place]]:
    groups: dict[Any, list[Place]] = {}
    for one in found:
        groups.setdefault(key(one), []).append(one)
    return groups
