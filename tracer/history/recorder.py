"""The daemon's part of the history: looks at the counters every few seconds, and writes down what has come.

It has a thread of its own, so that no disk holds up the ring. The lock of the accounts is held for reading
only. What cannot be written stays a difference, since the marks do not move: it is written when it can be.
"""

from __future__ import annotations

import sqlite3
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import structlog

from tracer.errors import KernelError
from tracer.history.store import COUNTERS, HOUR_NS, Batch, Mark, Part, Place, Store, set_aside, spoiled
from tracer.model.process import NOBODY
from tracer.model.records import address, port, protocol
from tracer.model.scope import Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tracer.config import History
    from tracer.model.process import ProcessInfo
    from tracer.model.rows import FlowRow
    from tracer.session.flows import Accounts

log = structlog.get_logger("tattle")

LOOK_S: Final = 5.0
LOOK_MAX_S: Final = 60.0
SHARE: Final = 0.01  # of a processor: where a look costs more, the next one comes later
UNNAMED_NS: Final = 1_000_000_000  # a flow waits so long for its first look: then its client has said a name
ROWS_MAX: Final = 1024  # flows that are read and written at a time: the daemon stays small
LEFT_MAX: Final = 16384  # sums of flows that are gone and not written yet; beyond it they lose their place
UNPLACED: Final = "unknown"  # the protocol of what found no room in the kernel's table
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_LOSS: Final = b"loss/"  # begins the mark of a loss counter; those of flows are longer
_SECOND: Final = 1_000_000_000
_DAY_H: Final = 24
_ZERO: Final[dict[str, Any]] = dict.fromkeys(COUNTERS, 0)

_UNWRITTEN: Final = "the history cannot be written now; what has come waits"


class Pile:
    """Sums by hour, process and place; beyond `most` by hour, target and scope alone."""

    def __init__(self, most: int = sys.maxsize) -> None:
        self._most = most
        self._parts: dict[tuple[int, ProcessInfo, Place], Part] = {}

    def __iter__(self) -> Iterator[Part]:
        return iter(self._parts.values())

    def add(self, part: Part) -> bool:
        """Add a part; False where it has lost its process and place."""
        key = (part.hour, part.who, part.place)
        room = key in self._parts or len(self._parts) < self._most
        if not room:
            key = (part.hour, NOBODY._replace(target=part.who.target), part.place.other())
        before = self._parts.get(key)
        fresh = Part(*key, part.counts, part.first_ns, part.last_ns)
        self._parts[key] = _sum(before, fresh) if before else fresh
        return room


def _sum(one: Part, other: Part) -> Part:
    counts = tuple(a + b for a, b in zip(one.counts, other.counts, strict=True))
    first_ns, last_ns = min(one.first_ns, other.first_ns), max(one.last_ns, other.last_ns)
    return one._replace(counts=counts, first_ns=first_ns, last_ns=last_ns)


class _Moved(NamedTuple):
    """A flow that has moved since its mark was made; `before` None: from zero."""

    key: bytes
    value: bytes
    row: FlowRow
    before: FlowRow | None
    who: ProcessInfo


class _Found(NamedTuple):
    """What a look found, or a part of it: moved flows, sums and marks of flows that are gone, losses."""

    now_ns: int
    more: bool
    moved: list[_Moved]
    left: Pile
    gone: set[bytes]
    losses: dict[str, int]


class Recorder:
    """Writes the history of an engine's accounts; `start` it, and `close` it before the engine."""

    def __init__(
        self, accounts: Accounts, path: Path, settings: History, refresh: Callable[[], None] = lambda: None
    ) -> None:
        """`refresh` reads what tells names, so that they are known when a look asks for them."""
        self._accounts = accounts
        self._maps = accounts.maps
        self._path = path
        self._settings = settings
        self._refresh = refresh
        self._store: Store | None = None
        self._inode = 0
        self._pruned_hour = 0
        self._trouble = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)
        # What follows changes under the lock of the accounts only
        self._marks: dict[bytes, bytes] = {}
        self._flying: dict[bytes, bytes] = {}  # marks that are being written
        self._left = Pile(LEFT_MAX)
        self._gone: set[bytes] = set()
        self._early: dict[bytes, int] = {}  # of what left before the marks were known: its `first_ns`
        self._begun = False
        self._told: dict[str, int] = {}  # losses that are written down
        self._adopted = False  # the marks are of a run before, and not compared yet
        self._previous_ns = 0
        accounts.on_settle(self._leave, self._knock)

    @property
    def trouble(self) -> str:
        """Why the history cannot be written now; empty where it can."""
        return self._trouble

    def start(self) -> None:
        """Begin to look, in a thread."""
        self._thread.start()

    def close(self) -> None:
        """Look a last time, and let go of the file."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.thread_time()
            self.look()
            rest = min(max(LOOK_S, (time.thread_time() - began) / SHARE), LOOK_MAX_S)
            to_turn = (HOUR_NS - time.time_ns() % HOUR_NS) / _SECOND
            self._stop.wait(min(rest, to_turn))
        if not self.look(over=True):
            log.error("the history ends before this run does", file=str(self._path))
        self._forget_store()

    # A look

    def look(self, *, over: bool = False, again: bool = False) -> bool:
        """Write down what has come since the last look; False where that cannot be done now.

        `over` says that the run ends with it. A spoiled file is put aside, and a new one begun, not `again`.
        """
        try:
            self._write(over=over)
        except (sqlite3.Error, OSError, KernelError) as error:
            bad = isinstance(error, sqlite3.Error) and spoiled(error) and not again
            if bad and self._set_aside(error):
                return self.look(over=over, again=True)
            self._failed(str(error))
            return False
        if self._trouble:
            log.info("the history is written again, nothing is missing from it")
            self._trouble = ""
        return True

    def _write(self, *, over: bool) -> None:
        store = self._opened()
        self._prune(store)
        with self._accounts.lock:
            self._maps.flush()
            now_ns = time.time_ns()
            born_ns = sys.maxsize if over else time.clock_gettime_ns(time.CLOCK_BOOTTIME) - UNNAMED_NS
        seen: set[bytes] = set()
        while self._write_some(store, now_ns, born_ns, seen, over=over):
            pass
        self._previous_ns = now_ns

    def _write_some(self, store: Store, now_ns: int, born_ns: int, seen: set[bytes], *, over: bool) -> bool:
        """Write down the next flows that have moved and are not `seen`; says whether there are more."""
        found = self._find(now_ns, born_ns, seen)
        try:
            batch = self._batch(found, store, over=over)
            crowded = store.write(batch)
        except BaseException:
            self._take_back(found)
            raise
        self._done(found)
        if crowded:
            self._accounts.count_lost("history_full", crowded)
        return found.more

    def _failed(self, why: str) -> None:
        self._accounts.count_lost("history_unwritten", 1)
        if why != self._trouble:
            log.error(
                "the history cannot be written now; what has come waits", file=str(self._path), error=why
            )
        self._trouble = why

    def _find(self, now_ns: int, born_ns: int, seen: set[bytes]) -> _Found:
        """Read what has moved; from then on its marks are `flying`, until it is done or taken back."""
        with self._accounts.lock:
            moved = self._moved(born_ns, seen)
            more = len(moved) >= ROWS_MAX
            self._adopted = self._adopted and more
            found = _Found(now_ns, more, moved, self._left, self._gone, self._losses())
            self._flying = {one.key: one.value for one in moved}
            self._left, self._gone = Pile(LEFT_MAX), set()
            return found

    def _moved(self, born_ns: int, seen: set[bytes]) -> list[_Moved]:
        maps, get = self._maps, self._accounts.registry.get
        moved, unseen = [], set(self._marks) if self._adopted else set()
        for key, value in maps.raw_flows():
            mark = self._marks.get(key)
            unseen.discard(key)
            if mark == value or key in seen:
                continue
            row = maps.flow(key, value)
            if mark is None and row.first_ns > born_ns:
                continue
            before = self._counted(row, key, mark)
            if mark and not before:
                del self._marks[key]
            moved.append(_Moved(key, value, row, before, _kind(get(row.process))))
            seen.add(key)
            if len(moved) >= ROWS_MAX:
                return moved
        for key in unseen:  # it left the kernel's table, and then nobody could write so any more
            self._gone.add(key)
            del self._marks[key]
        return moved

    def _counted(self, row: FlowRow, key: bytes, mark: bytes | None) -> FlowRow | None:
        """Give what a flow's mark says is counted; None without one, or where it is of one that has gone."""
        before = self._maps.flow(key, mark) if mark else None
        return None if before and self._adopted and _came_again(row, before) else before

    def _losses(self) -> dict[str, int]:
        lost = self._accounts.lost
        own = {reason: count for reason, count in lost.items() if reason.startswith("history_")}
        now = self._maps.losses() | own
        return {reason: count for reason, count in now.items() if count != self._told.get(reason, 0)}

    def _batch(self, found: _Found, store: Store, *, over: bool) -> Batch:
        self._refresh()
        pile, marks = Pile(), {}
        for one in found.moved:
            place = self._place(one.row, one.who)
            if place.name is None and one.before and (known := store.name_of(one.key)):
                place = place._replace(name=known[0], name_source=known[1])
            marks[one.key] = Mark(one.value, place.name, place.name_source)
            pile.add(self._part(one.row, one.before, one.who, place, found.now_ns))
        for part in found.left:
            pile.add(part)
        for reason in found.losses.keys() & self._maps.losses().keys():
            marks[_LOSS + reason.encode()] = Mark(b"%d" % found.losses[reason])
        hour, told = found.now_ns // HOUR_NS, self._told
        losses = {(hour, reason): count - told.get(reason, 0) for reason, count in found.losses.items()}
        parts = [part for part in pile if any(part.counts)]
        look_ns = None if found.more else found.now_ns
        return Batch(look_ns, parts, marks, found.gone, losses, over)

    def _done(self, found: _Found) -> None:
        with self._accounts.lock:
            self._marks |= {key: value for key, value in self._flying.items() if key not in self._gone}
            self._flying = {}
            self._told |= found.losses

    def _take_back(self, found: _Found) -> None:
        with self._accounts.lock:
            for one in found.moved:
                if one.key in self._gone:  # it left meanwhile, as if this had been written
                    place = self._place(one.row, one.who)
                    self._keep(self._part(one.row, one.before, one.who, place, found.now_ns))
            for part in found.left:
                self._keep(part)
            self._gone |= found.gone
            self._flying = {}

    # Flows that leave the kernel's table, told by another thread, under the lock of the accounts

    def _leave(self, row: FlowRow) -> None:
        key = self._maps.key_of(row)
        mark = self._marks.pop(key, None)
        mark = self._flying.get(key, mark)
        if mark:
            self._gone.add(key)
        elif not self._begun and len(self._early) < LEFT_MAX:
            self._early.setdefault(key, row.first_ns)
        self._settle(row, self._counted(row, key, mark))

    def _knock(self, row: FlowRow) -> None:
        self._settle(row, None)

    def _settle(self, row: FlowRow, before: FlowRow | None) -> None:
        if any(_difference(row, before)):
            who = _kind(self._accounts.registry.get(row.process))
            self._keep(self._part(row, before, who, self._place(row, who), time.time_ns()))

    def _keep(self, part: Part) -> None:
        if not self._left.add(part):
            self._accounts.count_lost("history_full", 1)

    # What a difference says

    def _place(self, row: FlowRow, who: ProcessInfo) -> Place:
        decoder = self._accounts.decoder
        way = (decoder.direction(row.direction), decoder.phase(row.phase))
        if row[:4] == (0, bytes(16), 0, 0):
            return Place(None, "none", None, None, UNPLACED, Scope.UNKNOWN, *way)
        if summed := decoder.summed(row.process, row.remote):
            return Place(None, "none", None, None, protocol(row.proto), summed, *way)
        best = self._accounts.named(row, who).best
        inward = row.direction == decoder.inward
        return Place(
            best.name if best else None,
            best.source if best else "none",
            address(row.remote),
            None if inward else port(row),
            protocol(row.proto),
            decoder.place(row),
            *way,
        )

    def _part(
        self, row: FlowRow, before: FlowRow | None, who: ProcessInfo, place: Place, now_ns: int
    ) -> Part:
        boot_ns = self._accounts.clock.boot_ns
        last_ns = self._moment(boot_ns + row.last_ns, now_ns)
        hour = last_ns // HOUR_NS
        since_ns = self._previous_ns if before else 0
        first_ns = min(max(boot_ns + row.first_ns, since_ns, hour * HOUR_NS), last_ns)
        return Part(hour, who, place, _difference(row, before), first_ns, last_ns)

    def _moment(self, then_ns: int, now_ns: int) -> int:
        """Say when a difference came: when its flow moved last, but within what this look covers.

        What the look at the turn of an hour finds is of the hour that ends, though it was read after it.
        """
        turn_ns = now_ns - now_ns % HOUR_NS
        late = 0 < self._previous_ns < turn_ns and now_ns - turn_ns < LOOK_S * _SECOND
        latest = turn_ns - 1 if late else now_ns
        return max(min(then_ns, latest), min(self._previous_ns, latest))

    # The file

    def _opened(self) -> Store:
        if self._store and not self._is_there():
            self._forget_store()
        if self._store is None:
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            store = Store(self._path, self._settings.max_mb << 20)
            try:
                self._begin(store)
            except BaseException:
                store.close()
                raise
            self._store, self._inode = store, self._path.stat().st_ino
        return self._store

    def _is_there(self) -> bool:
        try:
            return self._path.stat().st_ino == self._inode
        except FileNotFoundError:
            return False

    def _begin(self, store: Store) -> None:
        """Note that this run has begun; what the kernel counted in a run before goes on from its marks."""
        epoch = f"{_BOOT_ID.read_text(encoding='ascii').strip()}/{self._maps.table_id()}"
        previous_ns = store.last_look_ns() or 0
        marks = store.begin(epoch, self._accounts.since_ns)
        with self._accounts.lock:
            losses = {key: int(marks.pop(key)) for key in list(marks) if key.startswith(_LOSS)}
            self._told = {key.removeprefix(_LOSS).decode(): count for key, count in losses.items()}
            for key, first_ns in self._early.items():
                if mark := marks.pop(key, None):
                    self._told_whole(key, self._maps.flow(key, mark), first_ns)
            self._marks, self._adopted, self._begun, self._early = marks, True, True, {}
            self._previous_ns = previous_ns if marks else 0

    def _told_whole(self, key: bytes, before: FlowRow, first_ns: int) -> None:
        """Take off what was written of a flow in a run before: all of it was told when it left."""
        self._gone.add(key)
        if first_ns <= before.first_ns:
            self._settle(before._replace(**_ZERO), before)

    def _forget_store(self) -> None:
        if self._store:
            self._store.close()
        self._store = None

    def _set_aside(self, error: Exception) -> bool:
        self._forget_store()
        try:
            aside = set_aside(self._path)
        except OSError:
            return False
        self._accounts.count_lost("history_reset", 1)
        log.error(
            "the history is spoiled; a new one begins", file=str(self._path), aside=str(aside), error=error
        )
        return True

    def _prune(self, store: Store) -> None:
        hour = time.time_ns() // HOUR_NS
        if hour != self._pruned_hour or store.tight():
            store.prune(hour - self._settings.days * _DAY_H, hour)
            self._pruned_hour = hour


def _kind(who: ProcessInfo | None) -> ProcessInfo:
    """Take from a process what is its alone: sums are of processes alike."""
    return who._replace(pid=None, ppid=None) if who else NOBODY


def _difference(row: FlowRow, before: FlowRow | None) -> tuple[int, ...]:
    if before is None:
        return tuple(getattr(row, name) for name in COUNTERS)
    return tuple(getattr(row, name) - getattr(before, name) for name in COUNTERS)


def _came_again(row: FlowRow, before: FlowRow) -> bool:
    """Tell whether a flow left the kernel's table and came again since its mark was made."""
    return row.first_ns > before.first_ns or any(count < 0 for count in _difference(row, before))
