"""Rows and maps as the kernel half would give them, for tests that need no kernel."""

# ruff: noqa: ANN401, D102 - fields of rows are of many kinds; a fake method does what the real one promises

from __future__ import annotations

from ast import literal_eval
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from tracer.model.rows import CgroupRow, EventTuple, FlowRow, ProcessRow
from tracer.model.status import MapSize

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ENUMS = {
    "event_kind": {
        f"EVENT_{name}": number
        for number, name in enumerate(("CONNECT", "ESTABLISHED", "SEND", "CLOSE", "DENY", "ACCEPT"), 1)
    },
    "direction": {"DIRECTION_OUT": 0, "DIRECTION_IN": 1},
    "verdict": {"VERDICT_ALLOWED": 0, "VERDICT_DENIED": 1, "VERDICT_WOULD_DENY": 2},
    "phase": {
        f"PHASE_{name}": number
        for number, name in enumerate(("UNKNOWN", "STARTUP", "IDLE", "INFERENCE", "PULL", "ACCOUNT"))
    },
    "result": {"RESULT_OK": 0, "RESULT_UNKNOWN": -1},
    "sample_kind": {"SAMPLE_DNS": 1, "SAMPLE_HELLO": 2, "SAMPLE_REQUEST": 3, "SAMPLE_REQUEST_END": 4},
    "flow_flags": {"FLOW_VIA_LOOPBACK": 1, "FLOW_PREEXISTING": 2, "FLOW_OVERLAP": 4},
    "unasked": {"UNASKED_SCTP": 1, "UNASKED_DCCP": 2},
    "scope_bit": {
        f"SCOPE_{name}": 1 << number
        for number, name in enumerate(("LOOPBACK", "LAN", "MULTICAST", "INTERNET", "DNS"))
    },
    "sum_address": {"SUM_PREFIX": 0x0100},
    "process_flags": {"PROCESS_READY": 1, "PROCESS_EXE_CUT": 2, "PROCESS_EXE_UNKNOWN": 4},
}


def packed(text: str) -> bytes:
    """Give an address as the kernel half stores it: 16 bytes, IPv4 as IPv4-mapped."""
    address = ip_address(text)
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


def flow(remote: str = "203.0.113.7", **changes: Any) -> FlowRow:
    """Give a flow of process 1 to port 443 by TCP, with nothing counted."""
    row = FlowRow(1, packed(remote), 443, 6, 0, 0, *([0] * 10), first_ns=10**9, last_ns=2 * 10**9, flags=0)
    return row._replace(**changes)


def event(**changes: Any) -> EventTuple:
    """Give a connect to 203.0.113.7:443 of process 1."""
    row = EventTuple(
        10**9, 1, 77, 0, 0, 0, 0, 0, bytes(16), packed("203.0.113.7"), 0, 443, -1, 1, 6, 0, 0, 0, 0, 0, 0
    )
    return row._replace(**changes)


def process(number: int = 1, comm: bytes = b"curl", **changes: Any) -> ProcessRow:
    """Give a process in cgroup 5."""
    row = ProcessRow(number, 10**9, 5, 4242, 1, 1000, 0, comm, 4000, 1, b"bash", b"", b"curl\0bin\0usr\0")
    return row._replace(**changes)


class FakeMaps:
    """Maps as plain lists; counts what is asked and deleted."""

    def __init__(
        self,
        flows: Iterable[FlowRow] = (),
        processes: Iterable[ProcessRow] = (process(),),
        cgroups: Iterable[CgroupRow] = (CgroupRow(5, 0, 0, 0, 0, b"/system.slice/demo.service"),),
        flows_max: int = 100,
    ) -> None:
        self.rows = list(flows)
        self.table = {row.id: row for row in processes}
        self.groups = {row.id: row for row in cgroups}
        self.paths: dict[bytes, int] = {}
        self.knocks: list[FlowRow] = []
        self.share_ported = 0.0
        self.flows_max = flows_max
        self.unplaced: dict[str, int] = {}
        self.number = 1
        self.lost = {"ring_full": 0, "flows_full": 0}

    def flush(self) -> None:
        """Do nothing: what is here is current."""

    def flows(self) -> list[FlowRow]:
        return list(self.rows)

    def raw_flows(self) -> Iterator[tuple[bytes, bytes]]:
        yield from ((self.key_of(row), repr(row[6:]).encode()) for row in (*self.rows, *self.overflow()))

    def key_of(self, row: FlowRow) -> bytes:
        return repr(row[:6]).encode()

    def flow(self, key: bytes, value: bytes) -> FlowRow:
        return FlowRow(*literal_eval(key.decode()), *literal_eval(value.decode()))

    def table_id(self) -> int:
        return self.number

    def overflow(self) -> tuple[FlowRow, FlowRow]:
        empty = flow("::", process=0, proto=0, remote_port=0)
        return empty._replace(**self.unplaced), empty._replace(direction=1)

    def delete_flows(self, gone: Iterable[FlowRow]) -> int:
        keys = {row[:5] for row in gone}
        before = len(self.rows)
        self.rows = [row for row in self.rows if row[:5] not in keys]
        return before - len(self.rows)

    def ported(self) -> float:
        return self.share_ported

    def take_handshakes(self, before_ns: int) -> list[FlowRow]:
        taken = [row for row in self.knocks if row.first_ns < before_ns]
        self.knocks = [row for row in self.knocks if row.first_ns >= before_ns]
        return taken

    def process(self, number: int) -> ProcessRow | None:
        return self.table.get(number)

    def processes(self) -> list[ProcessRow]:
        return list(self.table.values())

    def delete_processes(self, gone: Iterable[int]) -> int:
        return sum(self.table.pop(number, None) is not None for number in list(gone))

    def cgroup(self, number: int) -> CgroupRow | None:
        return self.groups.get(number)

    def cgroups(self) -> list[CgroupRow]:
        return list(self.groups.values())

    def target_paths(self) -> dict[bytes, int]:
        return dict(self.paths)

    def set_target(self, cgroup: int | bytes, target: int) -> bool:
        if isinstance(cgroup, bytes):
            self.paths[cgroup] = target
            if not target:
                del self.paths[cgroup]
            return True
        self.groups[cgroup] = self.groups[cgroup]._replace(target=target)
        return True

    def losses(self) -> dict[str, int]:
        return dict(self.lost)

    def sizes(self) -> list[MapSize]:
        return [
            MapSize("flows", len(self.rows), self.flows_max, len(self.rows) >= self.flows_max),
            MapSize("processes", len(self.table), 100, full=False),
            MapSize("handshakes", len(self.knocks), 100, full=False),
        ]
