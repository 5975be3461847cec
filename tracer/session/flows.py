"""All that was counted, in one place: the kernel's flows, the ledger of settled ones, and who they are of.

One lock guards reading and settling, so that a flow on its way from the table to the ledger is never seen
twice or not at all.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tracer.model.destination import NAMELESS, Named
from tracer.model.process import NOBODY
from tracer.model.records import Decoder, Json, address, denials, timestamp
from tracer.model.rows import Settled
from tracer.model.scope import Scope
from tracer.session.archive import Ledger, settled_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tracer.bpf.maps.tables import Maps
    from tracer.host.clock import BootClock
    from tracer.model.process import ProcessInfo
    from tracer.model.rows import FlowRow, ProcessRow
    from tracer.model.status import MapSize
    from tracer.targets.processes import Registry

    Wants = Callable[[ProcessInfo | None], bool]
    SettledRow = tuple[Settled, FlowRow]
    Settler = Callable[[FlowRow], None]

HIGH: Final = 0.8  # of a map: from here on idle entries are settled
LOW: Final = 0.6  # of a map: down to here
HANDSHAKES_HIGH: Final = 0.5
UNEXPECTED_MAX: Final = 10_000  # destinations of a target that are told apart
IDLE_NS: Final = 60_000_000_000
_CLOCK_TICK_NS: Final = 10_000_000  # USER_HZ is 100 on every architecture here: proc_pid_stat(5), starttime


class Accounts:
    """Reads flows and keeps them within bounds; `lock` is held by whoever reads more than once."""

    def __init__(self, maps: Maps, registry: Registry, decoder: Decoder, clock: BootClock) -> None:
        self.maps = maps
        self.registry = registry
        self.decoder = decoder
        self.clock = clock
        self.ledger = Ledger()
        self.lock = threading.RLock()
        self.closed = False
        self.since_ns = time.time_ns()
        self.named: Callable[[FlowRow, ProcessInfo | None], Named] = lambda *_: NAMELESS
        self.nameless: Counter[str] = Counter()  # packets that gave no name, by reason
        self.errors: Callable[[], dict[str, int]] = dict  # what the daemon has survived, by part
        self.held: Callable[[], tuple[dict[str, int], list[int]]] = lambda: ({}, [])  # see MemberMaps
        self.lost: dict[str, int] = {}  # by the user half: lines of the log, of a slow watcher
        self._settlers: list[tuple[Settler, Settler]] = []
        self._unexpected: dict[str, set[str]] = {}  # of flows that left the kernel's table

    def close(self) -> None:
        """Let readers in other threads finish, and keep them out from now on."""
        with self.lock:
            self.closed = True

    def on_settle(self, settler: Settler, knock: Settler | None = None) -> None:
        """Have `settler` told of each flow before it leaves the kernel's table.

        `knock` (else `settler`) is told of what nobody accepted, which was in no flow before.
        """
        self._settlers.append((settler, knock or settler))

    def rows(self) -> list[FlowRow]:
        """Read the kernel's flows as of now."""
        with self.lock:
            self.maps.flush()
            return self.maps.flows()

    def overflow(self) -> tuple[FlowRow, FlowRow]:
        """Give the sums of what found no room in the kernel's table, out and in."""
        return self.maps.overflow()

    def settled(self) -> list[SettledRow]:
        """Give the sums of what is no longer in the kernel's table, or found no room there."""
        return [*self.ledger.items(), *self._unplaced()]

    def _unplaced(self) -> Iterator[SettledRow]:
        for row in self.overflow():
            if row.packets_out or row.packets_in or row.attempts:
                yield Settled(NOBODY, None, Scope.UNKNOWN, None, row.direction, row.phase), row

    def sizes(self) -> list[MapSize]:
        """Give how full the kernel's maps are."""
        return self.maps.sizes()

    def losses(self) -> dict[str, int]:
        """Give what was lost, by reason: the kernel's counts and those of the user half."""
        return self.maps.losses() | self.lost

    def unexpected(self, rows: Iterable[FlowRow]) -> dict[str, int]:
        """Count the destinations that the profile of each target does not name, since the start.

        `rows` are the kernel's flows as of now. Targets that no profile knows are left out.
        """
        targets = self.decoder.purposes.targets
        found = {target: set(self._unexpected.get(target, ())) for target in targets}
        for row in rows if targets else ():
            self._note_unexpected(row, found)
        return {target: len(found[target]) for target in targets}

    def _note_unexpected(self, row: FlowRow, found: dict[str, set[str]]) -> None:
        who = self.registry.get(row.process)
        if who is None or who.target is None or not self.decoder.purposes.knows(who.target):
            return
        reasons = self.decoder.reasons(row, who, self.named(row, who))
        names = found.setdefault(who.target, set())
        for name, reason in reasons.items() if row.attempts or row.packets_out else ():
            if reason.unexpected and len(names) < UNEXPECTED_MAX:
                names.add(name or address(row.remote))

    def unread(self) -> dict[str, int]:
        """Give how many packets should have told a name and did not, by reason."""
        return dict(self.nameless)

    def count_lost(self, reason: str, count: int) -> None:
        """Add to a loss of the user half."""
        self.lost[reason] = self.lost.get(reason, 0) + count

    def view(self, wants: Wants | None = None, newest: int = 0) -> tuple[Json, Iterator[Json]]:
        """Give a head (since, losses, totals by scope, number of flows) and the flows, last seen first.

        `wants` chooses by process, `newest` bounds the flows that are given (0: all), not the totals.
        """
        with self.lock:
            rows, settled = self.rows(), self.settled()
        get, all_of = self.registry.get, wants or (lambda _: True)
        chosen = [(row, who) for row in rows if all_of(who := get(row.process))]
        chosen.sort(key=lambda pair: pair[0].last_ns, reverse=True)
        kept = [(key, sums) for key, sums in settled if all_of(key.who)]
        head = {
            "since": timestamp(self.since_ns),
            "losses": self.losses(),
            "totals": self._totals(chosen, kept),
            "count": len(chosen) + len(kept),
        }
        return head, self.objects(
            chosen[: newest or None], kept[: max(newest - len(chosen), 0) if newest else None]
        )

    def objects(
        self, rows: list[tuple[FlowRow, ProcessInfo | None]], settled: list[SettledRow]
    ) -> Iterator[Json]:
        """Give flows and settled sums by contract, with their names."""
        boot_ns = self.clock.boot_ns
        for row, who in rows:
            yield self.decoder.flow(row, who, boot_ns, self.named(row, who))
        for key, sums in settled:
            named = self.named(sums, key.who) if key.remote is not None else NAMELESS
            yield settled_json(key, sums, self.decoder, boot_ns, named)

    def _totals(self, rows: list[tuple[FlowRow, ProcessInfo | None]], settled: list[SettledRow]) -> Json:
        totals: dict[str, list[int]] = {}
        for row, _ in rows:
            _add(totals.setdefault(self.decoder.place(row), [0] * 5), row)
        for key, sums in settled:
            _add(totals.setdefault(key.scope, [0] * 5), sums)
        names = ("attempts", "denied", "bytes_out", "bytes_in", "payload_out")
        return {name: dict(zip(names, sums, strict=True)) for name, sums in totals.items()}

    def tidy(self) -> int:
        """Settle idle flows and forget dead processes where a map passes 80 %; returns flows settled."""
        sizes = {size.map: size for size in self.maps.sizes()}
        full = {name: size.entries / size.max_entries for name, size in sizes.items()}
        settled = 0
        if full["flows"] > HIGH:
            settled = self._settle(int(sizes["flows"].max_entries * LOW))
        elif self.maps.ported() > HIGH:
            settled = self._settle(int(sizes["flows"].entries * LOW))
        if full["processes"] > HIGH:
            self._forget_dead()
        if full["handshakes"] > HANDSHAKES_HIGH:
            self._settle_handshakes()
        return settled

    def _settle_handshakes(self) -> None:
        """Move what nobody accepted to the ledger, so that a flood of SYNs leaves room for real clients."""
        with self.lock:
            before_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - IDLE_NS
            for row in self.maps.take_handshakes(before_ns):
                self.ledger.settle(row, self.registry.get(row.process), self.decoder.place(row))
                for _, knock in self._settlers:
                    knock(row)

    def _settle(self, keep: int) -> int:
        """Move the longest idle flows to the ledger until `keep` are left, those seen lately not."""
        with self.lock:
            rows = self.rows()
            rows.sort(key=lambda row: row.last_ns)
            before_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - IDLE_NS
            idle = [row for row in rows[: max(len(rows) - keep, 0)] if row.last_ns < before_ns]
            for row in idle:
                self.ledger.settle(row, self.registry.get(row.process), self.decoder.place(row))
                self._note_unexpected(row, self._unexpected)
                for settler, _ in self._settlers:
                    settler(row)
            self.maps.delete_flows(idle)
        return len(idle)

    def _forget_dead(self) -> None:
        """Delete processes that are gone and have no flow: nothing asks for them any more."""
        with self.lock:
            used = {row.process for row in self.rows()}
            dead = {row.id for row in self.maps.processes() if row.id not in used and not alive(row)}
            self.maps.delete_processes(dead)
            self.registry.forget(dead)


def _add(sums: list[int], row: FlowRow) -> None:
    sums[0] += row.attempts
    sums[1] += denials(row)
    sums[2] += row.bytes_out
    sums[3] += row.bytes_in
    sums[4] += row.payload_out


def alive(row: ProcessRow, proc: Path = Path("/proc")) -> bool:
    """Tell whether this very process still runs, and not another one that was given its number."""
    try:
        stat = (proc / str(row.tgid) / "stat").read_bytes()
    except OSError:
        return False
    ticks = int(stat.rpartition(b")")[2].split()[19])  # proc_pid_stat(5): field 22, starttime
    return abs(ticks - row.start_ns // _CLOCK_TICK_NS) <= 1
