"""Policies in the kernel's tables: put in force, replaced and removed, whole or not at all.

A policy's rules stand in `rules` under a number of its own, so that the one write to `policies` exchanges
all of it at once. Then the generation grows, and every socket is judged anew at its next packet. Old rules
are deleted when no program that runs can still be reading them.
"""

from __future__ import annotations

import errno
import struct
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from tracer.bpf import libbpf
from tracer.bpf.btf import pack
from tracer.errors import HostError, KernelError
from tracer.host import syscalls
from tracer.policy.local_names import LocalNames
from tracer.policy.rules import PROTOCOLS, Mode, PortRule, ScopeBit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tracer.bpf.abi import Abi
    from tracer.bpf.maps.tables import Maps
    from tracer.host.resolv_conf import Resolvers
    from tracer.policy.name_rules import NameEntry
    from tracer.policy.rules import Entry, Table

_POLICY_BITS: Final = 32  # the first word of a key in `rules`
_NUMBER_AT: Final = {"rules": 4, "names": 0, "named": 0, "resolvers": 0, "hosted": 0}
"""Where the policy's number stands in a map's keys."""
_FULL: Final = frozenset({errno.E2BIG, errno.ENOSPC})


class InForce(NamedTuple):
    """What the kernel has of a target's policy: its number, what it does, its rules of scopes.

    `until` is in nanoseconds of CLOCK_BOOTTIME: lifted until then; 0: not lifted.
    """

    number: int
    mode: Mode | None
    default_allow: bool
    strict: bool
    names: bool
    until: int

    @property
    def is_lifted(self) -> bool:
        """Whether it is lifted now; the kernel looks at the same clock."""
        return self.until > time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class PolicyTables:
    """The maps of policies and their rules, and the generation, by target number."""

    def __init__(self, maps: Maps, abi: Abi) -> None:
        self._maps = maps
        self._abi = abi
        self._modes = abi.enums["policy_mode"]
        self._policies = maps.fd("policies")
        self._forms = abi.enums["name_form"]
        self._kinds = abi.enums["name_kinds"]
        self.local = LocalNames(maps, abi)

    def put(
        self,
        target: int,
        table: Table,
        seen: Resolvers | None = None,
        older: Table | None = None,
        *,
        until: int = 0,
    ) -> None:
        """Put a policy in force for a target, in place of what it had; `seen` is how it looks names up.

        What names of the `older` policy have opened stays open where a wildcard of this one covers them. It
        is lifted `until` a time (see InForce). Raises HostError where a table is full; then nothing changes.
        """
        if self._stale() and syscalls.wait_for_readers():
            self._sweep()
        number = self._fresh_number()
        try:
            for entry in table.entries:
                self._insert(number, entry)
            for name in table.names:
                self._insert_name(number, name)
            for old, new in inherited(older.names if older else (), table.names):
                self._insert_number(number, old.id, new)
            if seen:
                self.local.put(number, table.names, seen)
            value = self._value(number, table, target, until)
            libbpf.update(self._policies, struct.pack("<I", target), value)
        except KernelError as error:
            self._forget(number)
            raise self._refused(error, table) from error
        if self._maps.renew_verdicts():
            self._sweep()

    def lift(self, target: int, until: int) -> None:
        """Lift the policy of a target until a time (see InForce); 0 ends that."""
        value = bytearray(self._lookup(target) or b"")
        if value:
            struct.pack_into("<Q", value, self._abi.policy.offset("until"), until)
            libbpf.update(self._policies, struct.pack("<I", target), bytes(value))
        self._maps.renew_verdicts()

    def remove(self, targets: Iterable[int]) -> int:
        """Take the policies of these targets away; returns how many had one."""
        gone = sum(libbpf.delete(self._policies, struct.pack("<I", target)) for target in targets)
        if gone and self._maps.renew_verdicts():
            self._sweep()
        return gone

    def in_force(self) -> dict[int, InForce]:
        """Ask the kernel which targets have a policy."""
        words = {self._modes["POLICY_ENFORCE"]: Mode.ENFORCE, self._modes["POLICY_AUDIT"]: Mode.AUDIT}
        found = {}
        for target in self._targets():
            value = self._lookup(target)
            if value is not None:
                number, mode, default_allow, strict, names, *_, until = struct.unpack(
                    self._abi.policy.format, value
                )
                found[target] = InForce(
                    number, words.get(mode), bool(default_allow), bool(strict), bool(names), until
                )
        return found

    def _stale(self) -> list[tuple[str, bytes]]:
        """Find rules of no policy: of replaced ones, and what a killed predecessor left half done."""
        used = {one.number for one in self.in_force().values()}
        return [(name, key) for name, key, number in self._numbered() if number not in used]

    def _numbered(self) -> Iterator[tuple[str, bytes, int]]:
        for name, at in _NUMBER_AT.items():
            for key in libbpf.keys(self._maps.fd(name), self._maps.shape(name).key_size):
                yield name, key, struct.unpack_from("<I", key, at)[0]

    def _sweep(self) -> None:
        for name, key in self._stale():
            libbpf.delete(self._maps.fd(name), key)

    def _targets(self) -> list[int]:
        return [struct.unpack("<I", key)[0] for key in libbpf.keys(self._policies, 4)]

    def _lookup(self, target: int) -> bytes | None:
        return libbpf.lookup(self._policies, struct.pack("<I", target), self._abi.policy.size)

    def _fresh_number(self) -> int:
        return max((one.number for one in self.in_force().values()), default=0) + 1

    def _key(self, number: int, entry: Entry) -> bytes:
        address = entry.prefix.address.to_bytes(16)
        return struct.pack(self._abi.rule_key.format, _POLICY_BITS + entry.prefix.bits, number, address)

    def _insert(self, number: int, entry: Entry) -> None:
        value = struct.pack(self._abi.rules.format, *self._ports(entry.ports))
        libbpf.update(self._maps.fd("rules"), self._key(number, entry), value)

    def _ports(self, ports: tuple[PortRule, ...]) -> list[int]:
        """Give the words of a struct rules."""
        said = [int(word) for port in ports for word in port]
        return [len(ports), *said, *bytes(len(self._abi.rules.fields) - 1 - len(said))]

    def _insert_name(self, number: int, entry: NameEntry) -> None:
        """Enter a name as DNS writes it, as TLS does, and by its number."""
        below = "_BELOW" if entry.pattern.wildcard else ""
        value = self._named_value(entry)
        for form, text in (("WIRE", entry.pattern.wire), ("TEXT", entry.pattern.name.encode())):
            key = struct.pack(
                self._abi.name_key.format, number, self._forms[f"NAME_{form}{below}"], len(text), text
            )
            libbpf.update(self._maps.fd("names"), key, value)
        self._insert_number(number, entry.id, entry)

    def _insert_number(self, number: int, name: int, entry: NameEntry) -> None:
        key = struct.pack(self._abi.named_key.format, number, name)
        libbpf.update(self._maps.fd("named"), key, self._named_value(entry))

    def _named_value(self, entry: NameEntry) -> bytes:
        said = (entry.id, entry.deny, entry.lan, entry.rule, *self._ports(entry.ports))
        return struct.pack(self._abi.name_rules.format, *said, entry.phases)

    def number(self, target: int) -> int:
        """Return the number of the policy that a target has; 0: it has none."""
        held = self.in_force().get(target)
        return held.number if held else 0

    def named(self, number: int, name: int) -> tuple[PortRule, ...]:
        """Return what a policy says of a name, by its number, as the kernel has it; nothing: it has none."""
        key = struct.pack(self._abi.named_key.format, number, name)
        value = libbpf.lookup(self._maps.fd("named"), key, self._abi.name_rules.size)
        if value is None:
            return ()
        _, _, _, _, count, *words = struct.unpack(self._abi.name_rules.format, value)
        width = len(PortRule._fields)
        return tuple(PortRule(*words[at : at + width]) for at in range(0, count * width, width))

    def _forget(self, number: int) -> None:
        for name, key, found in list(self._numbered()):
            if found == number:
                libbpf.delete(self._maps.fd(name), key)

    def _name_kinds(self, table: Table) -> int:
        said = {port.deny for name in table.names for port in name.ports}
        return (self._kinds["NAMES_ALLOWED"] if False in said else 0) | (
            self._kinds["NAMES_DENIED"] if True in said else 0
        )

    def _value(self, number: int, table: Table, target: int, until: int) -> bytes:
        policy = table.policy
        fields: dict[str, int | bytes] = {
            "number": number,
            "mode": self._modes["POLICY_AUDIT" if policy.mode is Mode.AUDIT else "POLICY_ENFORCE"],
            "default_allow": policy.default_allow,
            "strict": policy.strict,
            "names": self._name_kinds(table),
            "unasked": self._unasked(table),
            "requests": target if table.is_phased else 0,
            "until": until,
            "allow_scopes": _mask(table.allow_scopes),
            "deny_scopes": _mask(table.deny_scopes),
            "allow_phases": bytes(table.allow_phases.get(ScopeBit(bit), 0) for bit in range(len(ScopeBit))),
        }
        fields |= {f"allow_rule[{bit.value}]": rule for bit, rule in table.allow_scopes.items()}
        fields |= {f"deny_rule[{bit.value}]": rule for bit, rule in table.deny_scopes.items()}
        return pack(self._abi.policy, fields)

    def _unasked(self, table: Table) -> int:
        """Say of which protocols without a hook at connect a rule allows something (`enum unasked`)."""
        ports = [one.ports for one in table.entries] + [one.ports for one in table.names]
        allowed = {port.proto for some in ports for port in some if not port.deny}
        kinds = self._abi.enums["unasked"]
        return sum(
            kinds[f"UNASKED_{name.upper()}"]
            for name in ("sctp", "dccp")
            if table.allow_scopes.keys() - {ScopeBit.DNS} or allowed & {0, PROTOCOLS[name]}
        )

    def _refused(self, error: KernelError, table: Table) -> HostError:
        if error.errno not in _FULL:
            return error
        room, names = self._maps.shape("rules").max_entries, self._maps.shape("named").max_entries
        return HostError(
            f"the policy of {table.policy.target} has {len(table.entries)} prefixes and {len(table.names)}"
            f" names, more than there is room for: {room} and {names} in all; nothing has changed",
            "take wider prefixes or wildcards, or unblock another target",
        )


def inherited(
    older: Iterable[NameEntry], newer: tuple[NameEntry, ...]
) -> Iterator[tuple[NameEntry, NameEntry]]:
    """Yield each name that only the older policy has, with the narrowest of the newer one that covers it."""
    kept = {entry.id for entry in newer}
    for old in older:
        covering = [new for new in newer if new.pattern.covers(old.pattern)]
        if old.id not in kept and covering:
            yield old, max(covering, key=lambda new: len(new.pattern.name))


def _mask(scopes: dict[ScopeBit, int]) -> int:
    return sum(1 << bit for bit in scopes)
