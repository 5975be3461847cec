"""The structures and numbers shared with the kernel half, bound from the object that is loaded.

No layout is written down here: bpf/abi.h is compiled into the object's BTF, and `Abi` takes from there
what the named tuples below ask for. A field that is missing or has moved is an AbiError that names it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

from tracer.bpf import btf
from tracer.errors import AbiError, ObjectError
from tracer.model.rows import CgroupRow, EventTuple, FlowRow, NoticeRow, ProcessRow, SampleTuple

if TYPE_CHECKING:
    from tracer.bpf.btf import Layout

_WORD = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, as in bpf/process.bpf.h


KEY_FIELDS: Final = FlowRow._fields[:6]
FLOW_FIELDS: Final = FlowRow._fields[6:]
_KEY_OF_PROCESS = ("start_ns", "cgroup", "tgid", "exec_id", "uid", "target", "comm")
PROCESS_FIELDS: Final = (*(f"key.{name}" for name in _KEY_OF_PROCESS), *ProcessRow._fields[8:])
_ENUMS = (
    "limits",
    "event_kind",
    "direction",
    "verdict",
    "result",
    "usage",
    "phase",
    "terms",
    "sample_kind",
    "loss_reason",
    "flow_flags",
    "socket_mode",
    "socket_flags",
    "care",
    "cgroup_flags",
    "process_flags",
    "policy_mode",
    "engine",
    "scope_bit",
    "unasked",
    "sum_address",
    "name_kinds",
    "name_form",
    "notice_kind",
    "hold_reason",
    "part_table",
)


@dataclass(frozen=True)
class Abi:
    """Layouts and enums of one object; equal objects understand each other's maps."""

    event: Layout
    sample: Layout
    flow_key: Layout
    flow: Layout
    process_key: Layout
    process: Layout
    cgroup_entry: Layout
    slot: Layout
    socket_state: Layout
    descriptor: Layout
    phase_state: Layout
    api_path_key: Layout
    handshake_key: Layout
    handshake: Layout
    settings: Layout
    policy: Layout
    rule_key: Layout
    rules: Layout
    name_key: Layout
    name_rules: Layout
    named_key: Layout
    numbered_address: Layout
    opening: Layout
    hosted: Layout
    mark: Layout
    part_key: Layout
    part_glob: Layout
    notice: Layout
    enums: dict[str, dict[str, int]]

    @classmethod
    def from_btf(cls, raw: bytes) -> Abi:
        """Bind from the bytes of a .BTF section; AbiError names what is missing."""
        types = btf.parse(raw)
        names = [field.name for field in fields(cls) if field.name != "enums"]
        found = {name: btf.layout(types, name) for name in names}
        asked = {
            "event": EventTuple._fields,
            "sample": SampleTuple._fields,
            "notice": NoticeRow._fields,
            "flow_key": KEY_FIELDS,
            "flow": FLOW_FIELDS,
            "process": PROCESS_FIELDS,
            "cgroup_entry": CgroupRow._fields[1:],
        }
        found |= {name: found[name].only(wanted) for name, wanted in asked.items()}
        return cls(**found, enums=_bind_enums(btf.enums(types)))

    @classmethod
    def from_object(cls, elf: bytes) -> Abi:
        """Bind from the bytes of a compiled object (ELF)."""
        return cls.from_btf(elf_section(elf, ".BTF"))


def _bind_enums(found: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    for name in _ENUMS:
        if name not in found:
            raise AbiError(f"the programs have no enum {name}", btf.REBUILD)
    return {name: found[name] for name in _ENUMS}  # what else there is depends on the engine


def mix(words: tuple[int, ...]) -> int:
    """Return the 64-bit mix of 64-bit words by which bpf/process.bpf.h makes process ids."""
    value = 0
    for word in words:
        value = (value ^ word) * _GOLDEN & _WORD
        value ^= value >> 32
    return value or 1


def process_id(key: bytes) -> int:
    """Return the id in `processes` of a `struct process_key` given as bytes."""
    return mix(struct.unpack(f"<{len(key) // 8}Q", key))


def elf_section(elf: bytes, wanted: str) -> bytes:
    """Return the bytes of a section of a 64-bit little-endian ELF file (elf(5)).

    Raises ObjectError where the file is something else, is cut short, or lacks the section.
    """
    mend = "build it again (make bpf) or install the package again"
    if elf[:6] != b"\x7fELF\x02\x01":
        raise ObjectError("the file with the compiled programs is no 64-bit little-endian ELF", mend)
    try:
        (table,) = struct.unpack_from("<Q", elf, 0x28)
        entry, count, names = struct.unpack_from("<HHH", elf, 0x3A)
        whole = len(elf) >= table + entry * count
        heads = [struct.unpack_from("<IIQQQQ", elf, table + entry * i) for i in range(count)]
        strings = heads[names][4]
    except (struct.error, IndexError):
        whole = False
    if not whole:
        raise ObjectError("the file with the compiled programs is cut short", mend)
    for name, _type, _flags, _address, start, size in heads:
        at = strings + name
        if elf[at : elf.find(b"\0", at)] == wanted.encode() and start + size <= len(elf):
            return elf[start : start + size]
    raise ObjectError(f"the file with the compiled programs has no section {wanted}", mend)
