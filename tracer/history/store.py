"""The history on disk: sums by hour, process and destination in SQLite, and how much is told.

The kernel's counters only grow. A *mark* is a counter as it was when it was last added up: what has come
since is the difference. Sums and marks are written in one transaction, so that no byte is told twice or left
out, whenever the daemon is killed. Marks are of one set of kernel tables, the *epoch*: others begin at zero.

A file that is no history, or a spoiled one, is put aside (`set_aside`) and not repaired. Errors of this
module are those of sqlite3.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from typing import TYPE_CHECKING, Final, NamedTuple

from tracer.model.process import KIND, NOBODY

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tracer.model.process import ProcessInfo

FILE: Final = "history.db"  # in the state folder of an instance
VERSION: Final = 3  # PRAGMA user_version
HOUR_NS: Final = 3600 * 1_000_000_000
PLACES_MAX: Final = 1000  # destinations of a process that are told apart in an hour
COUNTERS: Final = (
    *("attempts", "established", "denied", "denied_packets", "would_deny"),
    *("bytes_out", "bytes_in", "packets_out", "packets_in", "payload_out"),
)
_SPOILED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})
_WAL_BYTES: Final = 4 << 20  # of the journal that stay on the disk
_CACHE_KB: Final = 1024
_ROOM: Final = 0.9  # of the bound; the rest is for one more look

# `hour` counts hours since the epoch; times are nanoseconds since the epoch; no row is of one process alone.
_SCHEMA: Final = f"""
CREATE TABLE about (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE run (id INTEGER PRIMARY KEY, epoch, started_ns INT, last_look_ns INT, ended_ns INT);
CREATE TABLE who (id INTEGER PRIMARY KEY, {", ".join(KIND)});
CREATE INDEX who_is ON who (comm, exe, cgroup);
CREATE TABLE place (
    id INTEGER PRIMARY KEY, who INT,
    name, name_source, remote_addr, remote_port, proto, scope, direction, phase
);
CREATE INDEX place_is ON place (who, remote_addr, remote_port);
CREATE TABLE cell (
    hour INT, place INT, {", ".join(COUNTERS)}, first_ns, last_ns, PRIMARY KEY (hour, place)
) WITHOUT ROWID;
CREATE TABLE loss (hour INT, reason TEXT, count INT, PRIMARY KEY (hour, reason)) WITHOUT ROWID;
CREATE TABLE mark (key BLOB PRIMARY KEY, value BLOB, name, name_source) WITHOUT ROWID;
PRAGMA user_version = {VERSION};
"""
# What was not counted is NULL, and what is added to it stays so
_WITHOUT_PAYLOAD: Final = 2
_ADD_PAYLOAD: Final = f"ALTER TABLE cell ADD COLUMN payload_out; PRAGMA user_version = {VERSION};"


def _same(columns: tuple[str, ...]) -> str:
    return " AND ".join(f"{name} IS ?" for name in columns)  # finds NULL, too, and uses an index


class Place(NamedTuple):
    """Where traffic went or came from, in the words of JSON."""

    name: str | None
    name_source: str
    remote_addr: str | None
    remote_port: int | None
    proto: str
    scope: str
    direction: str
    phase: str

    def other(self) -> Place:
        """Give the place of all that found no place of their own."""
        return self._replace(name=None, name_source="none", remote_addr=None, remote_port=None)


class Part(NamedTuple):
    """What came in an hour from or to one place; `counts` are the COUNTERS in their order."""

    hour: int
    who: ProcessInfo
    place: Place
    counts: tuple[int, ...]
    first_ns: int
    last_ns: int


class Mark(NamedTuple):
    """A counter as it was added up, in bytes that only the writer understands, and how it was called."""

    value: bytes
    name: str | None = None
    name_source: str = "none"


class Batch(NamedTuple):
    """What a look has found, written whole or not at all; marks that are `gone` make room for `marks`.

    `look_ns` None: it has found more, which follows.
    """

    look_ns: int | None
    parts: list[Part]
    marks: Mapping[bytes, Mark]
    gone: set[bytes]
    losses: Mapping[tuple[int, str], int]
    over: bool = False  # the run has ended, by itself


_WHO_FIND: Final = f"SELECT id FROM who WHERE {_same(KIND)}"  # noqa: S608 - names of columns
_WHO_ADD: Final = f"INSERT INTO who ({', '.join(KIND)}) VALUES ({', '.join('?' * len(KIND))})"  # noqa: S608
_PLACE_FIND: Final = f"SELECT id FROM place WHERE who = ? AND {_same(Place._fields)}"  # noqa: S608
_PLACE_ADD: Final = (
    f"INSERT INTO place (who, {', '.join(Place._fields)}) VALUES (?{', ?' * len(Place._fields)})"  # noqa: S608
)
_CELL_ADD_TO: Final = (
    f"UPDATE cell SET {', '.join(f'{name} = {name} + ?' for name in COUNTERS)},"  # noqa: S608
    " first_ns = min(first_ns, ?), last_ns = max(last_ns, ?) WHERE hour = ? AND place = ?"
)
_CELL_ADD: Final = (
    f"INSERT INTO cell (hour, place, {', '.join(COUNTERS)}, first_ns, last_ns)"  # noqa: S608
    f" VALUES (?, ?{', ?' * (len(COUNTERS) + 2)})"
)


class Store:
    """The one writer; `close` it. May be used by one thread."""

    def __init__(self, path: Path, bytes_max: int, places_max: int = PLACES_MAX) -> None:
        """Open or make the file; raises sqlite3.DatabaseError (see `spoiled`)."""
        self._places_max = places_max
        self._run = 0
        self._crowd: dict[tuple[int, int], int] = {}  # places of an hour and process
        self._squeezed = False  # the present hour alone is too big: no more places
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        self._db = sqlite3.connect(path, isolation_level=None, timeout=5.0)
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise
        self._page_size = self._pragma("page_size")
        self._pages_max = max(bytes_max // self._page_size, 1)

    def _prepare(self) -> None:
        if not self._pragma("user_version") and not self._pragma("schema_version"):
            self._db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # before there is any table
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")  # safe from kill -9; a power cut loses the last looks
        self._db.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
        self._db.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
        if not self._pragma("schema_version"):
            self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        if self._pragma("user_version") == _WITHOUT_PAYLOAD:
            self._db.executescript(f"BEGIN IMMEDIATE; {_ADD_PAYLOAD} COMMIT;")
        found = self._pragma("user_version")
        if found != VERSION:
            raise _damage(f"of version {found}, not {VERSION}")
        (said,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if said != "ok":
            raise _damage(str(said))

    def _pragma(self, text: str) -> int:
        return int(self._db.execute(f"PRAGMA {text}").fetchone()[0])

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            self._crowd.clear()
            if self._db.in_transaction:  # SQLite itself has rolled some back
                self._db.execute("ROLLBACK")
            raise

    # Writing

    def begin(self, epoch: str, now_ns: int) -> dict[bytes, bytes]:
        """Note that a run begins; returns the marks of this epoch, and forgets those of others."""
        with self._transaction():
            if self._about("epoch") != epoch:
                self._db.execute("DELETE FROM mark")
                self._tell_about("epoch", epoch)
            row = (epoch, now_ns, now_ns)
            self._run = (
                self._db.execute(
                    "INSERT INTO run (epoch, started_ns, last_look_ns) VALUES (?, ?, ?)", row
                ).lastrowid
                or 0
            )
        return dict(self._db.execute("SELECT key, value FROM mark"))

    def last_look_ns(self) -> int | None:
        """Give when a run looked last, the present one included."""
        found: int | None = self._db.execute("SELECT max(last_look_ns) FROM run").fetchone()[0]
        return found

    def name_of(self, key: bytes) -> tuple[str, str] | None:
        """Give how a flow was called when its mark was made, and what said so."""
        row = self._db.execute("SELECT name, name_source FROM mark WHERE key = ?", (key,)).fetchone()
        return (row[0], row[1]) if row and row[0] else None

    def write(self, batch: Batch) -> int:
        """Write what a look has found; returns how many parts found no place of their own."""
        crowded = 0
        with self._transaction():
            for part in batch.parts:
                crowded += not self._add(part)
            self._db.executemany("DELETE FROM mark WHERE key = ?", ((key,) for key in batch.gone))
            self._db.executemany(
                "INSERT OR REPLACE INTO mark VALUES (?, ?, ?, ?)",
                ((key, *mark) for key, mark in batch.marks.items()),
            )
            self._db.executemany(
                "INSERT INTO loss VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count",
                ((*key, count) for key, count in batch.losses.items()),
            )
            if batch.look_ns is not None:
                row = (batch.look_ns, batch.look_ns if batch.over else None, self._run)
                self._db.execute("UPDATE run SET last_look_ns = ?, ended_ns = ? WHERE id = ?", row)
        return crowded

    def _add(self, part: Part) -> bool:
        """Add a part to its cell; False where there is no room for one more of its process or hour."""
        who, place = self._find(part)
        if self._add_to(part, place):
            return True
        if self._has_room(part.hour, who):
            self._insert(part, who, place)
            return True
        nobody = NOBODY._replace(target=part.who.target)
        rest = part._replace(who=nobody if self._squeezed else part.who, place=part.place.other())
        who, place = self._find(rest)
        if not self._add_to(rest, place):
            self._insert(rest, who, place)
        return False

    def _find(self, part: Part) -> tuple[int | None, int | None]:
        """Give the numbers of a part's process and place, as far as they have one."""
        who = self._id(_WHO_FIND, _values(part.who))
        return who, self._id(_PLACE_FIND, (who, *part.place)) if who else None

    def _add_to(self, part: Part, place: int | None) -> bool:
        row = (*part.counts, part.first_ns, part.last_ns, part.hour, place)
        return place is not None and self._db.execute(_CELL_ADD_TO, row).rowcount > 0

    def _insert(self, part: Part, who: int | None, place: int | None) -> None:
        who = who or self._db.execute(_WHO_ADD, _values(part.who)).lastrowid or 0
        place = place or self._db.execute(_PLACE_ADD, (who, *part.place)).lastrowid
        self._db.execute(_CELL_ADD, (part.hour, place, *part.counts, part.first_ns, part.last_ns))
        if (part.hour, who) in self._crowd:
            self._crowd[part.hour, who] += 1

    def _id(self, asked: str, row: tuple[object, ...]) -> int | None:
        found = self._db.execute(asked, row).fetchone()
        return found[0] if found else None

    def _has_room(self, hour: int, who: int | None) -> bool:
        if self._squeezed or who is None:
            return not self._squeezed
        key = (hour, who)
        if key not in self._crowd:
            asked = "SELECT count(*) FROM cell JOIN place ON place = place.id WHERE hour = ? AND who = ?"
            self._crowd[key] = self._db.execute(asked, key).fetchone()[0]
        return self._crowd[key] < self._places_max

    def _about(self, name: str) -> str | int | None:
        row = self._db.execute("SELECT value FROM about WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def _tell_about(self, name: str, value: str | int) -> None:
        self._db.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (name, value))

    # Bounds

    def prune(self, oldest: int, present: int) -> int:
        """Delete whole hours: those before `oldest`, then more while the file is too big, never `present`.

        Returns how many hours were deleted. A present hour that is too big by itself gets no more places.
        """
        self._crowd.clear()
        deleted = 0
        while (hour := self._oldest_hour()) is not None and hour < present:
            if hour >= oldest and not self.tight():
                break
            self._delete(hour)
            deleted += 1
        if deleted:
            self._delete_unused()
        self._squeezed = self.tight()
        return deleted

    def _oldest_hour(self) -> int | None:
        asked = (
            "SELECT min(hour) FROM (SELECT min(hour) AS hour FROM cell UNION ALL SELECT min(hour) FROM loss)"
        )
        found: int | None = self._db.execute(asked).fetchone()[0]
        return found

    def tight(self) -> bool:
        """Tell whether the file comes near its bound, so that it is time to prune."""
        used = self._pragma("page_count") - self._pragma("freelist_count")
        return used > _ROOM * self._pages_max

    def _delete(self, hour: int) -> None:
        until_ns = (hour + 1) * HOUR_NS
        with self._transaction():
            self._db.execute("DELETE FROM cell WHERE hour = ?", (hour,))
            self._db.execute("DELETE FROM loss WHERE hour = ?", (hour,))
            self._tell_about("pruned_until_ns", until_ns)
            # The end of a run begins a gap: it is needed as long as the next run's start is
            later = "SELECT min(id) FROM run WHERE started_ns >= ?"
            self._db.execute(f"DELETE FROM run WHERE id < ({later}) - 1 AND id <> ?", (until_ns, self._run))  # noqa: S608

    def _delete_unused(self) -> None:
        with self._transaction():
            self._db.execute("DELETE FROM place WHERE id NOT IN (SELECT place FROM cell)")
            self._db.execute("DELETE FROM who WHERE id NOT IN (SELECT who FROM place)")
        self._db.execute("PRAGMA incremental_vacuum").fetchall()

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()


def _values(who: ProcessInfo) -> tuple[object, ...]:
    return tuple(getattr(who, name) for name in KIND)


def _damage(what: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(what)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def spoiled(error: sqlite3.Error) -> bool:
    """Tell whether the file is at fault, and not the disk, its room or its permissions."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _SPOILED


def set_aside(path: Path) -> Path:
    """Rename a spoiled file, in place of one that was set aside before; returns its new name."""
    aside = path.with_name(f"{path.name}.broken")
    for end in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + end).replace(aside.with_name(aside.name + end))
    return aside
