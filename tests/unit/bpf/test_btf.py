"""The BTF reader: layouts from bytes that clang never made, and broken bytes of all kinds."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracer.bpf import btf
from tracer.errors import AbiError, ObjectError, TattleError


class Writer:
    """Writes a BTF section (Documentation/bpf/btf.rst) type by type; each call returns the type's id."""

    def __init__(self) -> None:
        self.strings, self.types, self.count = b"\0", b"", 0

    def text(self, name: str) -> int:
        """Add a string and return its offset."""
        self.strings += name.encode() + b"\0"
        return len(self.strings) - len(name) - 1

    def type(self, kind: btf.Kind, name: str, size: int, tail: bytes = b"", vlen: int = 0) -> int:
        """Add a type; `size` is its size or the type that it is about."""
        self.types += struct.pack("<III", self.text(name) if name else 0, kind << 24 | vlen, size) + tail
        self.count += 1
        return self.count

    def integer(self, name: str, size: int, *, signed: bool = False) -> int:
        """Add an integer type."""
        return self.type(btf.Kind.INT, name, size, struct.pack("<I", signed << 24 | size * 8))

    def array(self, element: int, count: int) -> int:
        """Add an array type."""
        return self.type(btf.Kind.ARRAY, "", 0, struct.pack("<III", element, element, count))

    def structure(self, name: str, size: int, *members: tuple[str, int, int]) -> int:
        """Add a structure with members of (name, type, offset in bytes)."""
        tail = b"".join(struct.pack("<III", self.text(n), kind, at * 8) for n, kind, at in members)
        return self.type(btf.Kind.STRUCT, name, size, tail, len(members))

    def section(self) -> bytes:
        """Return the bytes of the section."""
        sizes = (0, len(self.types), len(self.types), len(self.strings))
        return struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, *sizes) + self.types + self.strings


def example() -> Writer:
    """Write a structure with padding, a nested structure, a port in network order and a byte array."""
    out = Writer()
    u8, u16, u64 = out.integer("unsigned char", 1), out.integer("unsigned short", 2), out.integer("long", 8)
    s32 = out.integer("int", 4, signed=True)
    port = out.type(btf.Kind.TYPEDEF, "__be16", out.type(btf.Kind.TYPEDEF, "__u16", u16))
    inner = out.structure("inner", 16, ("id", u64, 0), ("port", port, 8), ("reserved", out.array(u16, 3), 10))
    name = out.array(out.type(btf.Kind.CONST, "", u8), 6)
    out.structure("outer", 32, ("flag", u8, 0), ("key", inner, 8), ("name", name, 24))
    out.structure("plain", 8, ("first", s32, 0), ("second", u16, 4))
    out.structure("odd", 8, ("where", out.type(btf.Kind.PTR, "", u8), 0))
    constants = struct.pack("<IiIi", out.text("GOOD"), 1, out.text("BAD"), -1)
    out.type(btf.Kind.ENUM, "mood", 4, constants, 2)
    return out


def test_layout_is_flat_and_padded() -> None:
    """Nested fields get dotted names, gaps and reserved members become padding, sizes agree."""
    layout = btf.layout(btf.parse(example().section()), "outer")
    assert layout.fields == ("flag", "key.id", "key.port", "name")
    assert layout.format == "<B7xQH6x6s2x"
    assert struct.calcsize(layout.format) == layout.size == 32
    assert layout.swapped == {"key.port"}


def test_signs_and_enums() -> None:
    """Signed integers stay signed, and constants below zero keep their sign."""
    types = btf.parse(example().section())
    assert btf.layout(types, "plain").format == "<iH2x"
    assert btf.enums(types) == {"mood": {"GOOD": 1, "BAD": -1}}


def test_only_what_is_asked_for() -> None:
    """A layout can be narrowed: what is new in the structure is passed over."""
    layout = btf.layout(btf.parse(example().section()), "outer").only(("key.id", "name"))
    assert layout.format == "<8xQ8x6s2x"


@pytest.mark.parametrize(
    ("names", "words"),
    [(("flag", "verdict"), "no field outer.verdict"), (("name", "flag"), "moved the field outer.flag")],
)
def test_a_changed_field_is_named(names: tuple[str, ...], words: str) -> None:
    """What is missing or has moved is said as struct.field."""
    with pytest.raises(AbiError, match=words):
        btf.layout(btf.parse(example().section()), "outer").only(names)


@pytest.mark.parametrize(("name", "words"), [("odd", "odd.where"), ("absent", "no struct absent")])
def test_what_has_no_layout(name: str, words: str) -> None:
    """Pointers have no place in a shared structure, and neither has a structure that is not there."""
    with pytest.raises(AbiError, match=words):
        btf.layout(btf.parse(example().section()), name)


def test_pack_swaps_and_fills() -> None:
    """Packing takes host order, writes network order where the type says so, and zero elsewhere."""
    layout = btf.layout(btf.parse(example().section()), "outer")
    packed = btf.pack(layout, {"key.port": 443, "name": b"tattle"})
    assert packed == bytes(16) + b"\x01\xbb" + bytes(6) + b"tattle" + bytes(2)
    with pytest.raises(AbiError, match=r"outer\.nothing"):
        btf.pack(layout, {"nothing": 1})


@settings(deadline=None)
@given(st.integers(0, 1 << 12), st.binary(max_size=8))
def test_cut_and_spoiled_sections(at: int, noise: bytes) -> None:
    """Whatever is cut off or overwritten ends in a value or in an error with a name, never in another."""
    whole = example().section()
    at %= len(whole)
    for raw in (whole[:at], whole[:at] + noise + whole[at + len(noise) :]):
        with contextlib.suppress(TattleError):
            types = btf.parse(raw)
            for found in types.types:
                if found.kind is btf.Kind.STRUCT:
                    btf.layout(types, found.name)
            btf.enums(types)


def test_big_endian_is_refused() -> None:
    """Bytes of the other order are told apart from broken ones."""
    with pytest.raises(ObjectError, match="little-endian"):
        btf.parse(b"\xeb\x9f" + bytes(22))
