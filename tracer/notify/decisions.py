"""Which events become which notice: grouped by target, spaced in time, bounded; the clock is an argument.

An event is one of the JSON contract, or one of two that the daemon adds for desktops:
``{"event": "sent", ...}`` a flow that has sent data since the last look while its target answered a prompt,
and ``{"event": "ill", "ill": [...]}`` all that should be in force now and is not.
"""

from __future__ import annotations

import enum
import shlex
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from tracer.model.text import escape

Json = dict[str, Any]

GATHER_S: Final = 5.0  # what comes within it is one notice
SPACING_S: Final = 60.0  # between two notices of one kind about one target
AGAIN_S: Final = 3600.0  # a destination that was told of during a prompt is told of again after so long
BURST: Final = 5  # notices at once; after that one each SPACING_S
SHOWN: Final = 4  # destinations of a notice that are named
NAME_MAX: Final = 80  # characters of a stranger's name
KNOWN_MAX: Final = 4096  # destinations that are remembered as told
WAITING_MAX: Final = 1000  # of one notice; the rest is counted
_AWAY: Final = frozenset({"lan", "internet", "multicast"})
_CONTACTS: Final = frozenset({"connect", "established", "send", "deny", "sent"})
_EGRESS: Final = frozenset({"established", "send", "sent"})


class Kind(enum.Enum):
    """What a notice is about."""

    UNEXPECTED = "unexpected"
    PROMPT = "prompt"
    ILL = "ill"


class Key(NamedTuple):
    """Notices of one key are grouped; `about` is the target, empty for the kernel half as a whole."""

    kind: Kind
    about: str


@dataclass(frozen=True)
class Notice:
    """One notice in plain text: strangers' names are printable, markup is the desktop's concern."""

    key: Key
    summary: str
    body: str
    urgent: bool = False


@dataclass
class _Waiting:
    """What waits to be told under one key."""

    since: float
    places: dict[str, tuple[str, bool]] = field(default_factory=dict)  # by name: why, and was it stopped
    more: int = 0


def concerns(line: bytes) -> bool:
    """Say of an event as a line of JSON whether a desktop may want it.

    A name that contains these words has its quotation marks behind backslashes.
    """
    outward = b'"direction":"out"' in line
    return outward and (b'"unexpected":true' in line or b'"phase":"inference"' in line)


class Decisions:
    """Takes events, and says what is due to be shown when; times are monotonic seconds."""

    def __init__(self, instance: str = "tattle") -> None:
        self._option = "" if instance == "tattle" else f" --instance {shlex.quote(instance)}"
        self._waiting: dict[Key, _Waiting] = {}
        self._ill: tuple[str, ...] = ()
        self._ill_shown: tuple[str, ...] = ()
        self._ill_since = 0.0
        self._told: OrderedDict[tuple[Key, str], float] = OrderedDict()
        self._last: dict[Key, float] = {}
        self._recent: deque[float] = deque(maxlen=BURST)

    def take(self, event: Json, now: float) -> None:
        """Take an event in."""
        if event.get("event") == "ill":
            self._ill = tuple(map(str, event["ill"]))
            self._ill_since = now
        elif (kind := _kind(event)) is not None:
            self._contact(Key(kind, str(event["target"])), event, now)

    def _contact(self, key: Key, event: Json, now: float) -> None:
        place = _place(event)
        stopped = event.get("verdict") == "denied"
        waiting = self._waiting.get(key)
        if waiting is not None and place in waiting.places:  # one try that was not stopped counts
            why, before = waiting.places[place]
            waiting.places[place] = why, before and stopped
            return
        if self._is_told((key, place), now):
            return
        waiting = self._waiting.setdefault(key, _Waiting(now))
        if len(waiting.places) < WAITING_MAX:
            waiting.places[place] = _why(event), stopped
        else:
            waiting.more += 1

    def _is_told(self, what: tuple[Key, str], now: float) -> bool:
        """Say whether it was told already, and note it as told."""
        before = self._told.get(what)
        if before is not None and (what[0].kind is Kind.UNEXPECTED or now - before < AGAIN_S):
            self._told.move_to_end(what)
            return True
        self._told[what] = now
        self._told.move_to_end(what)
        if len(self._told) > KNOWN_MAX:
            self._told.popitem(last=False)
        return False

    def wait(self, now: float) -> float | None:
        """Return the seconds until something is due; None: nothing waits."""
        times = [self._due_at(key, one.since) for key, one in self._waiting.items()]
        if self._ill != self._ill_shown:
            times.append(self._due_at(_ILL, self._ill_since))
        return max(min(times) - now, 0.0) if times else None

    def _due_at(self, key: Key, since: float) -> float:
        spaced = self._last.get(key, float("-inf")) + SPACING_S
        full = self._recent[0] + BURST * SPACING_S if len(self._recent) == BURST else float("-inf")
        return max(since + GATHER_S, spaced, float("-inf") if key is _ILL else full)

    def due(self, now: float) -> list[Notice]:
        """Return what is to be shown now; it waits no longer."""
        found = []
        if self._ill != self._ill_shown and self._due_at(_ILL, self._ill_since) <= now:
            found.append(_standing(self._ill, self._option))
            self._ill_shown = self._ill
            self._last[_ILL] = now
        for key, waiting in list(self._waiting.items()):
            if self._due_at(key, waiting.since) <= now:
                found.append(_contacts(key, waiting, self._option))
                del self._waiting[key]
                self._last[key] = now
                self._recent.append(now)
        return found


_ILL: Final = Key(Kind.ILL, "")


def _kind(event: Json) -> Kind | None:
    """Return what an event would be told as; None: it is no news."""
    if not event.get("target") or event.get("direction") != "out" or event.get("scope") not in _AWAY:
        return None
    kind = event.get("event")
    if event.get("unexpected") and kind in _CONTACTS:
        return Kind.UNEXPECTED
    during = event.get("phase") == "inference" and event.get("verdict") != "denied"
    return Kind.PROMPT if during and kind in _EGRESS else None


def _place(event: Json) -> str:
    return escape(str(event.get("name") or event.get("remote_addr") or "?"), NAME_MAX)


def _why(event: Json) -> str:
    """Say in words what a destination is for."""
    during = " during a prompt" if event.get("phase") == "inference" else ""
    if event.get("unexpected"):
        return f"not in its profile{during}"
    return escape(str(event.get("purpose") or "purpose unknown"), NAME_MAX)


def _contacts(key: Key, waiting: _Waiting, option: str) -> Notice:
    """Word a notice about destinations."""
    places = waiting.places
    who = escape(key.about, NAME_MAX)
    lines = [
        f"{place}: {why}{', stopped' if stopped else ''}"
        for place, (why, stopped) in list(places.items())[:SHOWN]
    ]
    more = len(places) - len(lines) + waiting.more
    lines += [f"and {more} more"] if more else []
    stopped = all(stopped for _, stopped in places.values())
    act = "See all of it" if stopped else "Stop it"
    command = "flows" if stopped else "block"
    lines.append(f"{act}: sudo tattle {command} {shlex.quote(escape(key.about))}{option}")
    return Notice(key, _summary(key.kind, who, len(places) + waiting.more, stopped=stopped), "\n".join(lines))


def _summary(kind: Kind, who: str, count: int, *, stopped: bool) -> str:
    if kind is Kind.PROMPT:
        return f"{who} sent data while it answered a prompt"
    what = "an unexpected destination" if count == 1 else f"{count} unexpected destinations"
    return f"{who} was kept from {what}" if stopped else f"{who} contacted {what}"


def _standing(ill: tuple[str, ...], option: str) -> Notice:
    """Word what is not in force, or that all is again."""
    if not ill:
        return Notice(_ILL, "All blocks are in force again", f"sudo tattle status{option}")
    shown = [escape(one, 2 * NAME_MAX) for one in ill[:SHOWN]]
    shown += [f"and {len(ill) - SHOWN} more"] if len(ill) > SHOWN else []
    shown += [f"See why: sudo tattle status{option}", f"Put it in force: sudo tattle restore{option}"]
    return Notice(_ILL, "A block is not in force", "\n".join(shown), urgent=True)
