"""What a host and its containers make of the names that rules allow: resolvers, search domains, hosts files.

They stand in the kernel's tables under a policy's number, are put in with its rules, and follow the host.
"""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING, Final

from tracer.bpf import libbpf
from tracer.bpf.btf import pack
from tracer.host.resolv_conf import HOST, OWN
from tracer.model.scope import Scope, scope
from tracer.policy.name_rules import Pattern, hosted, searched

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tracer.bpf.abi import Abi
    from tracer.bpf.maps.tables import Maps
    from tracer.host.resolv_conf import Resolvers
    from tracer.policy.name_rules import NameEntry

_NO_ID: Final = 0  # struct name_rules.id of a name that is only asked for
_MISSING_S: Final = 2.0
_WORD: Final = struct.Struct("<I")


class LocalNames:
    """The maps `resolvers` and `hosted`, and of `names` what is only asked for."""

    def __init__(self, maps: Maps, abi: Abi) -> None:
        self._maps = maps
        self._abi = abi
        self._forms = abi.enums["name_form"]
        self._missed: dict[tuple[str, int], dict[bytes, float]] = {}  # since when (time.monotonic)

    def put(self, number: int, names: Iterable[NameEntry], seen: Resolvers) -> None:
        """Enter all that was seen for the policy of this number. Raises KernelError where a table is full."""
        names = tuple(names)
        for table, entries in self._wanted(number, names, seen):
            for key, value in entries.items():
                libbpf.update(self._maps.fd(table), key, value)

    def follow(self, number: int, names: Iterable[NameEntry], seen: Resolvers) -> None:
        """Enter what is new, and delete what is gone from the files that could be read.

        That happens only when it misses twice, some time apart: neither a file that is being written nor a
        service between stop and start costs a resolver.
        """
        now = time.monotonic()
        for table, wanted in self._wanted(number, tuple(names), seen):
            present = dict(self._present(table, number))
            for key, value in wanted.items():
                fresh = self._with_unread(value, present.get(key), seen) if table == "resolvers" else value
                if present.get(key) != fresh:
                    libbpf.update(self._maps.fd(table), key, fresh)
            missing = {
                key
                for key in present.keys() - wanted.keys()
                if not (_WORD.unpack(present[key])[0] if table == "resolvers" else HOST | OWN) & ~seen.certain
            }
            before = self._missed.get((table, number), {})
            since = {key: before.get(key, now) for key in missing}
            for key, first in since.items():
                if now - first >= _MISSING_S:
                    libbpf.delete(self._maps.fd(table), key)
            self._missed[table, number] = since

    @staticmethod
    def _with_unread(value: bytes, before: bytes | None, seen: Resolvers) -> bytes:
        """Keep who named a resolver and could not be read now."""
        by, old = _WORD.unpack(value)[0], _WORD.unpack(before)[0] if before else 0
        return _WORD.pack(by | old & ~seen.certain)

    def _wanted(
        self, number: int, names: tuple[NameEntry, ...], seen: Resolvers
    ) -> Iterator[tuple[str, dict[bytes, bytes]]]:
        yield "resolvers", {self._at(number, one): _WORD.pack(by) for one, by in seen.named.items()}
        by_address = hosted(names, seen.hosts)
        ids = {one: self._ids(one, by_address[one]) for one in by_address}
        yield "hosted", {self._at(number, one): value for one, value in ids.items() if any(value)}
        asked = searched(names, seen.search)
        yield "names", {self._wire(number, one): self._asked(asked[one]) for one in asked}

    def _at(self, number: int, address: bytes) -> bytes:
        return struct.pack(self._abi.numbered_address.format, number, address)

    def _ids(self, address: bytes, names: list[NameEntry]) -> bytes:
        """Return a struct hosted. A private address is opened by `+lan` only, as by an answer."""
        inside = scope(address) is not Scope.INTERNET
        ids = [name.id for name in names if name.lan or not inside]
        room = self._abi.hosted.size // _WORD.size
        return struct.pack(f"<{room}I", *(ids + [0] * room)[:room])

    def _wire(self, number: int, pattern: Pattern) -> bytes:
        form = self._forms["NAME_WIRE_BELOW" if pattern.wildcard else "NAME_WIRE"]
        return struct.pack(self._abi.name_key.format, number, form, len(pattern.wire), pattern.wire)

    def _asked(self, entry: NameEntry) -> bytes:
        return pack(self._abi.name_rules, {"id": _NO_ID, "rule": entry.rule, "phases": entry.phases})

    def _present(self, table: str, number: int) -> Iterator[tuple[bytes, bytes]]:
        """Yield what stands in a table for a policy; of `names` what is only asked for."""
        shape = self._maps.shape(table)
        for keys, values in libbpf.batches(self._maps.fd(table), shape.key_size, shape.value_size):
            for at in range(len(keys) // shape.key_size):
                key = keys[at * shape.key_size :][: shape.key_size]
                value = values[at * shape.value_size :][: shape.value_size]
                ours = table != "names" or _WORD.unpack_from(value)[0] == _NO_ID
                if _WORD.unpack_from(key)[0] == number and ours:
                    yield key, value
