"""What flows became after they left the kernel's table: bounded, and not a byte short.

When the table fills, idle flows move here and lose what is least asked for, the port and the process's id.
When the ledger fills too, they lose the address and the process, and keep target, scope, protocol and
direction. No sum ever shrinks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tracer.model.destination import NAMELESS, Named
from tracer.model.process import NOBODY, ProcessInfo
from tracer.model.rows import Settled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tracer.model.records import Decoder, Json
    from tracer.model.rows import FlowRow
    from tracer.model.scope import Scope

ROWS_MAX: Final = 4096


class Ledger:
    """Sums of settled flows; rows keep the form of a flow, with no process id and no port."""

    def __init__(self, rows_max: int = ROWS_MAX) -> None:
        self._rows_max = rows_max
        self._rows: dict[Settled, FlowRow] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def settle(self, row: FlowRow, who: ProcessInfo | None, place: Scope) -> None:
        """Add a flow that is about to leave the kernel's table."""
        nameless = (who or NOBODY)._replace(pid=None, ppid=None)
        key = Settled(
            nameless,
            row.remote,
            place,
            row.proto,
            row.direction,
            row.phase,
        )
        if key not in self._rows and len(self._rows) >= self._rows_max:
            key = key._replace(who=NOBODY._replace(target=nameless.target), remote=None)
        before = self._rows.get(key)
        fresh = row._replace(process=0, remote_port=0)
        self._rows[key] = fresh if before is None else _sum(before, fresh)

    def items(self) -> Iterator[tuple[Settled, FlowRow]]:
        """Yield every sum with its key."""
        yield from self._rows.items()


def settled_json(key: Settled, row: FlowRow, decoder: Decoder, boot_ns: int, named: Named = NAMELESS) -> Json:
    """Give a settled sum in the form of a flow: what it lost is null."""
    flow = decoder.flow(row, key.who, boot_ns, named) | {"remote_port": None, "scope": key.scope}
    if key.remote is None:
        flow |= {"remote_addr": None, "family": None}
    return flow if key.proto is not None else flow | {"proto": None}


def _sum(one: FlowRow, other: FlowRow) -> FlowRow:
    return one._replace(
        attempts=one.attempts + other.attempts,
        established=one.established + other.established,
        denied=one.denied + other.denied,
        would_deny=one.would_deny + other.would_deny,
        denied_packets=one.denied_packets + other.denied_packets,
        bytes_out=one.bytes_out + other.bytes_out,
        bytes_in=one.bytes_in + other.bytes_in,
        packets_out=one.packets_out + other.packets_out,
        packets_in=one.packets_in + other.packets_in,
        payload_out=one.payload_out + other.payload_out,
        first_ns=min(one.first_ns, other.first_ns),
        last_ns=max(one.last_ns, other.last_ns),
        flags=one.flags | other.flags,
    )
