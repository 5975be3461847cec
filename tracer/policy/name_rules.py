"""Rules by name as the kernel has them: each name in the form of its protocol, flattened like prefixes.

The kernel asks for the whole name, and for each name above it that a wildcard may stand for. Hence a name
carries also the rules of the wildcards that cover it, and whichever is found last can be ignored.
"""

from __future__ import annotations

import functools
import hashlib
import operator
from typing import TYPE_CHECKING, Final, NamedTuple

from tracer.errors import UsageError
from tracer.model.text import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tracer.policy.rules import Name, PortRule, Rule

WIRE_MAX: Final = 120  # NAME_LEN, bpf/abi.h
LABELS_MAX: Final = 16  # LABELS, bpf/abi.h
TCP: Final = 6  # IANA protocol number
_ROOT: Final = b"\0"


class Pattern(NamedTuple):
    """A name as rules write it; `wildcard`: all names below it, and not itself."""

    name: str
    wildcard: bool

    def __str__(self) -> str:
        return f"*.{self.name}" if self.wildcard else self.name

    def covers(self, other: Pattern) -> bool:
        """Say whether whatever `other` stands for is meant here, too."""
        return self == other or (self.wildcard and other.name.endswith(f".{self.name}"))

    @property
    def wire(self) -> bytes:
        """The name as DNS writes it (RFC 1035 3.1): each label after its length, the root last."""
        return b"".join(bytes([len(label)]) + label.encode() for label in self.name.split(".")) + _ROOT


class NameEntry(NamedTuple):
    """All that rules say of one pattern: `id` is the same in each policy that has it."""

    pattern: Pattern
    id: int
    deny: bool
    lan: bool
    rule: int
    ports: tuple[PortRule, ...]
    phases: int = 0
    """In which its query may leave, as PortRule.phases."""


def name_entries(
    rules: Iterable[Rule],
    matches: Callable[[Rule], Name | None],
    port_rule: Callable[[int, Rule], PortRule],
    flatten_ports: Callable[[list[PortRule], Pattern], tuple[PortRule, ...]],
    *,
    default_allow: bool,
) -> tuple[NameEntry, ...]:
    """Make the entries of a policy; raises UsageError for a name that the kernel's tables cannot hold."""
    own: dict[Pattern, list[tuple[PortRule, Name]]] = {}
    for number, rule in enumerate(rules, 1):
        name = matches(rule)
        if name is not None:
            pattern = _checked(Pattern(name.name, name.wildcard), rule.text)
            own.setdefault(pattern, []).append((port_rule(number, rule), name))
    taken: set[int] = set()
    found = []
    for pattern in sorted(own):
        covering = [pair for wider in own if wider.covers(pattern) for pair in own[wider]]
        ports = flatten_ports([port for port, _ in covering], pattern)
        whole = next((port for port in ports if port.deny and not port.port and not port.proto), None)
        allows = [port for port in ports if not port.deny]
        decides = whole or (allows or list(ports))[0]
        found.append(
            NameEntry(
                pattern,
                _number(pattern, taken),
                deny=whole is not None or not (allows or default_allow),
                lan=any(name.lan for port, name in covering if not port.deny),
                rule=decides.rule,
                ports=ports,
                phases=together(port.phases for port in allows) if allows and not whole else 0,
            )
        )
    return tuple(found)


def searched(entries: Iterable[NameEntry], domains: Iterable[str]) -> dict[Pattern, NameEntry]:
    """Return what a stub resolver asks on its way to an allowed name: the name below each search domain.

    Such a question may leave, and its answer opens nothing. A name that the rules speak of is not among them,
    nor is one that is too long for the kernel's table.
    """
    entries = tuple(entries)
    found = {}
    for entry in entries:
        for domain in domains if not entry.deny else ():
            pattern = Pattern(f"{entry.pattern.name}.{domain}", entry.pattern.wildcard)
            fits = len(pattern.wire) <= WIRE_MAX and pattern.name.count(".") < LABELS_MAX
            if fits and not any(one.pattern.covers(pattern) for one in entries):
                found[pattern] = entry
    return found


def hosted(
    entries: Iterable[NameEntry], hosts: Mapping[bytes, Iterable[str]]
) -> dict[bytes, list[NameEntry]]:
    """Return by address which allowed names a hosts file gives it; the rule that is closest to each name."""
    entries = tuple(entries)
    found: dict[bytes, list[NameEntry]] = {}
    for address, names in hosts.items():
        for name in names:
            covering = [one for one in entries if one.pattern.covers(Pattern(name, wildcard=False))]
            if covering and not any(one.deny for one in covering):
                closest = max(covering, key=lambda one: (not one.pattern.wildcard, len(one.pattern.name)))
                if closest not in (listed := found.setdefault(address, [])):
                    listed.append(closest)
    return found


def together(phases: Iterable[int]) -> int:
    """Return the phases in which one of several rules speaks: 0, always, if one is bound to none."""
    every = tuple(phases)
    return 0 if 0 in every else functools.reduce(operator.or_, every, 0)


def _checked(pattern: Pattern, text: str) -> Pattern:
    labels = pattern.name.split(".")
    if len(pattern.wire) > WIRE_MAX or len(labels) > LABELS_MAX:
        raise UsageError(
            f"the name of rule '{escape(text)}' is too long for the kernel's table",
            f"{WIRE_MAX - 2} bytes and {LABELS_MAX} labels are the most; take a wildcard above it",
        )
    return pattern


def _number(pattern: Pattern, taken: set[int]) -> int:
    """Give a pattern its number: the same whenever it is in a policy, so that addresses stay open."""
    number = int.from_bytes(hashlib.blake2b(str(pattern).encode(), digest_size=4).digest()) or 1
    while number in taken:
        number = number % 0xFFFFFFFF + 1
    taken.add(number)
    return number
