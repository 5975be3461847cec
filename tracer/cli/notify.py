"""`tattle notify`: what the daemon tells, as notices on this desktop."""

from __future__ import annotations

import select
import shutil
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tracer.cli.command import Command
from tracer.errors import HostError, UsageError
from tracer.model.text import escape
from tracer.notify.decisions import Decisions, Notice
from tracer.notify.feed import Feed, door

if TYPE_CHECKING:
    import argparse

    from tracer.notify.desktop import Desktop

_RETRY_S: Final = 5.0  # where no server shows a notice
_PENDING_MAX: Final = 20  # notices that wait for a server; older ones go
_DAY_S: Final = 86400.0


class _Loop:
    """Waits for the daemon, the bus and what is due, in one place."""

    def __init__(self, feed: Feed, desktop: Desktop, decisions: Decisions) -> None:
        self._feed, self._desktop, self._decisions = feed, desktop, decisions
        self._pending: list[Notice] = []
        self._again_at = 0.0

    def turn(self) -> None:
        """Wait for something, and do what it takes."""
        self._feed.connect()
        waited: list[Any] = [self._desktop, *self._feed.sockets]
        ready, _, _ = select.select(waited, [], [], self._pause())
        if self._desktop in ready:
            self._desktop.drain()
        now = time.monotonic()
        if len(ready) > (self._desktop in ready):
            for event in self._feed.read():
                self._decisions.take(event, now)
        self._show(now)

    def _pause(self) -> float:
        now = time.monotonic()
        waits = [self._decisions.wait(now), self._feed.wait()]
        waits += [max(self._again_at - now, 0.0)] if self._pending else []
        return min((one for one in waits if one is not None), default=_DAY_S)

    def _show(self, now: float) -> None:
        fresh = self._decisions.due(now)
        self._pending = (self._pending + fresh)[-_PENDING_MAX:]
        if not fresh and now < self._again_at:
            return
        while self._pending:
            if not self._desktop.show(self._pending[0]):
                self._again_at = now + _RETRY_S
                return
            del self._pending[0]


def notify(instance: str) -> int:
    """Show notices until the session ends; returns the exit code."""
    from tracer.notify.desktop import Desktop, Gone

    with ExitStack() as stack:
        desktop = Desktop()
        stack.callback(desktop.close)
        feed = Feed(door(instance))
        stack.callback(feed.close)
        loop = _Loop(feed, desktop, Decisions(instance))
        try:
            while True:
                loop.turn()
        except (Gone, KeyboardInterrupt):
            return 0


def _command() -> str:
    """Return the path of this program, as an entry needs it."""
    own = Path(sys.argv[0]).absolute()
    found = str(own) if own.name == "tattle" and own.exists() else shutil.which("tattle")
    if found is None:
        raise HostError("no command tattle on the PATH", "install it: sudo make install, or make deb")
    return found


def _add_notify(parser: argparse.ArgumentParser) -> None:
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--enable", action="store_true", help="start with each desktop session of yours")
    either.add_argument("--disable", action="store_true", help="start with them no more")


def _notify(arguments: argparse.Namespace) -> int:
    from tracer.notify import autostart

    if arguments.enable or arguments.disable:
        if arguments.instance != "tattle":
            raise UsageError("the autostart entry is for the instance tattle", "leave --instance out")
        path = autostart.enable(_command()) if arguments.enable else autostart.disable()
        said = "starts with your next session" if arguments.enable else "starts no more with your sessions"
        sys.stdout.write(f"tattle notify {said} ({escape(str(path))})\n")
        return 0
    return notify(arguments.instance)


COMMAND: Final = Command(
    "notify",
    "notices on this desktop: what a model contacted that it should not",
    "Run in a desktop session, without root. Shows a notice for a new unexpected destination of a target, "
    "for data that left while a target answered a prompt, and for a block that is not in force, each with "
    "the purpose and the command that acts. What comes together is one notice; there are at most five at "
    "once, then one a minute. Waits for the daemon where there is none, and through its restarts. The daemon "
    "tells root and the members of adm, sudo, wheel and systemd-journal; [notify] groups in the "
    "configuration names others.",
    "  tattle notify\n  tattle notify --enable",
    _add_notify,
    _notify,
)
