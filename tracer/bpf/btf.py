"""Reads structure layouts and enums out of a BTF section: bytes in, values out.

The format is described in Documentation/bpf/btf.rst of the kernel; the numbers below are those of
include/uapi/linux/btf.h.
"""

from __future__ import annotations

import enum
import itertools
import struct
from typing import TYPE_CHECKING, NamedTuple

from tracer.errors import AbiError, ObjectError

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping

MAGIC = 0xEB9F
_HEADER = struct.Struct("<HBBIIIII")
_TYPE = struct.Struct("<III")
_KIND_FLAG = 1 << 31
_GLOBAL = 1  # BTF_FUNC_GLOBAL of enum btf_func_linkage
# Typedefs of include/uapi/linux/types.h that say "network byte order".
_BIG_ENDIAN = frozenset({"__be16", "__be32", "__be64"})
# Far above what bpf/abi.h has: spoiled bytes can describe structures without end.
_MOST_MEMBERS = 4096
_DEEPEST = 8
_LETTERS = {1: "B", 2: "H", 4: "I", 8: "Q"}


class Kind(enum.IntEnum):
    """BTF_KIND_*: what a type is, and thereby what follows its first twelve bytes."""

    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


_ALIASES = frozenset({Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG})
_SIZED = frozenset({Kind.INT, Kind.STRUCT, Kind.UNION, Kind.ENUM, Kind.ENUM64, Kind.FLOAT})
_POINTER = 8  # bytes; BPF is a machine of 64 bits
_FIXED_TAIL = {Kind.INT: 4, Kind.ARRAY: 12, Kind.VAR: 4, Kind.DECL_TAG: 4}
_ITEM_SIZE = {
    Kind.STRUCT: 12,
    Kind.UNION: 12,
    Kind.ENUM: 8,
    Kind.FUNC_PROTO: 8,
    Kind.DATASEC: 12,
    Kind.ENUM64: 12,
}


class Type(NamedTuple):
    """One BTF type; `size` is a byte count or the id of another type, `tail` what follows."""

    kind: Kind
    name: str
    size: int
    flag: bool
    tail: bytes


class Btf(NamedTuple):
    """A parsed section: types by id (0 is void), and strings."""

    types: tuple[Type, ...]
    strings: bytes

    def string(self, offset: int) -> str:
        """Return the string at `offset` of the string table."""
        end = self.strings.find(b"\0", offset)
        return self.strings[offset:end].decode("utf-8", "replace")


class Field(NamedTuple):
    """One scalar or byte array of a flattened structure: offset and size in bytes."""

    name: str
    offset: int
    size: int
    code: str
    swapped: bool


class Layout(NamedTuple):
    """How to unpack one structure by the `struct` module.

    `size` is in bytes, `format` holds explicit byte order and padding, `fields` names what unpack
    returns in its order. Members called `reserved` are padding. `swapped` are fields in network byte
    order, which `format` reads as if they were little-endian.
    """

    name: str
    size: int
    format: str
    fields: tuple[str, ...]
    swapped: frozenset[str]
    members: tuple[Field, ...]

    def only(self, names: tuple[str, ...]) -> Layout:
        """Return the layout that unpacks just `names`, which must come in the structure's order.

        Raises AbiError naming the first field that is missing or out of order.
        """
        known = {field.name: field for field in self.members}
        chosen: list[Field] = []
        for name in names:
            field = known.get(name)
            if field is None or (chosen and field.offset < chosen[-1].offset):
                what = "has no field" if field is None else "has moved the field"
                raise AbiError(f"struct {self.name} {what} {self.name}.{name}", REBUILD)
            chosen.append(field)
        return _assemble(self.name, self.size, tuple(chosen))

    def offset(self, name: str) -> int:
        """Return the offset in bytes of field `name`; AbiError where there is none."""
        for field in self.members:
            if field.name == name:
                return field.offset
        raise AbiError(f"struct {self.name} has no field {self.name}.{name}", REBUILD)


REBUILD = "the programs are of another version than this code: build or install both together"


def parse(raw: bytes) -> Btf:
    """Parse the bytes of a .BTF section; ObjectError where they are cut short or no BTF."""
    try:
        magic, _version, _flags, header, type_off, type_len, str_off, str_len = _HEADER.unpack_from(raw)
    except struct.error:
        raise ObjectError("the type information (.BTF) is cut short", REBUILD) from None
    if magic != MAGIC:
        raise ObjectError("the type information (.BTF) is no little-endian BTF", REBUILD)
    strings = raw[header + str_off :][:str_len]
    section = raw[header + type_off :][:type_len]
    if len(strings) != str_len or len(section) != type_len:
        raise ObjectError("the type information (.BTF) is cut short", REBUILD)
    bare = Btf((), strings)
    try:
        return Btf((_VOID, *_types(section, bare)), strings)
    except (struct.error, ValueError):
        raise ObjectError("the type information (.BTF) has types unknown here", REBUILD) from None


_VOID = Type(Kind.FWD, "void", 0, flag=False, tail=b"")


def made_global(raw: bytes, parsed: Btf, names: Container[str]) -> bytes:
    """Return the section with these functions as global ones: the verifier checks them by themselves."""
    changed = bytearray(raw)
    header, start = struct.unpack_from("<4xII", raw)
    at = header + start
    for found in parsed.types[1:]:
        if found.kind is Kind.FUNC and found.name in names:
            struct.pack_into("<H", changed, at + 4, _GLOBAL)
        at += _TYPE.size + len(found.tail)
    return bytes(changed)


def _types(section: bytes, table: Btf) -> Iterator[Type]:
    at = 0
    while at < len(section):
        name, info, size = _TYPE.unpack_from(section, at)
        kind = Kind(info >> 24 & 0x1F)
        tail = _FIXED_TAIL.get(kind, 0) + _ITEM_SIZE.get(kind, 0) * (info & 0xFFFF)
        start = at + _TYPE.size
        at = start + tail
        if at > len(section):
            raise ValueError("a type without its end")
        yield Type(kind, table.string(name), size, bool(info & _KIND_FLAG), section[start:at])


def layout(btf: Btf, name: str) -> Layout:
    """Return the layout of `struct NAME`, flattened: `outer.inner` for structures, `many[0]` for arrays.

    Raises AbiError where the structure is missing or holds something that has no fixed layout.
    """
    for found in btf.types:
        if found.kind is Kind.STRUCT and found.name == name:
            try:
                members = tuple(itertools.islice(_flatten(btf, found, name), _MOST_MEMBERS))
            except (struct.error, IndexError):
                raise AbiError(f"struct {name} is spoiled", REBUILD) from None
            return _assemble(name, found.size, members)
    raise AbiError(f"the programs have no struct {name}", REBUILD)


def enums(btf: Btf) -> dict[str, dict[str, int]]:
    """Return the named enums as {enum: {constant: value}}."""
    return {found.name: dict(constants(btf, found)) for found in btf.types if found.kind is Kind.ENUM}


def constants(btf: Btf, found: Type) -> Iterator[tuple[str, int]]:
    """Yield the constants of an enum with their values."""
    # Signed whatever the kind flag says: clang before 15 never sets it.
    for name, value in struct.iter_unpack("<Ii", found.tail):
        yield btf.string(name), value


def _flatten(btf: Btf, outer: Type, where: str, prefix: str = "", base: int = 0) -> Iterator[Field]:
    if prefix.count(".") > _DEEPEST:
        raise AbiError(f"{where}.{prefix} is nested too deeply", REBUILD)
    for name_off, type_id, bits in struct.iter_unpack("<III", outer.tail):
        name = prefix + btf.string(name_off)
        if outer.flag and bits >> 24:
            raise AbiError(f"{where}.{name} is a bit field", REBUILD)
        offset = base + (bits & 0xFFFFFF if outer.flag else bits) // 8
        inner, swapped = resolve(btf, type_id)
        yield from _fields(btf, inner, where, Field(name, offset, 0, "", swapped))


def _fields(btf: Btf, found: Type, where: str, field: Field) -> Iterator[Field]:
    """Take a member apart: structures by name, arrays of anything but bytes by number."""
    if found.kind is Kind.STRUCT:
        yield from _flatten(btf, found, where, f"{field.name}.", field.offset)
        return
    if found.kind is Kind.ARRAY and not field.name.endswith("reserved"):
        element, _index, count = struct.unpack("<III", found.tail)
        inner, swapped = resolve(btf, element)
        if inner.size > 1:
            for i in range(count):
                place = Field(f"{field.name}[{i}]", field.offset + i * inner.size, 0, "", swapped)
                yield from _fields(btf, inner, where, place)
            return
    yield _scalar(btf, found, f"{where}.{field.name}", field)


def resolve(btf: Btf, type_id: int) -> tuple[Type, bool]:
    """Return the type behind typedefs and qualifiers; whether one of them says network byte order."""
    swapped = False
    found = btf.types[type_id]
    for _ in range(32):
        if found.kind not in _ALIASES:
            break
        swapped = swapped or found.name in _BIG_ENDIAN
        found = btf.types[found.size]
    return found, swapped


def size_of(btf: Btf, type_id: int) -> int:
    """Return how many bytes a value of the type takes; 0 for what has no size, such as void."""
    found = resolve(btf, type_id)[0]
    if found.kind is Kind.ARRAY:
        element, _index, count = struct.unpack("<III", found.tail)
        return int(count * size_of(btf, element))
    if found.kind is Kind.PTR:
        return _POINTER
    return found.size if found.kind in _SIZED else 0


def _scalar(btf: Btf, found: Type, where: str, field: Field) -> Field:
    if found.kind is Kind.ARRAY:
        element, _index, count = struct.unpack("<III", found.tail)
        inner = resolve(btf, element)[0]
        if inner.kind is Kind.INT and (inner.size == 1 or field.name.endswith("reserved")):
            size = inner.size * count
            return field._replace(size=size, code=f"{size}s")
    elif found.kind in {Kind.INT, Kind.ENUM} and found.size in _LETTERS:
        letter = _LETTERS[found.size]
        return field._replace(size=found.size, code=letter.lower() if _is_signed(found) else letter)
    raise AbiError(f"{where} has a type without a fixed layout", REBUILD)


def _is_signed(found: Type) -> bool:
    if found.kind is Kind.ENUM:
        return True
    return bool(struct.unpack("<I", found.tail)[0] >> 24 & 1)


def pack(shape: Layout, values: Mapping[str, int | bytes]) -> bytes:
    """Return the structure with these values, in host order; what is not given is zero.

    Raises AbiError for a value that the structure has no field for.
    """
    for name in values.keys() - set(shape.fields):
        raise AbiError(f"struct {shape.name} has no field {shape.name}.{name}", REBUILD)
    return struct.pack(
        shape.format, *(_packable(member, values.get(member.name)) for member in shape.members)
    )


def _packable(member: Field, value: int | bytes | None) -> int | bytes:
    if value is None:
        return b"" if member.code.endswith("s") else 0
    if member.swapped and isinstance(value, int):
        return int.from_bytes(value.to_bytes(member.size, "big"), "little")
    return value


def _assemble(name: str, size: int, members: tuple[Field, ...]) -> Layout:
    shown = tuple(field for field in members if field.name.rpartition(".")[2] != "reserved")
    codes, at = ["<"], 0
    for field in shown:
        codes.append(f"{field.offset - at}x" if field.offset > at else "")
        codes.append(field.code)
        at = field.offset + field.size
    codes.append(f"{size - at}x" if size > at else "")
    names = tuple(field.name for field in shown)
    swapped = frozenset(field.name for field in shown if field.swapped)
    return Layout(name, size, "".join(codes), names, swapped, shown)
