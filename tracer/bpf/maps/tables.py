"""The kernel's counters, read where they are: `flows` is the one source of truth, nothing is kept here."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from tracer.bpf import libbpf
from tracer.bpf.abi import KEY_FIELDS, process_id
from tracer.errors import KernelError
from tracer.host import syscalls
from tracer.model.rows import CgroupRow, FlowRow, ProcessRow
from tracer.model.status import MapSize

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from tracer.bpf.abi import Abi
    from tracer.bpf.libbpf import MapShape

_TRAFFIC: Final = ("bytes_out", "bytes_in", "packets_out", "packets_in", "payload_out")
COUNTED: Final = (
    "flows",
    "processes",
    "cgroups",
    "target_paths",
    "target_names",
    "marks",
    "sets",
    "parts",
    "handshakes",
    "policies",
    "names",
    "openings",
)
_FILLING_TRIES = 1000  # of one system call each: a process record is filled in within microseconds


class Settings(NamedTuple):
    """`struct settings`: see bpf/abi.h; `generation` grows with each change of a policy."""

    loopback: int
    targets: int
    wake_bytes: int
    generation: int
    ported_max: int
    engine: int
    marking: int
    globs: int
    hold: int
    policed: int


class Maps:
    """The maps of one engine, by their descriptors (which stay the engine's)."""

    def __init__(
        self, abi: Abi, fds: Mapping[str, int], flush_program: int | None, flush_lock: Path | None = None
    ) -> None:
        self._abi = abi
        self._fds = fds
        self._flush_program = flush_program
        self._flush_lock = flush_lock
        self._shapes = {name: libbpf.map_info(fd).shape for name, fd in fds.items()}
        self._ready = abi.enums["process_flags"]["PROCESS_READY"]

    @property
    def events_fd(self) -> int:
        """The descriptor of the ring buffer."""
        return self._fds["events"]

    def flush(self) -> None:
        """Fold the counters of all live sockets into `flows`; one process of an instance at a time."""
        if self._flush_program is None:
            return
        with contextlib.ExitStack() as stack:
            if self._flush_lock is not None:
                held = stack.enter_context(self._flush_lock.open("ab"))
                fcntl.flock(held, fcntl.LOCK_EX)
            self._for_slots(self._flush_program)

    def fill_free_slots(self, program: int) -> None:
        """Make all slots but 0, which means none, free: by the program `fill`, when the maps are new."""
        self._for_slots(program)

    def _for_slots(self, program: int) -> None:
        step = self._abi.enums["limits"]["FLUSH_SLOTS"]
        for first in range(0, self._shapes["slots"].max_entries, step):
            libbpf.run_raw(program, struct.pack("<QQ", first, 0))

    def take_slot(self) -> int:
        """Return a free slot, 0 where there is none: its socket counts without."""
        return libbpf.pop_queue(self._fds["free_slots"]) or 0

    def give_slot(self, slot: int) -> None:
        """Give back a slot that was taken and not used."""
        libbpf.push_queue(self._fds["free_slots"], slot)

    def set_slot(self, slot: int, value: bytes) -> None:
        """Write a `struct slot`."""
        libbpf.update(self._fds["slots"], struct.pack("<I", slot), value)

    def flows(self) -> list[FlowRow]:
        """Return all flows, as of the last fold of each (see `flush`), in no order."""
        rows: list[FlowRow] = []
        make = FlowRow._make
        for keys, values in self._batches("flows"):
            left = struct.iter_unpack(self._abi.flow_key.format, _ports_to_host(self._abi, keys))
            right = struct.iter_unpack(self._abi.flow.format, values)
            rows += [make(key + value) for key, value in zip(left, right, strict=True)]
        return rows

    def raw_flows(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield key and value of every flow, then of `overflow`, in bytes: cheap to compare; see `flow`."""
        key_size, value_size = self._abi.flow_key.size, self._abi.flow.size
        for keys, values in self._batches("flows"):
            yield from zip(_cut(keys, key_size), _cut(values, value_size), strict=True)
        for direction in (0, 1):
            yield self.key_of(self._overflow(direction)), self._at("overflow", direction)

    def flow(self, key: bytes, value: bytes) -> FlowRow:
        """Return what bytes of `raw_flows` say."""
        left = struct.unpack(self._abi.flow_key.format, _ports_to_host(self._abi, key))
        return FlowRow(*left, *struct.unpack(self._abi.flow.format, value))

    def table_id(self) -> int:
        """Return the kernel's number of the table of flows: another table has other counters."""
        return libbpf.map_info(self._fds["flows"]).id

    def overflow(self) -> tuple[FlowRow, FlowRow]:
        """Return what found no room in `flows`, out and in: rows of no process and no address."""
        out, into = (self._overflow(direction) for direction in (0, 1))
        return out, into

    def _overflow(self, direction: int) -> FlowRow:
        value = self._at("overflow", direction)
        return FlowRow(0, bytes(16), 0, 0, direction, 0, *struct.unpack(self._abi.flow.format, value))

    def delete_flows(self, gone: Iterable[FlowRow]) -> int:
        """Delete flows by the keys of these rows; returns how many were there."""
        inward = self._abi.enums["direction"]["DIRECTION_IN"]
        deleted = [row for row in gone if libbpf.delete(self._fds["flows"], self.key_of(row))]
        self._count_gone(sum(1 for row in deleted if row.direction == inward and row.remote_port))
        return len(deleted)

    def take_handshakes(self, before_ns: int) -> list[FlowRow]:
        """Delete handshakes that were not completed, begun before `before_ns`; return them as flows.

        They are port scans and clients that gave up (`struct handshake`): direction in, TCP, no port.
        """
        taken: list[FlowRow] = []
        inward, names = self._abi.enums["direction"]["DIRECTION_IN"], self._abi.handshake.fields
        for keys, values in self._batches("handshakes"):
            lines = struct.iter_unpack(self._abi.handshake.format, values)
            for key, line in zip(_cut(keys, self._abi.handshake_key.size), lines, strict=True):
                was = dict(zip(names, line, strict=True))
                if was["seen_ns"] < before_ns and libbpf.delete(self._fds["handshakes"], key):
                    at = self._abi.handshake_key.offset("remote")
                    row = FlowRow(
                        was["process"], key[at : at + 16], 0, socket.IPPROTO_TCP, inward, 0, *[0] * 13
                    )
                    counted = {name: was[f"fresh.{name}"] for name in _TRAFFIC}
                    taken.append(row._replace(first_ns=was["seen_ns"], last_ns=was["seen_ns"], **counted))
        return taken

    def key_of(self, row: FlowRow) -> bytes:
        """Return a flow's key as the kernel has it."""
        key = struct.pack(self._abi.flow_key.format, *row[: len(KEY_FIELDS)])
        return bytes(_ports_to_host(self._abi, key))

    def ported(self) -> float:
        """Return how full the share of accepted flows with a port of their own is, 0 to 1 (`enum usage`)."""
        index = self._abi.enums["usage"]
        made, gone = (
            struct.unpack("<Q", self._at("usage", index[name]))[0]
            for name in ("USAGE_PORTED_MADE", "USAGE_PORTED_GONE")
        )
        return float((made - gone) / max(self.settings.ported_max, 1))

    def _count_gone(self, count: int) -> None:
        """Make room for as many accepted flows that keep the port of their peer (`enum usage`)."""
        index = self._abi.enums["usage"]["USAGE_PORTED_GONE"]
        (gone,) = struct.unpack("<Q", self._at("usage", index))
        libbpf.update(self._fds["usage"], struct.pack("<I", index), struct.pack("<Q", gone + count))

    def streams_denied(self) -> int:
        """Return how many connections were denied after they had begun (`enum usage`)."""
        index = self._abi.enums["usage"]["USAGE_STREAMS_DENIED"]
        return int.from_bytes(self._at("usage", index), "little")

    def process(self, number: int) -> ProcessRow | None:
        """Return the process with this id; None where there is none, or it never gets filled in."""
        for _ in range(_FILLING_TRIES):
            value = self._lookup("processes", struct.pack("<Q", number))
            if value is None:
                return None
            row = self._process_row(number, value)
            if row.flags & self._ready and process_id(value[: self._abi.process_key.size]) == number:
                return row
        return None

    def processes(self) -> list[ProcessRow]:
        """Return all processes that are filled in."""
        size = self._shapes["processes"].value_size
        found = []
        for keys, values in self._batches("processes"):
            for number, value in zip(struct.iter_unpack("<Q", keys), _cut(values, size), strict=True):
                found.append(self._process_row(number[0], value))
        return [row for row in found if row.flags & self._ready]

    def _process_row(self, number: int, value: bytes) -> ProcessRow:
        row = ProcessRow(number, *struct.unpack(self._abi.process.format, value))
        return row._replace(comm=_text(row.comm), parent_comm=_text(row.parent_comm))

    def delete_processes(self, gone: Iterable[int]) -> int:
        """Delete processes by their ids; returns how many were there."""
        keys = (struct.pack("<Q", number) for number in gone)
        return sum(libbpf.delete(self._fds["processes"], key) for key in keys)

    def cgroup(self, number: int) -> CgroupRow | None:
        """Return the cgroup with this id, None where it is not known."""
        value = self._lookup("cgroups", struct.pack("<Q", number))
        return None if value is None else self._cgroup_row(number, value)

    def cgroups(self) -> list[CgroupRow]:
        """Return all cgroups that exist or are still used by a socket."""
        size = self._shapes["cgroups"].value_size
        return [
            self._cgroup_row(number[0], value)
            for keys, values in self._batches("cgroups")
            for number, value in zip(struct.iter_unpack("<Q", keys), _cut(values, size), strict=True)
        ]

    def _cgroup_row(self, number: int, value: bytes) -> CgroupRow:
        row = CgroupRow(number, *struct.unpack(self._abi.cgroup_entry.format, value))
        return row._replace(path=_text(row.path))

    def add_cgroup(self, number: int, path: bytes, target: int = 0) -> bool:
        """Insert a cgroup that the kernel half has not met; False where it has.

        Raises KernelError (E2BIG) where the map is full.
        """
        cut = path[-(self._path_length - 1) :]
        flags = self._abi.enums["cgroup_flags"]["CGROUP_PATH_CUT"] if cut != path else 0
        record = struct.pack(self._abi.cgroup_entry.format, target, flags, 0, 0, cut)
        return libbpf.update(self._fds["cgroups"], struct.pack("<Q", number), record, libbpf.NOEXIST)

    def set_target(self, cgroup: int | bytes, target: int) -> bool:
        """Put a cgroup into a target (0: into none), by id, or by path for when it is made.

        False where the id is not known. Sockets and processes met before keep their target.
        """
        if isinstance(cgroup, bytes):
            return self._set_target_path(cgroup, target)
        value = self._lookup("cgroups", struct.pack("<Q", cgroup))
        if value is None:
            return False
        self._announce_targets(target)
        record = struct.pack("<I", target) + value[4:]
        return libbpf.update(self._fds["cgroups"], struct.pack("<Q", cgroup), record, libbpf.EXIST)

    def set_place(self, cgroup: int, target: int, node: int) -> bool:
        """Say which targets a cgroup is in, by the number for them, and its node; False: it is not known."""
        value = self._lookup("cgroups", struct.pack("<Q", cgroup))
        if value is None:
            return False
        row = self._cgroup_row(cgroup, value)
        layout = self._abi.cgroup_entry
        record = struct.pack(layout.format, target, row.flags, row.held_ns, node, row.path)
        return libbpf.update(self._fds["cgroups"], struct.pack("<Q", cgroup), record, libbpf.EXIST)

    def _set_target_path(self, path: bytes, target: int) -> bool:
        key = path.ljust(self._shapes["target_paths"].key_size, b"\0")
        self._announce_targets(target)
        if target:
            return libbpf.update(self._fds["target_paths"], key, struct.pack("<I", target))
        return libbpf.delete(self._fds["target_paths"], key)

    def target_paths(self) -> dict[bytes, int]:
        """Return which paths the kernel half is told to look out for, with the target of each."""
        return {
            _text(path): struct.unpack("<I", number)[0]
            for keys, values in self._batches("target_paths")
            for path, number in zip(
                _cut(keys, self._shapes["target_paths"].key_size), _cut(values, 4), strict=True
            )
        }

    def enforcing(self) -> bool:
        """Say whether any target has a policy."""
        return any(keys for keys, _ in self._batches("policies"))

    def _announce_targets(self, target: int) -> None:
        """Without this the kernel half looks no cgroup up: it asks whether there is any target at all."""
        now = self.settings
        if target > now.targets:
            self.settings = now._replace(targets=target)

    def losses(self) -> dict[str, int]:
        """Return how much was lost, by reason."""
        reasons = self._abi.enums["loss_reason"]
        counts: dict[int, int] = {}
        for keys, values in libbpf.batches(self._fds["losses"], 4, 8, count=reasons["LOSS_REASONS"] + 1):
            indices = struct.unpack(f"<{len(keys) // 4}I", keys)
            counts |= zip(indices, struct.unpack(f"<{len(values) // 8}Q", values), strict=True)
        return {
            name.removeprefix("LOSS_").lower(): counts[index]
            for name, index in reasons.items()
            if name != "LOSS_REASONS"
        }

    def add_loss(self, reason: str) -> None:
        """Count a loss of the user half's own; not atomic, hence only for the time of the start."""
        index = self._abi.enums["loss_reason"][f"LOSS_{reason.upper()}"]
        (count,) = struct.unpack("<Q", self._at("losses", index))
        libbpf.update(self._fds["losses"], struct.pack("<I", index), struct.pack("<Q", count + 1))

    def sizes(self) -> list[MapSize]:
        """Return how full each map is that can be full."""
        return [self._size(name) for name in COUNTED if name in self._fds]

    def _size(self, name: str) -> MapSize:
        shape = self._shapes[name]
        entries = sum(len(keys) // shape.key_size for keys, _ in self._batches(name))
        return MapSize(name, entries, shape.max_entries, entries >= shape.max_entries)

    def renew_verdicts(self) -> bool:
        """Have all sockets judged anew, once no program can still be judging by what was replaced.

        False where the kernel could not tell when that was. Waiting also keeps the next write from reusing an
        element that is being read: a hash map gives the one that was replaced to the very next update
        (kernel/bpf/hashtab.c).
        """
        waited = syscalls.wait_for_readers()
        now = self.settings
        self.settings = now._replace(generation=now.generation % 0xFFFFFFFF + 1)
        return waited

    @property
    def settings(self) -> Settings:
        """What the kernel half is told to do."""
        layout = self._abi.settings.only(Settings._fields)
        return Settings(*struct.unpack(layout.format, self._at("settings", 0)))

    @settings.setter
    def settings(self, wanted: Settings) -> None:
        layout = self._abi.settings.only(Settings._fields)
        libbpf.update(self._fds["settings"], struct.pack("<I", 0), struct.pack(layout.format, *wanted))

    def fd(self, name: str) -> int:
        """Return the descriptor of a map, which stays the engine's."""
        return self._fds[name]

    def shape(self, name: str) -> MapShape:
        """Return the type and sizes of a map."""
        return self._shapes[name]

    def socket(self, fd: int) -> bytes | None:
        """Return the `struct socket_state` of the socket `fd`, None where it has none."""
        return self._lookup("sockets", struct.pack("<i", fd))

    def add_socket(self, fd: int, state: bytes) -> bool:
        """Give the socket `fd` its state; False where it has one."""
        return libbpf.update(self._fds["sockets"], struct.pack("<i", fd), state, libbpf.NOEXIST)

    def _lookup(self, name: str, key: bytes) -> bytes | None:
        return libbpf.lookup(self._fds[name], key, self._shapes[name].value_size)

    def _at(self, name: str, index: int) -> bytes:
        value = self._lookup(name, struct.pack("<I", index))
        if value is None:
            raise KernelError(f"map {name} has no element {index}", "restart the daemon")
        return value

    def _batches(self, name: str) -> Iterator[tuple[bytes, bytes]]:
        shape = self._shapes[name]
        return libbpf.batches(self._fds[name], shape.key_size, shape.value_size)

    @property
    def _path_length(self) -> int:
        return self._shapes["target_paths"].key_size


def _ports_to_host(abi: Abi, keys: bytes) -> bytearray:
    """Swap the remote port of every key in place: two slices instead of a call a row."""
    swapped = bytearray(keys)
    high, size = abi.flow_key.offset("remote_port"), abi.flow_key.size
    swapped[high::size], swapped[high + 1 :: size] = keys[high + 1 :: size], keys[high::size]
    return swapped


def _cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def _text(field: bytes) -> bytes:
    return field.split(b"\0", 1)[0]
