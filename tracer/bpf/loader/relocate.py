"""Writes the running kernel's offsets into C sources, as libbpf does when it loads a compiled object.

bpf/*.h describe the few structures of the kernel that the programs read between two pragmas, with the
fields that they need and in no particular place. Here each field gets the place that the kernel's own BTF
tells, and each `bpf_core_..._exists` its answer. A field that this kernel has not, or has in another size,
is a KernelError that names it: better no program than one that reads beside it.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from tracer.bpf.btf import Kind, Type, constants, resolve, size_of
from tracer.errors import KernelError, ObjectError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tracer.bpf.btf import Btf

_PUSH: Final = "#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)\n"
_POP: Final = "#pragma clang attribute pop\n"
_STRUCT: Final = re.compile(r"^struct (\w+) \{\n(.*?)^\};\n", re.DOTALL | re.MULTILINE)
_FIELD: Final = re.compile(r"\t.*?(\w+)(?:\[\d+\])?;")
_WITHIN: Final = re.compile(r"\tstruct \w+ \w+;")  # a structure in a structure: of ours, not all is known
_TYPE_ASKED: Final = re.compile(r"bpf_core_type_exists\(struct (\w+)\)")
_VALUE_ASKED: Final = re.compile(r"bpf_core_enum_value_exists\(enum (\w+), (\w+)\)")
_ONE_A_LINE: Final = "write it as the others are written: bpf/kernel.h"
_HINT: Final = "use the engine libbpf, or tell us of this kernel"


class _Place(NamedTuple):
    """Where a kernel has a field: offset and size in bytes."""

    offset: int
    size: int


class Kernel:
    """What a kernel says of its types (/sys/kernel/btf/vmlinux)."""

    def __init__(self, types: Btf) -> None:
        self._types = types
        self._structs = {found.name: found for found in types.types if found.kind is Kind.STRUCT}
        self._enums = {found.name: found for found in types.types if found.kind is Kind.ENUM}

    def relocated(self, sources: dict[str, str]) -> dict[str, str]:
        """Return sources with this kernel's offsets and answers; KernelError names what it lacks."""
        asked = {name for text in sources.values() for name in _TYPE_ASKED.findall(text)}
        # What is asked for and not there is read nowhere: the answer 0 takes the reading out.
        absent = asked - self._structs.keys()
        return {name: self._one(text, absent) for name, text in sources.items()}

    def _one(self, text: str, absent: set[str]) -> str:
        done, *parts = text.split(_PUSH)
        for part in parts:
            described, _, after = part.partition(_POP)
            done += _STRUCT.sub(
                lambda one: one[0] if one[1] in absent else self._struct(*one.groups()), described
            )
            done += after
        done = _TYPE_ASKED.sub(lambda one: str(int(one[1] in self._structs)), done)
        return _VALUE_ASKED.sub(lambda one: str(int(self._has_value(one[1], one[2]))), done)

    def _struct(self, name: str, body: str) -> str:
        """Give a structure with each field behind as many bytes as the kernel has in front of it."""
        lines, checks = [], []
        for line in body.splitlines():
            if (found := _FIELD.fullmatch(line)) is None:
                raise ObjectError(
                    f"struct {name} of bpf/: one field a line, not '{line.strip()}'", _ONE_A_LINE
                )
            field, place = found[1], self._place(name.partition("___")[0], found[1])
            lines.append(f"\t\tstruct {{ char _before_{field}[{place.offset}]; {line.strip()} }};\n")
            wrong = f"__builtin_offsetof(struct {name}, {field}) != {place.offset}"
            if not _WITHIN.fullmatch(line):
                wrong += f" || sizeof(((struct {name} *)0)->{field}) != {place.size}"
            checks.append(f'_Static_assert(!({wrong}), "this kernel has another {name}.{field}");\n')
        return f"struct {name} {{\n\tunion {{\n{''.join(lines)}\t}};\n}};\n{''.join(checks)}"

    def _place(self, name: str, field: str) -> _Place:
        outer = self._structs.get(name)
        place = None if outer is None else next(self._named(outer, field), None)
        if place is None:
            raise KernelError(f"this kernel has no field {name}.{field}", _HINT)
        return place

    def _named(self, outer: Type, field: str, base: int = 0) -> Iterator[_Place]:
        """Yield where `field` stands, also in members without a name of their own."""
        for name_at, number, bits in struct.iter_unpack("<III", outer.tail):
            name = self._types.string(name_at)
            offset = base + (bits & 0xFFFFFF if outer.flag else bits) // 8
            if name == field and not (outer.flag and bits >> 24):
                yield _Place(offset, size_of(self._types, number))
            elif not name:
                inner = resolve(self._types, number)[0]
                yield from self._named(inner, field, offset)

    def _has_value(self, enum: str, value: str) -> bool:
        found = self._enums.get(enum)
        return found is not None and value in dict(constants(self._types, found))
