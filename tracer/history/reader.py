"""The history, read: by any process that may read the file, whether the daemon runs or not."""

from __future__ import annotations

import itertools
import sqlite3
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from tracer.errors import HostError
from tracer.history.store import HOUR_NS, VERSION, Place
from tracer.model.process import KIND

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ALIVE_NS: Final = 180 * 1_000_000_000  # a run that has not ended and looked so lately still runs
_NEVER: Final = 1 << 62


class Seen(NamedTuple):
    """What one kind of process exchanged with one destination in one hour; names as in the JSON of flows.

    Several processes that say the same of themselves are one. `remote_addr` None: of destinations that found
    no place of their own, or no room in the kernel's table. Direction `in` has no `remote_port`. `first_ns`
    is exact to a look (5 seconds, up to 60 where looking costs much), where the flow is older than this hour.
    """

    hour_ns: int  # the start of the hour, nanoseconds since the epoch (UTC)
    target: str | None
    comm: str | None
    parent_comm: str | None
    exe: str | None
    uid: int | None
    cgroup: str | None
    unit: str | None
    container: str | None
    name: str | None
    name_source: str
    remote_addr: str | None
    remote_port: int | None
    proto: str
    scope: str
    direction: str
    phase: str
    attempts: int
    established: int
    denied: int
    denied_packets: int
    would_deny: int
    bytes_out: int
    bytes_in: int
    packets_out: int
    packets_in: int
    payload_out: int | None  # None: of an hour in which it was not counted yet
    first_ns: int
    last_ns: int


class Gap(NamedTuple):
    """A time of which the history does not tell all; times in nanoseconds since the epoch.

    stopped: the daemon was off. killed: it ended without a word (or its host did), or could write nothing
    since. pruned: older than what is kept. before: no history was kept yet. `counted`: the kernel went on
    counting, and the next daemon has told it, each flow in the hour in which it moved last.
    """

    start_ns: int
    end_ns: int
    reason: str
    counted: bool = False


class _Run(NamedTuple):
    epoch: str
    started_ns: int
    last_look_ns: int
    ended_ns: int | None

    @property
    def over_ns(self) -> int:
        """Say until when this run is known to have looked."""
        return self.last_look_ns if self.ended_ns is None else self.ended_ns

    @property
    def how(self) -> str:
        return "killed" if self.ended_ns is None else "stopped"


_SEEN: Final = (
    f"SELECT hour * {HOUR_NS}, {', '.join(KIND)}, {', '.join(Place._fields)},"  # noqa: S608 - names of columns
    f" {', '.join(Seen._fields[1 + len(KIND) + len(Place._fields) :])}"
    " FROM cell JOIN place ON cell.place = place.id JOIN who ON place.who = who.id"
    " WHERE hour >= ? AND hour < ? ORDER BY hour"
)


class History:
    """A history that is open for reading; times are nanoseconds since the epoch, `until` is not included."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db = db
        self._path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def seen(self, since_ns: int, until_ns: int) -> Iterator[Seen]:
        """Yield the sums of every hour of which any part is asked for, the oldest first."""
        for row in self._rows(_SEEN, *_hours(since_ns, until_ns)):
            yield Seen._make(row)

    def losses(self, since_ns: int, until_ns: int) -> dict[str, int]:
        """Give what was lost in these hours, by reason, as `tattle status` names them."""
        asked = "SELECT reason, sum(count) FROM loss WHERE hour >= ? AND hour < ? GROUP BY reason"
        return dict(self._rows(asked, *_hours(since_ns, until_ns)))

    def last_look_ns(self) -> int | None:
        """Return up to when the newest run has looked; None: none has yet.

        An older one may have looked later, by a clock that was set back since.
        """
        runs = self._runs()
        return runs[-1].over_ns if runs else None

    def gaps(self, since_ns: int, until_ns: int) -> list[Gap]:
        """Give the times between these that the history does not tell of, up to now, the oldest first."""
        until_ns = min(until_ns, time.time_ns())
        cut = (
            one._replace(start_ns=max(one.start_ns, since_ns), end_ns=min(one.end_ns, until_ns))
            for one in self._gaps()
        )
        return [gap for gap in cut if gap.start_ns < gap.end_ns]

    def _gaps(self) -> Iterator[Gap]:
        runs, pruned_ns = self._runs(), self._pruned_ns()
        begin_ns = pruned_ns or (runs[0].started_ns if runs else _NEVER)
        yield Gap(0, begin_ns, "pruned" if pruned_ns else "before")
        for before, run in itertools.pairwise(runs):
            start_ns = max(before.over_ns, begin_ns)
            yield Gap(start_ns, run.started_ns, before.how, counted=before.epoch == run.epoch)
        if runs and (runs[-1].ended_ns is not None or time.time_ns() - runs[-1].last_look_ns > ALIVE_NS):
            yield Gap(max(runs[-1].over_ns, begin_ns), _NEVER, runs[-1].how)

    def _runs(self) -> list[_Run]:
        asked = "SELECT epoch, started_ns, last_look_ns, ended_ns FROM run ORDER BY id"
        return [_Run._make(row) for row in self._rows(asked)]

    def _pruned_ns(self) -> int:
        rows = list(self._rows("SELECT value FROM about WHERE name = 'pruned_until_ns'"))
        return int(rows[0][0]) if rows else 0

    def _rows(self, text: str, *values: int) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._db.execute(text, values)
        except sqlite3.Error as error:
            raise _unreadable(self._path, str(error)) from None


def _hours(since_ns: int, until_ns: int) -> tuple[int, int]:
    return since_ns // HOUR_NS, -(-until_ns // HOUR_NS)


def open_history(path: Path) -> History:
    """Open the history in this file; raises HostError where there is none, or it cannot be read."""
    if not _exists(path):
        raise _none(f"no {path}")
    try:
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)
        (version,) = db.execute("PRAGMA user_version").fetchone()
    except sqlite3.Error as error:
        raise _unreadable(path, str(error)) from None
    if version != VERSION:
        db.close()
        if not version:
            raise _none(f"{path} is about to be made")
        raise _unreadable(path, f"it is of version {version}, not {VERSION}")
    return History(db, path)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from None


def _none(why: str) -> HostError:
    return HostError(
        f"there is no history yet: {why}",
        "start the daemon (sudo tattle run), with enabled = true in [history] of its configuration",
    )


def _unreadable(path: Path, why: str) -> HostError:
    return HostError(
        f"the history {path} cannot be read: {why}",
        "run it with sudo; the daemon puts a spoiled file aside when it is started: sudo tattle run",
    )
