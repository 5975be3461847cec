"""What `run` and a `watch` of its own share: the engine with everything that reads it, composed once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, NamedTuple

from tracer.accounts import Accounts
from tracer.clock import BootClock
from tracer.control import encode, notice
from tracer.decode import Decoder
from tracer.engine import Engine, EngineOptions
from tracer.hostfs import cgroup2_root
from tracer.registry import Registry
from tracer.targeting import Targeting
from tracer.targets import Finder, TargetBook

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tracer.abi import EventTuple
    from tracer.identity import ProcessInfo
    from tracer.maps import Maps

LOSSES_EVERY_S: Final = 1.0
BATCH: Final = 512  # events that are text at the same time: a full ring would be 25 MB of it


class Line(NamedTuple):
    """An event as a line of JSON, with its newline, and whose it is."""

    who: ProcessInfo | None
    text: bytes


def readers(engine: Engine, book: TargetBook) -> tuple[Accounts, Targeting]:
    """Put together what reads an engine's maps."""
    decoder = Decoder(engine.abi.enums)
    registry = Registry(engine.maps, engine.abi.enums, book.name)
    accounts = Accounts(engine.maps, registry, decoder, BootClock())
    return accounts, Targeting(engine.maps, Finder(cgroup2_root()), book)


class Core:
    """An attached engine and its readers; `close` takes it out of the kernel."""

    def __init__(self, options: EngineOptions, state: Path | None) -> None:
        """Load and attach; `state` is where targets' numbers are kept (None: nowhere)."""
        self.book = TargetBook(state / "targets.json" if state else None)
        self.engine = Engine.open(options)
        self.accounts, self.targeting = readers(self.engine, self.book)
        if self.engine.adopted:
            self.engine.maps.clear_targets()
        self.ring = self.engine.ring()
        self._losses = LossTeller(self.engine.maps)

    def events(self, *, wanted: bool) -> Iterator[list[Line]]:
        """Take all events from the ring, in batches; `wanted` False throws them away unread."""
        rows = self.ring.drain()
        for start in range(0, len(rows) if wanted else 0, BATCH):
            yield [self._line(row) for row in rows[start : start + BATCH]]

    def _line(self, row: EventTuple) -> Line:
        who = self.accounts.registry.get(row.process)
        return Line(who, encode(self.accounts.decoder.event(row, who, self.accounts.clock.boot_ns)) + b"\n")

    def losses(self) -> Iterator[bytes]:
        """Yield a `lost` line for each loss of the kernel half that moved since the last call."""
        return self._losses.lines()

    def close(self) -> None:
        """Detach, unpin, let go. May be called twice."""
        self.accounts.close()
        self.ring.close()
        self.engine.close()


class LossTeller:
    """Notices loss counters that move, at most once in `LOSSES_EVERY_S`."""

    def __init__(self, maps: Maps) -> None:
        self._maps = maps
        self._told = maps.losses()
        self._next = 0.0

    def lines(self) -> Iterator[bytes]:
        """Yield a line for each counter that moved since it was told last."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + LOSSES_EVERY_S
        now = self._maps.losses()
        for reason, count in now.items():
            if count > self._told.get(reason, 0):
                yield notice(reason, count - self._told.get(reason, 0))
        self._told = now
