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

    from tracer.identity import ProcessInfo
    from tracer.maps import Maps

LOSSES_EVERY_S: Final = 1.0


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

    def events(self, *, wanted: bool) -> list[Line]:
        """Take all events from the ring; `wanted` False throws them away unread."""
        rows = self.ring.drain()
        if not wanted:
            return []
        event, get, boot_ns = (
            self.accounts.decoder.event,
            self.accounts.registry.get,
            self.accounts.clock.boot_ns,
        )
        lines = []
        for row in rows:
            who = get(row.process)
            lines.append(Line(who, encode(event(row, who, boot_ns)) + b"\n"))
        return lines

    def losses(self) -> Iterator[bytes]:
        """Yield a `lost` line for each loss of the kernel half that moved since the last call."""
        return self._losses.lines()

    def close(self) -> None:
        """Detach, unpin, let go. May be called twice."""
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
