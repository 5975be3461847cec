"""Policies: rules as people write them, made into the tables that the kernel half judges by.

A rule is an address or prefix (`1.2.3.0/24`, `[2001:db8::]/32`, a single address), with `:443` or
`:443/tcp` if it is to speak of that port only; a scope (`@loopback @host @lan @internet @dns`); or a name
(`registry.ollama.ai`, `*.ollama.ai`, with or without a port; TCP unless it says `/udp`). A name may be
followed by `+plain` (its connections need not be TLS with that server name) and `+lan` (its answers may open
private addresses). What is allowed may be bound to a phase: `registry.ollama.ai+pull` holds only while a
request of that phase is in flight. Deny beats allow, allow beats the default.

The kernel finds rules by the longest prefix only. Hence each prefix carries also the rules of all wider ones
that cover it: constant cost at a packet, however many prefixes there are.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from tracer.errors import UsageError
from tracer.model.scope import MAPPED, Scope, nat64_inside, scope
from tracer.model.text import escape
from tracer.policy.name_rules import TCP, name_entries, together

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tracer.policy.name_rules import NameEntry, Pattern

FORMS: Final = (
    "a rule is 1.2.3.0/24, [2001:db8::]/32 or a single address, each with :443 or :443/tcp if wanted,"
    " or a name like registry.ollama.ai or *.ollama.ai, or @loopback, @host, @lan, @internet, @dns"
)
OPTIONS: Final = (
    "behind a + stands a phase (startup, idle, inference, pull, account), or behind a name plain or lan"
)
RULES_MAX: Final = 0xFFFF  # struct rule_port.rule is 16 bits
PORTS_MAX: Final = 16  # RULE_PORTS, bpf/abi.h
DNS_PORT: Final = 53
# IANA protocol numbers of what has ports.
PROTOCOLS: Final = {"tcp": 6, "udp": 17, "dccp": 33, "sctp": 132, "udplite": 136}
_MAPPED: Final = int.from_bytes(MAPPED) << 32
_MAPPED_BITS: Final = 96
_BITS: Final = 128
_TAIL: Final = r"(?::(?P<port>[1-9][0-9]{0,4})(?:/(?P<proto>[a-z]+))?)?\Z"
_V4: Final = re.compile(r"(?P<address>[0-9]+(?:\.[0-9]+){3})(?:/(?P<bits>[0-9]{1,2}))?" + _TAIL)
_V6: Final = re.compile(r"\[(?P<address>[0-9A-Fa-f:.]+)\](?:/(?P<bits>[0-9]{1,3}))?" + _TAIL)
_OPTIONS: Final = frozenset({"plain", "lan"})  # of names only
# RFC 1123 2.1 and RFC 952: letters, digits, hyphens inside; the last label is no number.
_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME: Final = re.compile(
    rf"(?P<wild>\*\.)?(?P<name>(?:{_LABEL}\.)*(?![0-9]+\.?(?::|\Z)){_LABEL})\.?" + _TAIL
)
_NAME_LENGTH: Final = 253  # RFC 1035 2.3.4, without the root


class Mode(StrEnum):
    """What a policy does: `audit` counts what it would deny, and changes nothing."""

    ENFORCE = "enforce"
    AUDIT = "audit"


class ScopeBit(IntEnum):
    """enum scope_bit, bpf/abi.h, by bit number; a test compares them."""

    LOOPBACK = 0
    LAN = 1
    MULTICAST = 2
    INTERNET = 3
    DNS = 4
    HOST = 5


_SCOPES: Final = {
    "@loopback": ScopeBit.LOOPBACK,
    "@host": ScopeBit.HOST,
    "@lan": ScopeBit.LAN,
    "@internet": ScopeBit.INTERNET,
    "@dns": ScopeBit.DNS,
}
_BIT_OF: Final = {
    Scope.LOOPBACK: ScopeBit.LOOPBACK,
    Scope.HOST: ScopeBit.HOST,
    Scope.LAN: ScopeBit.LAN,
    Scope.MULTICAST: ScopeBit.MULTICAST,
    Scope.INTERNET: ScopeBit.INTERNET,
}
_NEVER_LEAVES: Final = frozenset({ScopeBit.LOOPBACK, ScopeBit.HOST})


class Phase(IntEnum):
    """What a rule can be bound to: enum phase, bpf/abi.h; a test compares them."""

    STARTUP = 1
    IDLE = 2
    INFERENCE = 3
    PULL = 4
    ACCOUNT = 5


ALWAYS: Final = 0
"""Bound to no phase; else bits, 1 << Phase."""


class Prefix(NamedTuple):
    """A prefix of IPv6 addresses, IPv4 ones being mapped: the first `bits` of 128 count."""

    address: int
    bits: int

    def covers(self, other: Prefix) -> bool:
        """Say whether every address of `other` is in here."""
        return self.bits <= other.bits and (self.address ^ other.address) >> (_BITS - self.bits) == 0

    @property
    def is_ipv4(self) -> bool:
        """Say whether all of it is IPv4."""
        return self.bits >= _MAPPED_BITS and self.address >> 32 == _MAPPED >> 32

    def __str__(self) -> str:
        if self.is_ipv4:
            return f"{ipaddress.IPv4Address(self.address & 0xFFFFFFFF)}/{self.bits - _MAPPED_BITS}"
        return f"[{ipaddress.IPv6Address(self.address)}]/{self.bits}"


class Addresses(NamedTuple):
    """What a rule by address speaks of; `port` and `proto` 0: of all."""

    prefix: Prefix
    port: int
    proto: int


class Name(NamedTuple):
    """What a rule by name speaks of; `wildcard`: of all names below it."""

    name: str
    wildcard: bool
    port: int
    proto: int
    plain: bool = False
    lan: bool = False


@dataclass(frozen=True)
class Rule:
    """One rule: as it was given, and what it means."""

    text: str
    deny: bool
    match: Addresses | ScopeBit | Name
    phases: int = ALWAYS

    def __str__(self) -> str:
        return f"{'deny' if self.deny else 'allow'} {self.text}"


@dataclass(frozen=True)
class Policy:
    """A policy as its owner states it, for one target."""

    target: str
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    default_allow: bool = False
    mode: Mode = Mode.ENFORCE
    strict: bool = False
    keep: tuple[str, ...] = ()
    """Purposes whose hosts stay open in their phases,"""
    kept: tuple[str, ...] = ()
    """and the rules that this means for the target's runtime: see tracer/policy/keep.py."""

    @property
    def default(self) -> str:
        """What happens to a peer that no rule names."""
        return "allow" if self.default_allow else "deny"

    def rules(self) -> tuple[Rule, ...]:
        """Give the rules, each number one more than its place here; raises UsageError that quotes one."""
        found = [parse(text, deny=True) for text in self.deny]
        found += [parse(text, deny=False) for text in (*self.allow, *self.kept)]
        if len(found) > RULES_MAX:
            raise UsageError(
                f"{len(found)} rules for '{escape(self.target)}': {RULES_MAX} are the most",
                "take wider prefixes",
            )
        return tuple(found)

    def rule_texts(self) -> list[str]:
        """Give the rules in the order of their numbers, as people read them."""
        return [f"deny {text}" for text in self.deny] + [
            f"allow {text}" for text in (*self.allow, *self.kept)
        ]

    def rule_text(self, number: int) -> str:
        """Name the rule that an event or a flow tells by its number; 0 is the default."""
        texts = self.rule_texts()
        return texts[number - 1] if 0 < number <= len(texts) else f"default {self.default}"


def as_command(policy: Policy, instance: str) -> str:
    """Give the command that puts a policy in force, as a shell takes it."""
    words = ["tattle", "block", policy.target]
    for option, rules in (("--keep", policy.keep), ("--allow", policy.allow), ("--deny", policy.deny)):
        words += [word for text in rules for word in (option, text)]
    words += ["--default", "allow"] if policy.default_allow else []
    words += ["--audit"] if policy.mode is Mode.AUDIT else []
    words += ["--strict"] if policy.strict else []
    return shell(words, instance)


def shell(words: Sequence[str], instance: str) -> str:
    """Give a command for this instance as a shell takes it."""
    return escape(shlex.join([*words, *([] if instance == "tattle" else ["--instance", instance])]))


def parse(text: str, *, deny: bool) -> Rule:
    """Read one rule; raises UsageError that quotes it."""
    bare, *options = text.split("+")
    phases = _phases(text, options)
    if deny and phases:
        raise _refused(text, "what is denied is denied in each phase: leave the phase out")
    match = _match(text, bare, options)
    if not isinstance(match, Name) and _OPTIONS & {*options}:
        raise _refused(text, "only names take +plain and +lan")
    return Rule(text, deny, match, phases)


def _match(text: str, bare: str, options: Sequence[str]) -> Addresses | ScopeBit | Name:
    if bare.startswith("@"):
        if bare not in _SCOPES:
            raise _refused(text, "the scopes are @loopback, @host, @lan, @internet and @dns")
        return _SCOPES[bare]
    for form, family in ((_V4, ipaddress.IPv4Address), (_V6, ipaddress.IPv6Address)):
        if found := form.match(bare):
            return _addresses(text, found, family)
    found = _NAME.match(bare)
    if found is None or len(found["name"]) > _NAME_LENGTH:
        raise _refused(text, _mend(bare))
    port, proto = _tail(text, found)
    wild = found["wild"] is not None
    return Name(found["name"].lower(), wild, port, proto, "plain" in options, "lan" in options)


def _phases(text: str, options: Sequence[str]) -> int:
    """Return the phases that a rule is bound to, in bits; any of several is enough."""
    known = {phase.name.lower(): 1 << phase for phase in Phase}
    if unknown := [one for one in options if one not in {*known, *_OPTIONS}]:
        raise _refused(text, f"'+{escape(unknown[0])}' means nothing: {OPTIONS}")
    return sum(known[one] for one in {*options} & known.keys())


def _refused(text: str, mend: str) -> UsageError:
    return UsageError(f"'{escape(text)}' is no rule", mend)


def _mend(text: str) -> str:
    bare, _, bits = text.partition("/")
    try:
        address = ipaddress.ip_address(bare.strip("[]"))
    except ValueError:
        return FORMS
    if address.version == 6:  # noqa: PLR2004 - the protocol
        return f"write IPv6 in brackets: [{address}]" + (f"/{bits.rstrip(']')}" if bits else "")
    return FORMS


def _tail(text: str, found: re.Match[str]) -> tuple[int, int]:
    port, proto = int(found["port"] or 0), found["proto"]
    if port > 0xFFFF:  # noqa: PLR2004 - the highest port
        raise _refused(text, "ports end at 65535")
    if proto is not None and proto not in PROTOCOLS:
        raise _refused(text, f"the protocols with ports are {', '.join(PROTOCOLS)}")
    return port, PROTOCOLS[proto] if proto else 0


def _addresses(
    text: str, found: re.Match[str], family: type[ipaddress.IPv4Address | ipaddress.IPv6Address]
) -> Addresses:
    try:
        address = family(found["address"])
    except ValueError:
        raise _refused(text, "there is no such address") from None
    bits = int(found["bits"]) if found["bits"] else address.max_prefixlen
    if bits > address.max_prefixlen:
        raise _refused(text, f"a prefix of IPv{address.version} has at most {address.max_prefixlen} bits")
    value = int(address)
    if value & ((1 << (address.max_prefixlen - bits)) - 1):
        whole = value >> (address.max_prefixlen - bits) << (address.max_prefixlen - bits)
        meant = f"{family(whole)}" if address.version == 4 else f"[{family(whole)}]"  # noqa: PLR2004 - the protocol
        raise _refused(text, f"it has bits behind the prefix: did you mean {meant}/{bits}?")
    if address.version == 4:  # noqa: PLR2004 - the protocol
        value, bits = _MAPPED | value, bits + _MAPPED_BITS
    return Addresses(Prefix(value, bits), *_tail(text, found))


class PortRule(NamedTuple):
    """struct rule_port: what one rule says of a port (0: all) and a protocol (0: all)."""

    port: int
    proto: int
    deny: bool
    rule: int
    plain: bool = False
    phases: int = ALWAYS

    def speaks(self, port: int, proto: int) -> bool:
        """Say whether this port of this protocol is meant."""
        return self.port in (0, port) and self.proto in (0, proto)

    def speaks_in(self, phases: int) -> bool:
        """Say whether it holds in one of these phases, in bits."""
        return _speaks_in(self.phases, phases)

    def replaces(self, other: PortRule) -> bool:
        """Say whether the other one changes nothing where this one is."""
        wider = self.port in (0, other.port) and self.proto in (0, other.proto)
        longer = not self.phases or (other.phases and not other.phases & ~self.phases)
        return bool(wider and longer and (self.deny or (not other.deny and self.plain == other.plain)))


class Entry(NamedTuple):
    """One entry of the longest-prefix map."""

    prefix: Prefix
    ports: tuple[PortRule, ...]


class Judgement(NamedTuple):
    """What a policy says of a peer, and by which rule (0: the default)."""

    denied: bool
    rule: int


@dataclass(frozen=True)
class Table:
    """A policy as the kernel has it: rules of scopes by bit, rules of prefixes flattened."""

    policy: Policy
    allow_scopes: dict[ScopeBit, int]
    deny_scopes: dict[ScopeBit, int]
    entries: tuple[Entry, ...]
    names: tuple[NameEntry, ...] = ()
    allow_phases: dict[ScopeBit, int] = field(default_factory=dict)

    @property
    def is_phased(self) -> bool:
        """Whether a rule is bound to a phase."""
        ports = [port for entry in self.entries for port in entry.ports]
        ports += [port for name in self.names for port in name.ports]
        return any(self.allow_phases.values()) or any(port.phases for port in ports)

    def judge(self, remote: bytes, port: int, proto: int, *, own: bool = False, phases: int = 0) -> Judgement:
        """Judge as `judge` in bpf/policy.bpf.h does, in these phases, in bits; `own`: of this host."""
        spoken = self._by_prefix(int.from_bytes(nat64_inside(remote) or remote), port, proto, phases)
        place = _BIT_OF[scope(remote, via_loopback=own)]
        said = ScopeBit.DNS if port == DNS_PORT else place
        for bit in (said, place):
            if bit in self.deny_scopes:
                return Judgement(denied=True, rule=self.deny_scopes[bit])
        if spoken is not None:
            return Judgement(spoken.deny, spoken.rule)
        if said in self.allow_scopes and _speaks_in(self.allow_phases.get(said, ALWAYS), phases):
            return Judgement(denied=False, rule=self.allow_scopes[said])
        return Judgement(not self.policy.default_allow and said not in _NEVER_LEAVES, 0)

    def _by_prefix(self, remote: int, port: int, proto: int, phases: int) -> PortRule | None:
        whole = Prefix(remote, _BITS)
        covering = (entry for entry in self.entries if entry.prefix.covers(whole))
        longest = max(covering, key=lambda entry: entry.prefix.bits, default=None)
        ports = longest.ports if longest else ()
        return next(
            (rule for rule in ports if rule.speaks(port, proto) and _speaks_in(rule.phases, phases)), None
        )


def _speaks_in(bound: int, phases: int) -> bool:
    """Whether what is bound to some phases speaks in others, as speaks_in() in bpf/phase.bpf.h."""
    return not bound or bool(bound & phases)


def compile_policy(policy: Policy) -> Table:
    """Make the kernel's tables of a policy; raises UsageError that quotes what cannot be done."""
    scopes: dict[bool, dict[ScopeBit, int]] = {True: {}, False: {}}
    own: dict[Prefix, list[PortRule]] = {}
    bound: dict[ScopeBit, list[int]] = {}
    rules = policy.rules()
    for number, rule in enumerate(rules, 1):
        if isinstance(rule.match, ScopeBit):
            scopes[rule.deny].setdefault(rule.match, number)
            if not rule.deny:
                bound.setdefault(rule.match, []).append(rule.phases)
        elif isinstance(rule.match, Addresses):
            prefix, port, proto = rule.match
            port_rule = PortRule(port, proto, rule.deny, number, phases=rule.phases)
            own.setdefault(prefix, []).append(port_rule)
    entries = tuple(_checked(entry, rules) for entry in flatten(own))
    phases = {bit: together(some) for bit, some in bound.items()}
    return Table(policy, scopes[False], scopes[True], entries, _names(policy, rules), phases)


def _names(policy: Policy, rules: Sequence[Rule]) -> tuple[NameEntry, ...]:
    def ports_of(ports: list[PortRule], pattern: Pattern) -> tuple[PortRule, ...]:
        entry = Entry(Prefix(0, 0), _in_order(_needed(ports)))
        return _checked(entry, rules, str(pattern)).ports

    return name_entries(rules, _name_of, _port_rule, ports_of, default_allow=policy.default_allow)


def _name_of(rule: Rule) -> Name | None:
    return rule.match if isinstance(rule.match, Name) else None


def _port_rule(number: int, rule: Rule) -> PortRule:
    """Take TCP for what an allowed name does not say: there the server's name can be read."""
    name = rule.match
    assert isinstance(name, Name)
    proto = name.proto or (0 if rule.deny else TCP)
    return PortRule(name.port, proto, rule.deny, number, name.plain, rule.phases)


def flatten(own: dict[Prefix, list[PortRule]]) -> Iterator[Entry]:
    """Give each prefix also the rules of the wider ones that cover it.

    A wide IPv6 prefix does not speak of IPv4, although mapped addresses lie within: an entry of its own
    without rules stops it there.
    """
    all4 = Prefix(_MAPPED, _MAPPED_BITS)
    if all4 not in own and any(prefix.covers(all4) for prefix in own):
        own = {**own, all4: []}
    outer: list[Entry] = []
    for prefix in sorted(own):
        while outer and not outer[-1].prefix.covers(prefix):
            outer.pop()
        inherited = outer[-1].ports if outer and outer[-1].prefix.is_ipv4 == prefix.is_ipv4 else ()
        entry = Entry(prefix, _in_order(_needed([*inherited, *own[prefix]])))
        outer.append(entry)
        yield entry


def _needed(ports: Sequence[PortRule]) -> Iterator[PortRule]:
    """Leave out rules that change nothing beside the others; of equals the first stays."""
    for place, rule in enumerate(ports):
        if not any(
            other.replaces(rule) and (place > at or not rule.replaces(other))
            for at, other in enumerate(ports)
            if at != place
        ):
            yield rule


def _in_order(ports: Iterable[PortRule]) -> tuple[PortRule, ...]:
    """Put denying rules first: the kernel takes the first rule that speaks of a peer."""
    return tuple(sorted(ports, key=lambda one: (not one.deny, one.rule)))


def _checked(entry: Entry, rules: Sequence[Rule], what: str = "") -> Entry:
    if len(entry.ports) <= PORTS_MAX:
        return entry
    named = ", ".join(
        f"'{rules[one.rule - 1].text}'" for one in sorted(entry.ports, key=lambda one: one.rule)
    )
    count = len(entry.ports)
    raise UsageError(
        f"{count} rules speak of {what or entry.prefix}, {PORTS_MAX} are the most: {escape(named)}",
        "leave the ports out of some of them",
    )
