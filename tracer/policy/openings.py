"""The addresses that answers of DNS have opened for targets, as the kernel has them."""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from tracer.bpf import libbpf

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tracer.bpf.abi import Abi
    from tracer.bpf.maps.tables import Maps

EXPIRED_S: Final = 3600
"""How long a closed address is remembered, so that a denial can be explained by it."""
_WORDS: Final = 4  # of one name in a struct opening, bpf/abi.h


class Opening(NamedTuple):
    """An address that a target was given for a name; `until` and `told` are seconds of CLOCK_BOOTTIME."""

    target: int
    address: bytes
    name: int
    """The `id` of a NameEntry."""
    until: int
    told: int
    """When the last answer came."""
    connections: int
    """How many are open that came by it; it stays open as long as one is."""

    def is_open(self, now: int) -> bool:
        """Say whether a new connection may use it."""
        return self.until > now or self.connections > 0


class Openings:
    """The map `openings`. The kernel writes it; here it is read, and old entries are deleted."""

    def __init__(self, maps: Maps, abi: Abi) -> None:
        self._fd = maps.fd("openings")
        self._shape = maps.shape("openings")
        self._abi = abi

    def __iter__(self) -> Iterator[Opening]:
        """Yield each name of each address."""
        for keys, values in libbpf.batches(self._fd, self._shape.key_size, self._shape.value_size):
            addresses = struct.iter_unpack(self._abi.numbered_address.format, keys)
            words = struct.iter_unpack(self._abi.opening.format, values)
            for (target, address), by in zip(addresses, words, strict=True):
                for at in range(0, len(by), _WORDS):
                    if by[at]:
                        yield Opening(target, address, *by[at : at + _WORDS])

    def names(self, target: int) -> dict[bytes, set[int]]:
        """Return the addresses, 16 bytes each, that are open for a target now, with the names' numbers."""
        now = seconds_now()
        found: dict[bytes, set[int]] = {}
        for one in self:
            if one.target == target and one.is_open(now):
                found.setdefault(one.address, set()).add(one.name)
        return found

    def expired(self, target: int) -> dict[bytes, int]:
        """Return the addresses that are closed again, each with the age of the last answer with it, in s."""
        now = seconds_now()
        mine = [one for one in self if one.target == target]
        still_open = {one.address for one in mine if one.is_open(now)}
        told: dict[bytes, int] = {}
        for one in mine:
            told[one.address] = max(one.told, told.get(one.address, 0))
        return {address: now - last for address, last in told.items() if address not in still_open}

    def tidy(self) -> int:
        """Delete addresses whose time was over EXPIRED_S ago, or is over where the map is half full.

        Returns how many.
        """
        now = seconds_now()
        ends: dict[tuple[int, bytes], int] = {}
        for one in self:
            end = now if one.connections else one.until
            ends[one.target, one.address] = max(end, ends.get((one.target, one.address), 0))
        kept_s = EXPIRED_S if len(ends) < self._shape.max_entries // 2 else 0
        old = [key for key, end in ends.items() if end + kept_s < now]
        for target, address in old:
            libbpf.delete(self._fd, struct.pack(self._abi.numbered_address.format, target, address))
        return len(old)


def seconds_now() -> int:
    """Return the time by which the kernel half opens and closes."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME))
