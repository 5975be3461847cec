"""Policies in the kernel's tables: put in force, replaced and removed, whole or not at all.

A policy's rules stand in `rules` under a number of its own, so that the one write to `policies` exchanges
all of it at once. Then the generation grows, and every socket is judged anew at its next packet. Old rules
are deleted when no program that runs can still be reading them.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from tracer import libbpf, syscalls
from tracer.btf import pack
from tracer.errors import HostError, KernelError
from tracer.policy import Mode, ScopeBit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tracer.abi import Abi
    from tracer.maps import Maps
    from tracer.policy import Entry, Table

_POLICY_BITS: Final = 32  # the first word of a key in `rules`
_FULL: Final = frozenset({errno.E2BIG, errno.ENOSPC})


class InForce(NamedTuple):
    """What the kernel has of a target's policy: its number, what it does, its rules of scopes."""

    number: int
    mode: Mode | None
    default_allow: bool
    strict: bool


class PolicyTables:
    """The maps `policies` and `rules` and the generation, by target number."""

    def __init__(self, maps: Maps, abi: Abi) -> None:
        self._maps = maps
        self._abi = abi
        self._modes = abi.enums["policy_mode"]
        self._policies, self._rules = maps.fd("policies"), maps.fd("rules")

    def put(self, target: int, table: Table) -> None:
        """Put a policy in force for a target, in place of what it had.

        Raises HostError where a table is full; then nothing has changed.
        """
        if self._stale() and syscalls.wait_for_readers():
            self._sweep()
        number = self._fresh_number()
        try:
            for entry in table.entries:
                self._insert(number, entry)
            libbpf.update(self._policies, struct.pack("<I", target), self._value(number, table))
        except KernelError as error:
            self._forget(number, table)
            raise self._refused(error, table) from error
        if self.renew():
            self._sweep()

    def share(self, owner: int, heirs: Iterable[int]) -> None:
        """Let other targets have the very policy of `owner`."""
        value = self._lookup(owner)
        new = [heir for heir in heirs if value is not None and self._lookup(heir) != value]
        for heir in new:
            libbpf.update(self._policies, struct.pack("<I", heir), value or b"")
        if new:
            self.renew()

    def remove(self, targets: Iterable[int]) -> int:
        """Take the policies of these targets away; returns how many had one."""
        gone = sum(libbpf.delete(self._policies, struct.pack("<I", target)) for target in targets)
        if gone and self.renew():
            self._sweep()
        return gone

    def in_force(self) -> dict[int, InForce]:
        """Ask the kernel which targets have a policy."""
        words = {self._modes["POLICY_ENFORCE"]: Mode.ENFORCE, self._modes["POLICY_AUDIT"]: Mode.AUDIT}
        found = {}
        for target in self._targets():
            value = self._lookup(target)
            if value is not None:
                number, mode, default_allow, strict, *_ = struct.unpack(self._abi.policy.format, value)
                found[target] = InForce(number, words.get(mode), bool(default_allow), bool(strict))
        return found

    def _stale(self) -> list[bytes]:
        """Find rules of no policy: of replaced ones, and what a killed predecessor left half done."""
        used = {one.number for one in self.in_force().values()}
        keys = libbpf.keys(self._rules, self._maps.shape("rules").key_size)
        return [key for key in keys if struct.unpack_from("<I", key, 4)[0] not in used]

    def _sweep(self) -> None:
        for key in self._stale():
            libbpf.delete(self._rules, key)

    def renew(self) -> bool:
        """Have all sockets judged anew, once nobody can still be judging by what was replaced.

        False where the kernel could not tell when that was. Waiting also keeps the next write from reusing an
        element that is being read: a hash map gives the one that was replaced to the very next update
        (kernel/bpf/hashtab.c).
        """
        waited = syscalls.wait_for_readers()
        now = self._maps.settings
        self._maps.settings = now._replace(generation=now.generation % 0xFFFFFFFF + 1)
        return waited

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
        said = [int(word) for port in entry.ports for word in port]
        room = len(self._abi.rules.fields) - 1 - len(said)
        value = struct.pack(self._abi.rules.format, len(entry.ports), *said, *bytes(room))
        libbpf.update(self._rules, self._key(number, entry), value)

    def _forget(self, number: int, table: Table) -> None:
        for entry in table.entries:
            libbpf.delete(self._rules, self._key(number, entry))

    def _value(self, number: int, table: Table) -> bytes:
        policy = table.policy
        fields: dict[str, int | bytes] = {
            "number": number,
            "mode": self._modes["POLICY_AUDIT" if policy.mode is Mode.AUDIT else "POLICY_ENFORCE"],
            "default_allow": policy.default_allow,
            "strict": policy.strict,
            "allow_scopes": _mask(table.allow_scopes),
            "deny_scopes": _mask(table.deny_scopes),
        }
        fields |= {f"allow_rule[{bit.value}]": rule for bit, rule in table.allow_scopes.items()}
        fields |= {f"deny_rule[{bit.value}]": rule for bit, rule in table.deny_scopes.items()}
        return pack(self._abi.policy, fields)

    def _refused(self, error: KernelError, table: Table) -> HostError:
        if error.errno not in _FULL:
            return error
        size = self._maps.shape("rules").max_entries
        return HostError(
            f"the policy of {table.policy.target} has {len(table.entries)} prefixes, more than there is room"
            f" for: {size} in all; nothing has changed",
            "take wider prefixes, or unblock another target",
        )


def _mask(scopes: dict[ScopeBit, int]) -> int:
    return sum(1 << bit for bit in scopes)


def heirs(paths: dict[bytes, int], owners: set[int]) -> dict[int, int]:
    """Say which targets without a policy lie inside of one that has one: {heir: owner}.

    The kernel asks the nearest target only. What is merely watched inside a blocked target has to be
    blocked as well.
    """
    found = {}
    for path, number in paths.items():
        if number not in owners:
            owner = _above(path, paths, owners)
            if owner is not None:
                found[number] = owner
    return found


def _above(path: bytes, paths: dict[bytes, int], owners: set[int]) -> int | None:
    while path:
        path = path.rpartition(b"/")[0]
        if paths.get(path) in owners:
            return paths[path]
    return None
