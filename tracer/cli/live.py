"""The live table of `tattle watch` on a terminal, and what its keys do."""

from __future__ import annotations

import os
import select
import signal
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from rich.console import Group
from rich.live import Live
from rich.text import Text

from exporters.terminal import views
from exporters.terminal.choice import Block, Choice, Quit, keys
from exporters.terminal.keyboard import Ended, Keyboard, is_ours
from tracer.errors import TattleError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tracer.cli.watch import Source

Json = dict[str, Any]

FRAME_S: Final = 0.2
FRAMES_AFTER: Final = 4  # a frame that took long to get is followed by a pause so many times as long
ROWS_MAX: Final = 200
_AROUND: Final = 5  # lines of a picture that are no flows
_BUSY_S: Final = 10.0  # flows seen within it stand by their beginning, so that lines do not jump about
_COUNTERS: Final = (
    *("attempts", "established", "denied", "bytes_out", "bytes_in"),
    *("packets_out", "packets_in", "payload_out"),
)


class Table:
    """What the picture shows: the newest flows, or those of the time when it was paused."""

    def __init__(self, source: Source, instance: str, engine: str | None, *, addresses: bool) -> None:
        self._source, self._instance, self._engine = source, instance, engine
        self._addresses = addresses
        self._rates = views.Rates()
        self._head: Json = {}
        self._rows: list[views.LiveRow] = []
        self.console = views.console()
        self.choice = Choice(may_block=os.geteuid() == 0 and source.name == "daemon")

    def look(self) -> None:
        """Ask for the flows of now, unless paused."""
        if self.choice.is_paused and self.is_filled:
            return
        begun = time.monotonic()
        self._head, flows = self._source.snapshot(ROWS_MAX)
        flows = merged(flows)
        now = time.time()
        ages = [now - _seconds(flow["last_seen"]) for flow in flows]
        speeds = self._rates.update(flows, begun)
        order = sorted(range(len(flows)), key=lambda at: _rank(flows[at], ages[at]), reverse=True)
        self._rows = [views.LiveRow(flows[at], speeds[at], ages[at]) for at in order]

    @property
    def is_filled(self) -> bool:
        """Whether there was a look that succeeded."""
        return bool(self._head)

    def picture(self, *, with_keys: bool) -> RenderableType:
        """Return what is to be seen."""
        rows = self._arranged(with_keys=with_keys)
        if with_keys and self.choice.selected is not None:
            rows[self.choice.selected] = rows[self.choice.selected]._replace(is_selected=True)
        width = self.console.width
        frame = views.live(self._head, rows, self._source.name, width, addresses=self._addresses)
        if not with_keys:
            return frame
        line = Text(self.choice.line(), style="reverse", no_wrap=True, overflow="ellipsis")
        return Group(frame, Text(), line)

    def _arranged(self, *, with_keys: bool) -> list[views.LiveRow]:
        return self.choice.arranged(self._rows, max(self.console.height - _AROUND - with_keys, 1))

    def press(self, key: str) -> bool:
        """Do what a key means; returns whether to go on."""
        self._arranged(with_keys=True)  # several keys may come before the next picture
        asked = self.choice.press(key)
        if isinstance(asked, Block):
            self.choice.said = self._block(asked.target)
        return not isinstance(asked, Quit)

    def _block(self, target: str) -> str:
        """Block a target, rules that it has included; returns what is to be said."""
        from tracer.cli.perform import block_target

        try:
            return block_target(self._instance, target, self._engine)
        except TattleError as error:
            return f"{error.message}; hint: {error.hint}"


def show(table: Table, until: float) -> None:
    """Draw until the time `until` (monotonic seconds); keys are read where standard input is a terminal."""
    if is_ours():
        _show_with_keys(table, until)
        return
    with Live(console=table.console, auto_refresh=False, vertical_overflow="crop") as screen:
        while (begun := time.monotonic()) < until:
            table.look()
            screen.update(table.picture(with_keys=False), refresh=True)
            select.select([], [], [], max(_next(begun, until) - time.monotonic(), 0))


def _next(begun: float, until: float) -> float:
    """Return when to look again, after a look that began then: later where looks are dear."""
    now = time.monotonic()
    return min(now + max(FRAME_S, FRAMES_AFTER * (now - begun)), until)


def _show_with_keys(table: Table, until: float) -> None:
    """Draw on the terminal's other screen; what was to be seen last stays on the first one."""
    ended = 0
    screen = Live(console=table.console, auto_refresh=False, screen=True)
    try:
        with Keyboard(screen.stop, screen.start) as keyboard, screen:
            _draw(table, screen, keyboard, until)
    except Ended as error:
        ended = error.number
    finally:
        if table.is_filled:
            table.console.print(table.picture(with_keys=False))
    if ended:
        signal.signal(ended, signal.SIG_DFL)
        os.kill(os.getpid(), ended)


def _draw(table: Table, screen: Live, keyboard: Keyboard, until: float) -> None:
    while (begun := time.monotonic()) < until:
        table.look()
        again = _next(begun, until)
        while True:
            screen.update(table.picture(with_keys=True), refresh=True)
            typed = keyboard.wait(again - time.monotonic())
            if not all(map(table.press, keys(typed))):
                return
            if time.monotonic() >= again:
                break


def merged(flows: list[Json]) -> list[Json]:
    """Sum up what one process accepted from one address: the ports there are chance, and many."""
    found: dict[object, Json] = {}
    for flow in flows:
        if flow["direction"] != "in":
            found[len(found)] = flow
            continue
        key = (flow["pid"], flow["comm"], flow["remote_addr"], flow["proto"])
        before = found.get(key)
        found[key] = flow | {"remote_port": None} if before is None else _sum(before, flow)
    return list(found.values())


def _sum(one: Json, other: Json) -> Json:
    sums = {name: one[name] + other[name] for name in _COUNTERS}
    first, last = min(one["first_seen"], other["first_seen"]), max(one["last_seen"], other["last_seen"])
    return one | sums | {"first_seen": first, "last_seen": last}


def _rank(flow: Json, age: float) -> tuple[bool, str]:
    """Order flows: busy ones by their beginning, newest first, then the quiet by when they were seen last."""
    busy = age < _BUSY_S
    return busy, flow["first_seen"] if busy else flow["last_seen"]


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()
