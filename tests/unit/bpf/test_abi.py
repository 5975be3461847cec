"""Binding to the compiled object, and refusing one that is cut short or of another version."""

from __future__ import annotations

import struct

import pytest

from tracer.bpf.abi import Abi, elf_section, mix, process_id
from tracer.bpf.engine import OBJECT
from tracer.errors import AbiError, ObjectError
from tracer.model.rows import EventTuple, FlowRow

WHOLE = OBJECT.read_bytes()


def test_own_object_binds() -> None:
    """The object of this tree has what the tuples ask for, in their order."""
    abi = Abi.from_object(WHOLE)
    assert abi.event.fields == EventTuple._fields
    assert abi.flow_key.fields + abi.flow.fields == FlowRow._fields
    assert struct.calcsize(abi.event.format) == abi.event.size
    assert abi == Abi.from_object(WHOLE)


def test_the_object_has_no_constants_of_its_own() -> None:
    """5.10 loads no object that has them, and bcc knows none; a compiler makes them of initializers, too."""
    with pytest.raises(ObjectError, match="no section"):
        elf_section(WHOLE, ".rodata")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"duration_ns", b"duration_ms", r"event\.duration_ns"),
        (b"parent_comm", b"parent_name", r"process\.parent_comm"),
        (b"loss_reason", b"lost_reason", "enum loss_reason"),
        (b"socket_state", b"socket_stale", "struct socket_state"),
    ],
)
def test_another_version_is_named(old: bytes, new: bytes, words: str) -> None:
    """A renamed field, enum or structure is refused with its name."""
    with pytest.raises(AbiError, match=words):
        Abi.from_object(WHOLE.replace(b"\0" + old + b"\0", b"\0" + new + b"\0"))


@pytest.mark.parametrize("size", [0, 3, 40, 1000, len(WHOLE) // 2, len(WHOLE) - 1])
def test_cut_object(size: int) -> None:
    """A file that ends too early is told as such, wherever it ends."""
    with pytest.raises(ObjectError, match=r"cut short|no 64-bit"):
        Abi.from_object(WHOLE[:size])


def test_section_that_is_not_there() -> None:
    """A section that the object lacks is named."""
    with pytest.raises(ObjectError, match=r"\.nothing"):
        elf_section(WHOLE, ".nothing")


def test_mix_is_never_zero() -> None:
    """Process 0 means "not known": no key may be mixed to it. One value pins the arithmetic."""
    assert process_id(bytes(48)) == 1
    assert mix((1,)) == 0x9E3779B97F4A7C15 ^ 0x9E3779B9
