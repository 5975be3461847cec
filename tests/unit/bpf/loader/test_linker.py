"""Programs out of what bcc compiled: calls that lead where they should, or a refusal."""

from __future__ import annotations

import struct

import pytest

from tracer.bpf import btf
from tracer.bpf.abi import elf_section
from tracer.bpf.engine import OBJECT
from tracer.bpf.loader import linker
from tracer.errors import ObjectError

EXIT = struct.pack("<BBhi", 0x95, 0, 0, 0)
NOTHING = struct.pack("<BBhi", 0xB7, 0, 0, 0)  # r0 = 0


def call(number: int) -> bytes:
    """Give a call of a function: its place in .text less one, from within .text behind the call."""
    return struct.pack("<BBhi", 0x85, 0x10, 0, number)


def jump(over: int) -> bytes:
    """Give: if r0 == 0, jump over so many."""
    return struct.pack("<BBhi", 0x15, 0, over, 0)


def wide(registers: int, low: int, high: int = 0) -> bytes:
    """Give the load of a number of 64 bits."""
    return struct.pack("<BBhi", 0x18, registers, 0, low) + struct.pack("<BBhi", 0, 0, 0, high)


def described(*names: str) -> btf.Btf:
    """Give types that hold these functions, in this order."""
    return btf.Btf(tuple(btf.Type(btf.Kind.FUNC, name, 0, flag=False, tail=b"") for name in names), b"\0")


# .text: its first function, `twice` (calls `once`, jumps over an exit), `once`.
TEXT = [NOTHING, EXIT, NOTHING, jump(1), EXIT, call(1), EXIT, NOTHING, EXIT]
TYPES = described(linker.FIRST, "main", "twice", "once")


def linked(*main: bytes, text: list[bytes] = TEXT, types: btf.Btf = TYPES) -> linker.Program:
    """Link one program."""
    (program,) = linker.link({"main": b"".join(main)}, {"main": "raw_tp"}, text.__getitem__, types)
    return program


def test_calls_lead_to_their_functions() -> None:
    """What is called stands behind the program, once, named, and what that calls behind it."""
    program = linked(call(1), call(6), EXIT)
    assert program.functions == ((3, "twice"), (8, "once"))
    code = [program.code[at : at + 8] for at in range(0, len(program.code), 8)]
    assert code[:3] == [call(2), call(6), EXIT]
    assert code[3:] == [NOTHING, jump(1), EXIT, call(1), EXIT, NOTHING, EXIT]


def test_a_program_that_calls_nothing() -> None:
    """Stays as it is."""
    assert linked(NOTHING, EXIT, types=described("main")).code == NOTHING + EXIT


@pytest.mark.parametrize("text", [TEXT, [*TEXT[:5], call(-1), *TEXT[6:]]])
def test_a_function_that_is_not_static_is_refused(text: list[bytes]) -> None:
    """Whether the program calls it or a function does: nobody has put in where it is."""
    main = call(-1) if text is TEXT else call(1)
    with pytest.raises(ObjectError, match="not static"):
        linked(main, EXIT, text=text)


@pytest.mark.parametrize(
    "types", [described("main", "twice"), described("main", "twice", "once", "third")], ids=["less", "more"]
)
def test_functions_that_do_not_fit_their_description(types: btf.Btf) -> None:
    """As many as the BTF has: else names could belong to others."""
    with pytest.raises(ObjectError, match="2 functions were compiled"):
        linked(call(1), EXIT, types=types)


def test_maps_go_by_their_number() -> None:
    """The descriptor takes the number's place; other numbers stay."""
    code = wide(0x11, 7) + wide(0x01, 7, 1) + EXIT
    assert linker.with_maps(code, {7: 33}) == wide(0x11, 33) + wide(0x01, 7, 1) + EXIT


def test_a_constant_of_the_sources_own_is_refused() -> None:
    """Its address was never put in; real numbers of 64 bits pass."""
    linker.check_no_variables(wide(0x01, -1, 0) + wide(0x01, 0, 1) + wide(0x11, 3) + EXIT)
    with pytest.raises(ObjectError, match="constant of its own"):
        linker.check_no_variables(wide(0x01, 8) + EXIT)


def test_functions_become_global() -> None:
    """Only those named, and nothing else changes."""
    raw = elf_section(OBJECT.read_bytes(), ".BTF")
    parsed = btf.parse(raw)
    static = next(one for one in parsed.types if one.kind is btf.Kind.FUNC and one.name == "judge_socket")
    changed = btf.made_global(raw, parsed, {"judge_socket"})
    assert sum(a != b for a, b in zip(raw, changed, strict=True)) == 1
    assert btf.made_global(raw, parsed, set()) == raw
    assert [one.name for one in btf.parse(changed).types if one.kind is btf.Kind.FUNC].count(static.name) == 1
