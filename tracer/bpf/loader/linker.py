"""Puts programs together from what LLVM compiled in memory: bytes in, values out.

bcc hands out the instructions of each program as they lie in memory, without symbols or relocations. What
is needed is in them all the same, since everything that is called is static: a call has the place of its
function in the section .text, a map its number (bpf/bcc.h); and the functions of .text lie there in the order
in which the BTF has them. Whatever does not fit together so is an ObjectError.

An instruction has 8 bytes: code, registers, offset, immediate (Documentation/bpf/standardization).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from tracer.bpf.btf import Kind, size_of
from tracer.errors import ObjectError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tracer.bpf.btf import Btf, Type

SIZE: Final = 8  # bytes of an instruction
FIRST: Final = "text_start"  # the function at the start of .text, which nobody calls
MAP_STRUCT: Final = "map_"  # how the structures of bpf/maps.h begin that describe a map
_INSTRUCTION: Final = struct.Struct("<BBhi")
_CALL, _EXIT, _GOTO, _GOTO_FAR, _WIDE = 0x85, 0x95, 0x05, 0x06, 0x18
_JUMPS: Final = {0x05, 0x06}  # BPF_JMP, BPF_JMP32: the class of an instruction
_LOCAL: Final = 1  # BPF_PSEUDO_CALL, BPF_PSEUDO_MAP_FD: in the upper half of the registers
_MEND: Final = "the sources are of another version, or were changed: see bpf/bcc.h"


class Program(msgspec.Struct, frozen=True):
    """One program with all that it calls; `functions` are the places (in instructions) where they start."""

    name: str
    section: str
    code: bytes
    functions: tuple[tuple[int, str], ...]


class MapRow(NamedTuple):
    """A map as the sources describe it: enum bpf_map_type, types of the BTF (0: none), entries, BPF_F_*."""

    name: str
    number: int
    type: int
    key: int
    value: int
    entries: int
    flags: int


def link(
    entries: dict[str, bytes], sections: dict[str, str], text: Callable[[int], bytes], types: Btf
) -> list[Program]:
    """Return the programs `entries` with their functions; `text` gives .text an instruction at a time."""
    functions = _Text(text)
    for code in entries.values():
        functions.take(to for _at, to in _calls(code))
    names = _names(types, entries, functions)
    return [Program(name, sections[name], *_joined(code, functions, names)) for name, code in entries.items()]


class _Text:
    """The functions of .text that are called, by their place."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self.code: dict[int, bytes] = {}

    def take(self, places: Iterator[int]) -> None:
        """Take these functions, and all that they call."""
        waiting = [*places]
        while waiting:
            place = waiting.pop()
            if place not in self.code:
                self.code[place] = self._whole(place)
                waiting += [place + at + to for at, to in _calls(self.code[place])]

    def _whole(self, start: int) -> bytes:
        """Follow each way through a function: it ends behind the last instruction that is reached."""
        found: dict[int, bytes] = {}
        waiting = [0]
        while waiting:
            at = waiting.pop()
            while at not in found:
                found[at] = one = self._read(start + at)
                code, _registers, offset, far = _INSTRUCTION.unpack(one)
                if code == _WIDE:
                    found[at + 1] = self._read(start + at + 1)
                    at += 2
                elif code == _EXIT:
                    break
                elif code in {_GOTO, _GOTO_FAR}:
                    at += 1 + (offset if code == _GOTO else far)
                else:
                    if code & 7 in _JUMPS and code != _CALL:
                        waiting.append(at + 1 + offset)
                    at += 1
        if sorted(found) != [*range(len(found))]:
            raise ObjectError("a function has instructions that nothing leads to", _MEND)
        return b"".join(found[at] for at in sorted(found))


def _calls(code: bytes | bytearray) -> Iterator[tuple[int, int]]:
    """Yield where functions are called, and their place: in .text, or from within .text behind the call."""
    for at, (kind, registers, _offset, number) in enumerate(_INSTRUCTION.iter_unpack(code)):
        if kind == _CALL and registers >> 4 == _LOCAL:
            if number == -1:
                raise ObjectError("a function is called that is not static", _MEND)
            yield at, number + 1


def _names(types: Btf, entries: dict[str, bytes], functions: _Text) -> dict[int, str]:
    """Name the functions of .text: both they and the BTF stand in the order in which LLVM wrote them."""
    names = [found.name for found in types.types if found.kind is Kind.FUNC]
    names = [name for name in names if name not in entries and name != FIRST]
    places = sorted(functions.code)
    gaps = [at + len(functions.code[at]) // SIZE for at in places[:-1]] != places[1:]
    if len(names) != len(places) or gaps:
        raise ObjectError(f"{len(places)} functions were compiled, and {len(names)} are described", _MEND)
    return dict(zip(places, names, strict=True))


def _joined(
    code: bytes, functions: _Text, names: dict[int, str]
) -> tuple[bytes, tuple[tuple[int, str], ...]]:
    """Put all that a program calls behind it, and let each call lead there."""
    places: dict[int, int] = {}
    parts, length = [bytearray(code)], len(code) // SIZE
    waiting = [to for _at, to in _calls(code)]
    while waiting:
        place = waiting.pop(0)
        if place in places:
            continue
        places[place] = length
        parts.append(bytearray(functions.code[place]))
        length += len(parts[-1]) // SIZE
        waiting += [place + at + to for at, to in _calls(parts[-1])]
    starts = [(0, 0), *((at, place) for place, at in places.items())]
    for part, (start, place) in zip(parts, starts, strict=True):
        for at, to in [*_calls(part)]:
            called = place + at + to if place else to
            struct.pack_into("<i", part, at * SIZE + 4, places[called] - start - at - 1)
    return b"".join(parts), tuple((at, names[place]) for place, at in places.items())


def with_maps(code: bytes, descriptors: dict[int, int]) -> bytes:
    """Return the code with descriptors in place of the numbers of maps."""
    done = bytearray(code)
    for at, number in _wide(code, local=True):
        struct.pack_into("<i", done, at * SIZE + 4, descriptors[number])
    return bytes(done)


def check_no_variables(code: bytes) -> None:
    """Refuse what reads a variable: its address was never put in.

    A number of 64 bits is loaded by two instructions only where one of 32 would not do.
    """
    for _at, number in _wide(code, local=False):
        if -(1 << 31) <= number < 1 << 31:
            raise ObjectError("a program uses a constant of its own, which bcc does not load", _MEND)


def _wide(code: bytes, *, local: bool) -> Iterator[tuple[int, int]]:
    """Yield where numbers of 64 bits are loaded, and which: of maps (`local`) or any others."""
    found = [*_INSTRUCTION.iter_unpack(code)]
    for at, (kind, registers, _offset, low) in enumerate(found):
        if kind == _WIDE and (registers >> 4 == _LOCAL) == local:
            number = (found[at + 1][3] & 0xFFFFFFFF) << 32 | low & 0xFFFFFFFF
            yield at, number - (1 << 64) if number >> 63 else number


def maps(types: Btf) -> list[MapRow]:
    """Return the maps that the sources describe."""
    described = (found for found in types.types if found.kind is Kind.STRUCT)
    return [_map(types, found) for found in described if found.name.startswith(MAP_STRUCT)]


def sizes(types: Btf, row: MapRow) -> tuple[int, int]:
    """Return how many bytes a map's key and value take."""
    return size_of(types, row.key), size_of(types, row.value)


def _map(types: Btf, found: Type) -> MapRow:
    """Read struct map_...: numbers are lengths of arrays, types are what pointers point to."""
    behind = {
        types.string(name): types.types[kind].size
        for name, kind, _bits in struct.iter_unpack("<III", found.tail)
    }

    def number(name: str) -> int:
        return (
            size_of(types, behind[name]) // size_of(types, _element(types, behind[name]))
            if name in behind
            else 0
        )

    return MapRow(
        found.name.removeprefix(MAP_STRUCT),
        number("number"),
        number("type"),
        behind.get("key", 0),
        behind.get("value", 0),
        number("max_entries"),
        number("map_flags"),
    )


def _element(types: Btf, array: int) -> int:
    return int(struct.unpack_from("<I", types.types[array].tail)[0])
