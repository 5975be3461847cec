"""The maps by which the kernel half knows who is in a target (bpf/target.bpf.h): read, and made to say else.

A target's number may stand for a set of targets; here sets are tuples of numbers, the nearest first.
"""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING, NamedTuple

from tracer.bpf import libbpf
from tracer.bpf.btf import pack

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from tracer.bpf.abi import Abi
    from tracer.bpf.maps.tables import Maps

Members = tuple[int, ...]
_WORD = (1 << 64) - 1
_PLACES = 8  # that are tried for a set, as in bpf/target.bpf.h


class PartRow(NamedTuple):
    """What a part of a path means at one node of a tree: see `struct part_rule`."""

    next: int
    always: Members
    asked: Members


class Glob(NamedTuple):
    """A part with one `*`, at one node."""

    node: int
    head: bytes
    tail: bytes


class Mark(NamedTuple):
    """`struct mark`: the targets of a process; `start_ns` 0: of whichever has this tgid."""

    members: Members
    held: bool
    start_ns: int
    held_ns: int
    reason: int


class TooManyTargetsError(Exception):
    """One thing is in more targets than the kernel half can tell apart, or all sets are in use."""


class MemberMaps:
    """Reads and writes the maps of one engine."""

    def __init__(self, maps: Maps, abi: Abi) -> None:
        self.maps = maps
        self._abi = abi
        limits = abi.enums["limits"]
        self.held_bit = limits["TARGET_HELD"]
        self._from = limits["SETS_FROM"]
        self._most = limits["SET_MEMBERS"]
        self._globs = limits["GLOBS"]

    # Sets

    def members(self, number: int) -> Members:
        """Return the targets that a number stands for."""
        number &= ~self.held_bit
        if not number:
            return ()
        if number < self._from:
            return (number,)
        value = libbpf.lookup(self.maps.fd("sets"), struct.pack("<I", number), 8)
        return tuple(one for one in struct.unpack("<4H", value) if one) if value else ()

    def number(self, members: Members) -> int:
        """Return the number that stands for these targets, a new one where it is the first time.

        Raises TooManyTargetsError; then they cannot be told apart.
        """
        if len(members) < 2:  # noqa: PLR2004 - one stands for itself
            return members[0] if members else 0
        if len(members) > self._most:
            raise TooManyTargetsError
        packed = struct.pack("<4H", *members, *bytes(self._most - len(members)))
        word = int.from_bytes(packed, "little")
        place = (word * 0x9E3779B97F4A7C15 & _WORD) >> 48  # as set_number() in bpf/target.bpf.h
        for at in range(_PLACES):
            number = self._from + (place + at & 0xFFFF)
            key = struct.pack("<I", number)
            libbpf.update(self.maps.fd("sets"), key, packed, libbpf.NOEXIST)
            if libbpf.lookup(self.maps.fd("sets"), key, 8) == packed:
                return number
        raise TooManyTargetsError

    def standing(self, members: Members) -> int:
        """Return the number that stands for these targets; where they are too many, with the bit of the held.

        As the kernel half does (`cannot_unite`): packets are dropped, since not all policies can be asked.
        """
        try:
            return self.number(members)
        except TooManyTargetsError:
            return self.standing(members[:-1]) | self.held_bit

    # What is named

    def named(self) -> dict[int, int]:
        """Return the targets that are named now, and since when (CLOCK_BOOTTIME, seconds)."""
        return {number: since for (number,), (since,) in self._rows("targets", "<I", "<I") if since}

    def name(self, wanted: Iterable[int]) -> None:
        """Say which targets are named from now on."""
        wanted, before = set(wanted), self.named().keys()
        now = max(int(time.clock_gettime(time.CLOCK_BOOTTIME)), 1)
        for number in wanted ^ before:
            value = struct.pack("<I", now if number in wanted else 0)
            libbpf.update(self.maps.fd("targets"), struct.pack("<I", number), value)

    def texts(self, table: str) -> dict[bytes, Members]:
        """Return `target_paths` or `target_names`: which targets a path, or its last part, is in."""
        size = self.maps.shape(table).key_size
        return {
            bytes(key).rstrip(b"\0"): self.members(number)
            for (key,), (number,) in self._rows(table, f"{size}s", "<I")
        }

    def crowded(self, table: str) -> set[bytes]:
        """Return the texts that stand for more targets than can be told apart."""
        size = self.maps.shape(table).key_size
        rows = self._rows(table, f"{size}s", "<I")
        return {bytes(key).rstrip(b"\0") for (key,), (number,) in rows if number & self.held_bit}

    def put_text(self, table: str, text: bytes, members: Members, *, known: bool = False) -> None:
        """Enter a path or a last part; without members it is left out, unless that is `known`.

        What is `known` is held where it is in too many targets, else TooManyTargetsError is raised.
        """
        key = self.text_key(table, text)
        if members or known:
            number = self.standing(members) if known else self.number(members)
            libbpf.update(self.maps.fd(table), key, struct.pack("<I", number))
        else:
            libbpf.delete(self.maps.fd(table), key)

    def text_key(self, table: str, text: bytes) -> bytes:
        """Return a path as the kernel half has it: its end, where it is too long."""
        size = self.maps.shape(table).key_size
        return text[-(size - 1) :].ljust(size, b"\0")

    # Trees

    def parts(self) -> dict[tuple[int, bytes], PartRow]:
        """Return the rows of all trees."""
        size = self._abi.part_key.size - 4
        return {
            (node, bytes(part).rstrip(b"\0")): PartRow(after, self.members(always), self.members(asked))
            for (node, part), (after, always, asked, _) in self._rows("parts", f"<I{size}s", "<IIII")
        }

    def put_part(self, node: int, part: bytes, row: PartRow | None) -> None:
        """Enter a row of a tree, or take it out."""
        key = pack(self._abi.part_key, {"node": node, "part": part})
        if row is None:
            libbpf.delete(self.maps.fd("parts"), key)
        else:
            libbpf.update(self.maps.fd("parts"), key, self._rule(row))

    def _rule(self, row: PartRow) -> bytes:
        return struct.pack("<IIII", row.next, self.number(row.always), self.number(row.asked), 0)

    def globs(self) -> dict[Glob, PartRow]:
        """Return the patterns of all trees, in their order."""
        found = {}
        layout, used = self._abi.part_glob, self.maps.settings.globs
        for index in range(used):
            value = libbpf.lookup(self.maps.fd("globs"), struct.pack("<I", index), layout.size) or b""
            said = dict(zip(layout.fields, struct.unpack(layout.format, value), strict=True))
            glob = Glob(said["node"], said["head"][: said["head_len"]], said["tail"][: said["tail_len"]])
            found[glob] = PartRow(
                said["rule.next"], self.members(said["rule.always"]), self.members(said["rule.asked"])
            )
        return found

    def put_globs(self, wanted: Mapping[Glob, PartRow]) -> None:
        """Enter these patterns in place of all; raises TooManyTargetsError where there is no room."""
        if len(wanted) > self._globs:
            raise TooManyTargetsError
        settings = self.maps.settings
        self.maps.settings = settings._replace(globs=max(settings.globs, len(wanted)))
        for index, (glob, row) in enumerate(wanted.items()):
            values: dict[str, int | bytes] = {
                "node": glob.node,
                "head_len": len(glob.head),
                "tail_len": len(glob.tail),
                "head": glob.head,
                "head_mask": b"\xff" * len(glob.head),
                "tail": glob.tail,
                "tail_mask": b"\xff" * len(glob.tail),
                "rule.next": row.next,
                "rule.always": self.number(row.always),
                "rule.asked": self.number(row.asked),
            }
            libbpf.update(self.maps.fd("globs"), struct.pack("<I", index), pack(self._abi.part_glob, values))
        self.maps.settings = self.maps.settings._replace(globs=len(wanted))

    # Marks

    def marks(self) -> dict[int, Mark]:
        """Return the marks of processes, by tgid."""
        return {tgid: self._mark(value) for (tgid,), value in self._rows("marks", "<I", "<IIQQ")}

    def mark(self, tgid: int) -> Mark | None:
        """Return the mark of one process, None where it has none."""
        value = libbpf.lookup(self.maps.fd("marks"), struct.pack("<I", tgid), self._abi.mark.size)
        return None if value is None else self._mark(struct.unpack("<IIQQ", value))

    def _mark(self, value: tuple[int, ...]) -> Mark:
        target, reason, start_ns, held_ns = value
        return Mark(self.members(target), bool(target & self.held_bit), start_ns, held_ns, reason)

    def put_mark(self, tgid: int, members: Members, start_ns: int = 0) -> bool:
        """Mark a process, or take its mark away; False where there is no room or was none.

        One in too many targets is held.
        """
        key = struct.pack("<I", tgid)
        if not members:
            return libbpf.delete(self.maps.fd("marks"), key)
        value = struct.pack("<IIQQ", self.standing(members), 0, start_ns, 0)
        return libbpf.update(self.maps.fd("marks"), key, value)

    def births(self) -> dict[int, int]:
        """Return who was forked by whom since births are told (settings.marking 2): parents by child."""
        return {child: parent for (child,), (parent,) in self._rows("births", "<I", "<I")}

    def forget_births(self) -> None:
        """Empty the table of births."""
        for child in self.births():
            libbpf.delete(self.maps.fd("births"), struct.pack("<I", child))

    # What was held

    def held(self) -> dict[str, int]:
        """Return how many candidates were held, ever, by reason."""
        reasons = {number: name for name, number in self._abi.enums["hold_reason"].items()}
        return {
            reasons[index].removeprefix("HOLD_").lower(): candidates
            for (index,), (candidates, _) in self._rows("held", "<I", "<QQ")
            if reasons[index] != "HOLD_NONE"
        }

    def held_times(self) -> list[int]:
        """Return how many were held for less than 2^n ms by n, and last the sum in us."""
        return [value for _, (value,) in self._rows("held_times", "<I", "<Q")]

    def count_held(self, microseconds: int) -> None:
        """Count a candidate that is decided on, and how long it was held."""
        last = self.maps.shape("held_times").max_entries - 1
        place = min((microseconds // 1000).bit_length(), last - 1)
        for index, amount in ((place, 1), (last, microseconds)):
            key = struct.pack("<I", index)
            (now,) = struct.unpack("<Q", libbpf.lookup(self.maps.fd("held_times"), key, 8) or bytes(8))
            libbpf.update(self.maps.fd("held_times"), key, struct.pack("<Q", now + amount))

    def _rows(self, name: str, key: str, value: str) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        shape = self.maps.shape(name)
        for keys, values in libbpf.batches(self.maps.fd(name), shape.key_size, shape.value_size):
            yield from zip(struct.iter_unpack(key, keys), struct.iter_unpack(value, values), strict=True)
