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

from tracer.model.destination import (
    NAMELESS,
    NO_PHASE,
    NO_PROFILE,
    Contact,
    Explainer,
    Name,
    Named,
    Purpose,
    Unexplained,
    together,
)
from tracer.model.process import NOBODY, ProcessInfo
from tracer.model.scope import MAPPED, Scope, scope
from tracer.model.text import NO_NAME_SOURCE

if TYPE_CHECKING:
    from tracer.model.rows import EventTuple, FlowRow, SampleTuple

Json = dict[str, Any]

PHASE: Final = NO_PHASE  # of what no runtime's API tells

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


@lru_cache(maxsize=1024)
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


@lru_cache(maxsize=256)
def outcome(number: int) -> str:
    """Name an outcome that the kernel knows: ok, or the errno's name."""
    return errno.errorcode.get(abs(number), f"E{abs(number)}") if number else "ok"


class Decoder:
    """Turns records into objects by the numbers of the object file that made them."""

    def __init__(self, enums: dict[str, dict[str, int]], purposes: Explainer | None = None) -> None:
        """`enums` are those of the programs' BTF; without `purposes` nothing is explained."""
        self._kinds = _words(enums["event_kind"], "EVENT_")
        self._directions = _words(enums["direction"], "DIRECTION_")
        self._verdicts = _words(enums["verdict"], "VERDICT_")
        self._phases = _words(enums["phase"], "PHASE_")
        self._unknown = enums["result"]["RESULT_UNKNOWN"]
        self._samples = _words(enums["sample_kind"], "SAMPLE_")
        self.inward = enums["direction"]["DIRECTION_IN"]
        self.via_loopback = enums["flow_flags"]["FLOW_VIA_LOOPBACK"]
        self._overlap = enums["flow_flags"]["FLOW_OVERLAP"]
        prefix = enums["sum_address"]["SUM_PREFIX"].to_bytes(2) + bytes(10)
        self._sums = {
            prefix + number.to_bytes(4): Scope(name.removeprefix("SCOPE_").lower())
            for name, number in enums["scope_bit"].items()
            if name != "SCOPE_DNS"
        }
        self.purposes = purposes or Unexplained()

    def direction(self, number: int) -> str:
        """Name a direction."""
        return self._directions[number]

    def is_denied(self, verdict: int) -> bool:
        """Say whether this verdict kept a packet from leaving."""
        return self._verdicts.get(verdict) == "denied"

    def phase(self, number: int) -> str:
        """Name a phase."""
        return self._phases[number]

    def sample(self, number: int) -> str | None:
        """Name what a sample is of."""
        return self._samples.get(number)

    def summed(self, process: int, remote: bytes) -> Scope | None:
        """Say of which scope a row sums up all that the kernel sends by itself; None: it has one address."""
        return None if process else self._sums.get(remote)

    def place(self, row: EventTuple | FlowRow) -> Scope:
        """Say where the remote end of an event or a flow is."""
        summed = self.summed(row.process, row.remote)
        return summed or scope(row.remote, via_loopback=bool(row.flags & self.via_loopback))

    def event(
        self,
        row: EventTuple,
        who: ProcessInfo | None,
        boot_ns: int,
        rule: str | None = None,
        named: Named = NAMELESS,
    ) -> Json:
        """Give one event by contract; `boot_ns` is the wall clock's time when the boot clock read zero."""
        kind = self._kinds.get(row.kind) or str(row.kind)
        return {
            "ts": timestamp(boot_ns + row.time_ns),
            "event": kind,
            **identity(who or NOBODY),
            "proto": protocol(row.proto),
            "family": family(row.remote),
            "direction": self._directions[row.direction],
            "local_addr": None if row.local == _EMPTY else address(row.local),
            "local_port": row.local_port or None,
            "remote_addr": address(row.remote),
            "remote_port": (row.remote_port or None) if row.proto in _WITH_PORTS else None,
            **naming(named),
            **purpose(self.purpose(row, who, named.best.name if named.best else None)),
            "scope": self.place(row),
            "phase": self._phases[row.phase],
            "verdict": self._verdicts.get(row.verdict),
            "rule": rule,
            "result": None if row.result == self._unknown else outcome(row.result),
            "bytes_out": row.bytes_out,
            "bytes_in": row.bytes_in,
            "packets_out": row.packets_out,
            "packets_in": row.packets_in,
            "duration_ms": row.duration_ns / 1e6 if kind == "close" else None,
            **_UNSAID,
        }

    def spoken(
        self, head: SampleTuple, who: ProcessInfo | None, boot_ns: int, event: str, said: Json
    ) -> Json:
        """Give an event of what a packet said: `said` are the keys that are known beside who and where."""
        return (
            dict.fromkeys(EVENT_KEYS)
            | {
                "ts": timestamp(boot_ns + head.time_ns),
                "event": event,
                **identity(who or NOBODY),
                "proto": protocol(head.proto),
                "family": family(head.remote),
                "direction": self._directions[head.direction],
                "local_port": head.local_port or None,
                "remote_addr": address(head.remote),
                "remote_port": head.remote_port or None,
                **naming(NAMELESS),
                "purpose": self.purposes.text(who.target, said.get("name")) if who else None,
                "scope": scope(head.remote),
                "phase": self._phases[head.phase],
            }
            | said
        )

    def purpose(self, row: EventTuple | FlowRow, who: ProcessInfo | None, name: str | None) -> Purpose:
        """Explain the remote end of an event or a flow, under this name, by its target's profile."""
        contact = Contact(
            name,
            row.remote_port,
            self.place(row),
            NO_PHASE if row.flags & self._overlap else self._phases[row.phase],
            row.direction != self.inward,
        )
        found = self.purposes.of(who.target if who else None, contact)
        return found.one_of_several() if row.flags & self._overlap else found

    def reasons(self, row: FlowRow, who: ProcessInfo | None, named: Named) -> dict[str | None, Purpose]:
        """Explain a flow's remote end under each of the names that it may go by."""
        names: list[str | None] = [one.name for one in named.equals]
        return {name: self.purpose(row, who, name) for name in names or [None]}

    def flow(self, row: FlowRow, who: ProcessInfo | None, boot_ns: int, named: Named = NAMELESS) -> Json:
        """Give one flow by contract; bytes are bytes of IP packets, headers included."""
        summed = self.summed(row.process, row.remote) is not None
        return {
            **identity(who or NOBODY),
            "proto": protocol(row.proto),
            "family": None if summed else family(row.remote),
            "direction": self._directions[row.direction],
            "local_addr": None,
            "local_port": None,
            "remote_addr": None if summed else address(row.remote),
            "remote_port": None if summed else port(row),
            **naming(named),
            **purpose(together(self.reasons(row, who, named).values())),
            "scope": self.place(row),
            "phase": self._phases[row.phase],
            "attempts": row.attempts,
            "established": row.established,
            "denied": denials(row),
            "bytes_out": row.bytes_out,
            "bytes_in": row.bytes_in,
            "packets_out": row.packets_out,
            "packets_in": row.packets_in,
            "payload_out": row.payload_out,
            "first_seen": timestamp(boot_ns + row.first_ns),
            "last_seen": timestamp(boot_ns + row.last_ns),
        }


def port(row: FlowRow) -> int | None:
    """Give the remote port of a flow, None where its protocol has none."""
    return row.remote_port if row.proto in _WITH_PORTS else None


def denials(row: FlowRow) -> int:
    """Count what was denied: calls or, where no call could be refused, packets."""
    return row.denied or row.denied_packets


def _words(enum: dict[str, int], prefix: str) -> dict[int, str]:
    """Give the words of an enum as JSON spells them: VERDICT_WOULD_DENY is would-deny."""
    return {number: name.removeprefix(prefix).lower().replace("_", "-") for name, number in enum.items()}


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


def identity(who: ProcessInfo) -> Json:
    """Give the keys that say who."""
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


def naming(named: Named) -> Json:
    """Give the keys that say how a destination is called; ages in seconds, null for the hosts file's."""
    best = named.best
    return {
        "name": best.name if best else None,
        "name_source": named.source,
        "name_age_s": _age_s(best) if best else None,
        "names": [
            {
                "name": one.name,
                "source": one.source,
                "own": one.own,
                "age_s": _age_s(one),
                "expired": one.expired,
                "encrypted": one.encrypted,
            }
            for one in named.names
        ],
    }


def purpose(found: Purpose) -> Json:
    """Give the keys that say why a destination is contacted; see Purpose for null."""
    return {"purpose": found.text, "unexpected": found.unexpected}


def _age_s(name: Name) -> float | None:
    return None if name.age_ns is None else round(name.age_ns / 1e9, 3)


# What only requests (their path) and DNS lookups (their type, and the addresses) have
_UNSAID: Final = dict.fromkeys(("path", "dns_type", "answers"))
EVENT_KEYS: Final = (
    "ts",
    "event",
    *identity(NOBODY),
    *("proto", "family", "direction", "local_addr", "local_port", "remote_addr", "remote_port"),
    *naming(NAMELESS),
    *purpose(NO_PROFILE),
    *("scope", "phase", "verdict", "rule", "result"),
    *("bytes_out", "bytes_in", "packets_out", "packets_in", "duration_ms"),
    *_UNSAID,
)
