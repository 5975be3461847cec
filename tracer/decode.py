"""Records of the kernel as the JSON objects that users see: pure, and every key always there.

An event `lost` says that something is missing from the log: `result` is the reason (as in the losses
table) and `packets_out` how many were lost since the line before; all other keys are null.
"""

from __future__ import annotations

import errno
from datetime import UTC, datetime
from functools import lru_cache
from socket import AF_INET, AF_INET6, inet_ntop
from typing import TYPE_CHECKING, Any, Final

from tracer.identity import NOBODY, ProcessInfo
from tracer.names import NO_NAME_SOURCE
from tracer.scope import MAPPED, scope

if TYPE_CHECKING:
    from tracer.maps import FlowRow
    from tracer.ring import EventTuple

Json = dict[str, Any]

# enum event_kind, direction, verdict and result of the shared header
KINDS: Final = ("", "connect", "established", "send", "close", "deny", "accept")
DIRECTIONS: Final = ("out", "in")
VERDICTS: Final = ("allowed", "denied", "would-deny")
RESULT_UNKNOWN: Final = -1
VIA_LOOPBACK: Final = 1  # enum flow_flags
PHASE: Final = "unknown"

# IANA protocol numbers, keywords in lower case
PROTOCOLS: Final = {
    1: "icmp",
    2: "igmp",
    4: "ipv4",
    6: "tcp",
    17: "udp",
    33: "dccp",
    41: "ipv6",
    47: "gre",
    50: "esp",
    51: "ah",
    58: "ipv6-icmp",
    89: "ospfigp",
    103: "pim",
    112: "vrrp",
    115: "l2tp",
    132: "sctp",
    136: "udplite",
    255: "raw",  # IPPROTO_RAW, in(7): the header names the protocol
}
_WITH_PORTS: Final = frozenset({6, 17, 33, 132, 136})
_EMPTY: Final = bytes(16)


def protocol(number: int) -> str:
    """Name a protocol by its IANA keyword, else by its number."""
    return PROTOCOLS.get(number) or str(number)


@lru_cache(maxsize=8192)
def address(raw: bytes) -> str:
    """Give 16 address bytes as text, an IPv4-mapped one as IPv4."""
    if raw.startswith(MAPPED):
        return inet_ntop(AF_INET, raw[12:])
    return inet_ntop(AF_INET6, raw)


def family(raw: bytes) -> str:
    """Tell the address family of 16 address bytes."""
    return "ipv4" if raw.startswith(MAPPED) else "ipv6"


def timestamp(nanoseconds: int) -> str:
    """Give RFC 3339 text in UTC with microseconds for nanoseconds since the epoch."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{_second(seconds)}.{rest // 1000:06d}Z"


@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def result(number: int) -> str | None:
    """Name an outcome: ok, an errno's name, or None while the kernel does not know it."""
    if number == 0:
        return "ok"
    if number == RESULT_UNKNOWN:
        return None
    return errno.errorcode.get(abs(number), f"E{abs(number)}")


def event_json(row: EventTuple, who: ProcessInfo | None, boot_ns: int, rule: str | None = None) -> Json:
    """Give one event by contract; `boot_ns` is the wall clock's time when the boot clock read zero."""
    process = who or NOBODY
    kind = KINDS[row.kind] if row.kind < len(KINDS) else str(row.kind)
    ports = row.proto in _WITH_PORTS
    return {
        "ts": timestamp(boot_ns + row.time_ns),
        "event": kind,
        **_identity(process),
        "proto": protocol(row.proto),
        "family": family(row.remote),
        "direction": DIRECTIONS[row.direction & 1],
        "local_addr": None if row.local == _EMPTY else address(row.local),
        "local_port": row.local_port or None,
        "remote_addr": address(row.remote),
        "remote_port": row.remote_port if ports else None,
        "name": None,
        "name_source": NO_NAME_SOURCE,
        "scope": scope(row.remote, bool(row.flags & VIA_LOOPBACK)),
        "phase": PHASE,
        "verdict": VERDICTS[row.verdict] if row.verdict < len(VERDICTS) else None,
        "rule": rule,
        "result": result(row.result),
        "bytes_out": row.bytes_out,
        "bytes_in": row.bytes_in,
        "packets_out": row.packets_out,
        "packets_in": row.packets_in,
        "duration_ms": row.duration_ns / 1e6 if kind == "close" else None,
    }


def lost_json(reason: str, count: int, now_ns: int) -> Json:
    """Give the event that says how many of something were lost; see the module's docstring."""
    blank = dict.fromkeys(EVENT_KEYS)
    return blank | {
        "ts": timestamp(now_ns),
        "event": "lost",
        "name_source": NO_NAME_SOURCE,
        "phase": PHASE,
        "result": reason,
        "packets_out": count,
    }


def flow_json(row: FlowRow, who: ProcessInfo | None, boot_ns: int) -> Json:
    """Give one flow by contract; bytes are bytes of IP packets, headers included."""
    return {
        **_identity(who or NOBODY),
        "proto": protocol(row.proto),
        "family": family(row.remote),
        "direction": DIRECTIONS[row.direction & 1],
        "local_addr": None,
        "local_port": None,
        "remote_addr": address(row.remote),
        "remote_port": row.remote_port if row.proto in _WITH_PORTS else None,
        "name": None,
        "name_source": NO_NAME_SOURCE,
        "scope": scope(row.remote, bool(row.flags & VIA_LOOPBACK)),
        "attempts": row.attempts,
        "established": row.established,
        "denied": row.denied,
        "bytes_out": row.bytes_out,
        "bytes_in": row.bytes_in,
        "packets_out": row.packets_out,
        "packets_in": row.packets_in,
        "first_seen": timestamp(boot_ns + row.first_ns),
        "last_seen": timestamp(boot_ns + row.last_ns),
    }


def _identity(who: ProcessInfo) -> Json:
    return {
        "target": who.target,
        "pid": who.pid,
        "ppid": who.ppid,
        "comm": who.comm,
        "parent_comm": who.parent_comm,
        "exe": who.exe,
        "uid": who.uid,
        "cgroup": who.cgroup,
        "unit": who.unit,
        "container": who.container,
    }


EVENT_KEYS: Final = (
    "ts",
    "event",
    *_identity(NOBODY),
    *("proto", "family", "direction", "local_addr", "local_port", "remote_addr", "remote_port"),
    *("name", "name_source", "scope", "phase", "verdict", "rule", "result"),
    *("bytes_out", "bytes_in", "packets_out", "packets_in", "duration_ms"),
)
