"""What the keys of the live table choose: filter, order, pause, a line, and a block of its target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from exporters.terminal.views import endpoint, place, who

if TYPE_CHECKING:
    from exporters.terminal.views import LiveRow

UP, DOWN, ENTER, ESCAPE, ERASE = "up", "down", "enter", "escape", "erase"
_SPECIAL: Final = {
    "\x1b[A": UP,
    "\x1bOA": UP,
    "\x1b[B": DOWN,
    "\x1bOB": DOWN,
    "\r": ENTER,
    "\n": ENTER,
    "\x1b": ESCAPE,
    "\x7f": ERASE,
    "\b": ERASE,
}
ORDERS: Final = ("newest", "sent", "received", "rate")
_FILTER_MAX: Final = 60
_HELP: Final = "q quit  space pause  s sort  / filter  up/down select  b block"


class Quit(NamedTuple):
    """The user wants to leave."""


class Block(NamedTuple):
    """The user wants this target blocked, and has confirmed it."""

    target: str


def keys(typed: str) -> list[str]:
    """Return the keys of what a terminal sends: characters, or the names above; others are left out."""
    found = []
    at = 0
    while at < len(typed):
        whole = next((name for name in _SPECIAL if len(name) > 1 and typed.startswith(name, at)), typed[at])
        if whole == "\x1b" and typed[at + 1 : at + 2] in {"[", "O"}:  # a key that means nothing here
            at += 2
            while at < len(typed) and not "@" <= typed[at] <= "~":
                at += 1
            at += 1
            continue
        found.append(_SPECIAL.get(whole, whole))
        at += len(whole)
    return [key for key in found if len(key) > 1 or key.isprintable()]


@dataclass
class Choice:
    """What is chosen now; `may_block`: the user is root, and a daemon runs."""

    may_block: bool
    filter: str = ""
    order: str = ORDERS[0]
    is_paused: bool = False
    said: str = ""
    _selected: int | None = None
    _is_typing: bool = False
    _asked: str | None = None  # the target that is to be confirmed
    _rows: int = 0
    _target: str | None = None  # of the selected line

    def press(self, key: str) -> Quit | Block | None:
        """Take a key; returns what it takes more than another picture."""
        self.said = ""
        if self._asked is not None:
            return self._confirm(key)
        if self._is_typing:
            self._type(key)
            return None
        return self._command(key)

    def _command(self, key: str) -> Quit | None:
        if key == "q":
            return Quit()
        if key == " ":
            self.is_paused = not self.is_paused
        elif key == "s":
            self.order = ORDERS[(ORDERS.index(self.order) + 1) % len(ORDERS)]
        elif key == "/":
            self._is_typing = True
        elif key == ESCAPE:
            self.filter, self._selected = "", None
        elif key in {UP, "k", DOWN, "j"}:
            self._move(-1 if key in {UP, "k"} else 1)
        elif key == "b":
            self._ask()
        return None

    def _move(self, step: int) -> None:
        first = 0 if step > 0 else self._rows - 1
        self._selected = first if self._selected is None else self._selected + step

    def _type(self, key: str) -> None:
        if key == ERASE:
            self.filter = self.filter[:-1]
        elif key in {ENTER, ESCAPE}:
            self._is_typing = False
            self.filter = self.filter if key == ENTER else ""
        elif len(key) == 1 and len(self.filter) < _FILTER_MAX:
            self.filter += key

    def _ask(self) -> None:
        if not self.may_block:
            self.said = "blocking takes root and a daemon: sudo tattle watch, beside sudo tattle run"
        elif self._selected is None:
            self.said = "select a line first: up or down"
        elif self._target is None:
            self.said = "this process is in no target; see tattle block --help"
        else:
            self._asked = self._target

    def _confirm(self, key: str) -> Block | None:
        asked, self._asked = self._asked, None
        if key == "y" and asked is not None:
            return Block(asked)
        self.said = "nothing was blocked"
        return None

    def arranged(self, rows: list[LiveRow], room: int) -> list[LiveRow]:
        """Return the rows to show, at most `room`, filtered and in order; given newest first."""
        wanted = self.filter.casefold()
        shown = [row for row in rows if wanted in _words(row)] if wanted else list(rows)
        if self.order == "rate":
            shown.sort(key=lambda row: row.rate, reverse=True)
        elif self.order != ORDERS[0]:
            counter = "bytes_out" if self.order == "sent" else "bytes_in"
            shown.sort(key=lambda row: row.flow[counter], reverse=True)
        shown = shown[:room]
        self._rows = len(shown)
        if self._selected is not None:
            self._selected = min(max(self._selected, 0), len(shown) - 1) if shown else None
        if self._asked is None:
            target = None if self._selected is None else shown[self._selected].flow["target"]
            self._target = str(target) if target else None
        return shown

    @property
    def selected(self) -> int | None:
        """The selected line of those that are shown."""
        return self._selected

    def line(self) -> str:
        """Return the last line of the picture: a question, an answer, or what the keys do."""
        if self._asked is not None:
            return f"block {self._asked}: deny all that it starts? y/n"
        if self._is_typing:
            return f"filter: {self.filter}_  (enter: keep, escape: none)"
        if self.said:
            return self.said
        now = [self.order] + (["paused"] if self.is_paused else [])
        now += [f"filter {self.filter!r}"] if self.filter else []
        return f"{_HELP}  [{', '.join(now)}]"


def _words(row: LiveRow) -> str:
    """Return the text of a line that a filter looks at."""
    flow = row.flow
    parts = (who(flow), place(flow), endpoint(flow, addresses=True), flow["proto"], flow["scope"])
    return " ".join([*map(str, parts), str(flow["purpose"] or "")]).casefold()
