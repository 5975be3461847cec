"""Rows and records as the kernel half writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tracer.model.process import ProcessInfo
    from tracer.model.scope import Scope


class EventTuple(NamedTuple):
    """`struct event`: times are CLOCK_BOOTTIME ns, ports in host order, bytes those of IP packets."""

    time_ns: int
    process: int
    socket: int
    bytes_out: int
    bytes_in: int
    packets_out: int
    packets_in: int
    duration_ns: int
    local: bytes
    remote: bytes
    local_port: int
    remote_port: int
    result: int
    kind: int
    proto: int
    direction: int
    verdict: int
    flags: int
    phase: int
    rule: int
    target: int


class SampleTuple(NamedTuple):
    """`struct sample`: time is CLOCK_BOOTTIME ns, ports in host order; `length` bytes follow it."""

    time_ns: int
    process: int
    socket: int
    duration_ns: int
    remote: bytes
    remote_port: int
    local_port: int
    sequence: int
    payload: int
    length: int
    kind: int
    proto: int
    direction: int
    outgoing: int
    phase: int
    verdict: int


class NoticeRow(NamedTuple):
    """`struct notice`: `id` is a process or a cgroup, by `kind`; time is CLOCK_BOOTTIME ns."""

    time_ns: int
    id: int
    cgroup: int
    kind: int
    target: int
    reason: int


class FlowRow(NamedTuple):
    """`struct flow_key` and `struct flow`: one flow with its totals, port in host order."""

    process: int
    remote: bytes
    remote_port: int
    proto: int
    direction: int
    phase: int
    attempts: int
    established: int
    denied: int
    would_deny: int
    denied_packets: int
    bytes_out: int
    bytes_in: int
    packets_out: int
    packets_in: int
    payload_out: int
    first_ns: int
    last_ns: int
    flags: int


class ProcessRow(NamedTuple):
    """`struct process` with its key in `processes`; names end before their NUL, `exe` is raw parts."""

    id: int
    start_ns: int
    cgroup: int
    tgid: int
    exec_id: int
    uid: int
    target: int
    comm: bytes
    ppid: int
    flags: int
    parent_comm: bytes
    cgroup_path: bytes
    exe: bytes


class CgroupRow(NamedTuple):
    """`struct cgroup_entry` with its key, the cgroup id; `path` starts at the cgroup v2 root.

    `target` may stand for several, and say that the cgroup is held (bpf/target.bpf.h).
    """

    id: int
    target: int
    flags: int
    held_ns: int
    node: int
    path: bytes


class Settled(NamedTuple):
    """Key of a settled sum; `remote` or `proto` None: of several that found no room of their own."""

    who: ProcessInfo
    remote: bytes | None
    scope: Scope
    proto: int | None
    direction: int
    phase: int
