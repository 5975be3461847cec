"""A kernel's table that outlives its daemons, which write one history: for tests that need no kernel."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from typing import TYPE_CHECKING, Any

from tests.support.fakes import ENUMS, FakeMaps, flow, process
from tracer.config import History
from tracer.history.reader import open_history
from tracer.history.recorder import Recorder
from tracer.history.store import HOUR_NS, Store
from tracer.host.clock import BootClock
from tracer.model.destination import NAMELESS, Name, Named
from tracer.model.records import Decoder
from tracer.session.flows import Accounts
from tracer.targets.processes import Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pytest

    from tracer.history.reader import Gap, Seen
    from tracer.history.store import Batch
    from tracer.model.rows import FlowRow

SECOND = 10**9
MINUTE = 60 * SECOND
HOUR = 480_000  # since the epoch
NOW = HOUR * HOUR_NS + 1800 * SECOND
BOOT = NOW - 86400 * SECOND
NEVER = 1 << 62


class Clock:
    """Time as the test sets it, for wall and boot alike."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = NOW
        monkeypatch.setattr(time, "time_ns", lambda: self.now)
        monkeypatch.setattr(time, "clock_gettime_ns", lambda _: self.now - BOOT)

    @property
    def boot(self) -> int:
        """Give CLOCK_BOOTTIME."""
        return self.now - BOOT


class Scene:
    """A kernel's table that outlives its daemons, and one file."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self.clock = clock
        self.maps = FakeMaps(processes=[process(), process(2, b"wget", tgid=77)])
        self.names: dict[bytes, str] = {}
        self.begin()

    def begin(self) -> None:
        """Start a daemon; the one before was killed if it was not ended."""
        registry = Registry(self.maps, ENUMS, {1: "ollama"}.get)  # type: ignore[arg-type]
        self.accounts = Accounts(self.maps, registry, Decoder(ENUMS), BootClock())  # type: ignore[arg-type]
        self.accounts.named = lambda row, _: self._named(row)
        self.recorder = Recorder(self.accounts, self.path, History())

    def _named(self, row: FlowRow) -> Named:
        if row.remote not in self.names or row.direction:
            return NAMELESS
        found = Name(self.names[row.remote], "sni", own=True, age_ns=0)
        return Named(found, (found,))

    def end(self) -> None:
        """Stop the daemon as a signal does."""
        assert self.recorder.look(over=True)
        self.recorder._forget_store()

    def move(self, size: int = 100, age: int = 2 * SECOND, **key: Any) -> None:  # noqa: ANN401 - as of a flow
        """Have a packet of a flow counted, in its row or a new one, which is that old."""
        fresh = flow(first_ns=self.clock.boot - age, last_ns=self.clock.boot, **key)
        old = next((row for row in self.maps.rows if row[:6] == fresh[:6]), fresh)
        moved = old._replace(
            bytes_out=old.bytes_out + size, packets_out=old.packets_out + 1, last_ns=self.clock.boot
        )
        self.maps.rows = [row for row in self.maps.rows if row[:6] != fresh[:6]] + [moved]

    def settle(self) -> None:
        """Have all idle flows leave the kernel's table."""
        self.accounts._settle(0)

    def seen(self) -> list[Seen]:
        """Read all sums."""
        with open_history(self.path) as found:
            return list(found.seen(0, NEVER))

    def gaps(self) -> list[Gap]:
        """Read all gaps."""
        with open_history(self.path) as found:
            return found.gaps(0, self.clock.now)

    def losses(self) -> dict[str, int]:
        """Read all losses."""
        with open_history(self.path) as found:
            return found.losses(0, NEVER)

    def marks(self) -> int:
        """Count the marks of flows, the two of what found no room included."""
        with contextlib.closing(sqlite3.connect(self.path)) as db:
            asked = "SELECT count(*) FROM mark WHERE key NOT LIKE 'loss/%'"
            return int(db.execute(asked).fetchone()[0])

    def total(self) -> int:
        """Sum the bytes up."""
        return sum(row.bytes_out for row in self.seen())


@contextlib.contextmanager
def during_the_write(
    monkeypatch: pytest.MonkeyPatch, what: Callable[[], None], *, fails: int
) -> Iterator[None]:
    """Have something happen while batches are written, and the first or second writing fail, or none."""
    write, written = Store.write, iter(range(1, 1000))

    def slow(self: Store, batch: Batch) -> int:
        what()
        if next(written) == fails:
            raise sqlite3.OperationalError("disk I/O error")
        return write(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", slow)
        yield
