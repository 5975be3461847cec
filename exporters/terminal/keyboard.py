"""A terminal whose keys are read as they are pressed, and which is as it was afterwards, whatever happens."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_READ: Final = 256
_WATCHED: Final = (signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH, signal.SIGTERM, signal.SIGHUP)


class Ended(Exception):  # noqa: N818 - it is no error: a signal asks to end
    """A signal asks to end, once the terminal is as it was."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Keyboard:
    """Reads keys without echo; `leave` and `enter` are called around a stop (Ctrl-Z), for the picture."""

    def __init__(self, leave: Callable[[], None], enter: Callable[[], None]) -> None:
        self._leave, self._enter = leave, enter
        self._signals: list[int] = []
        self._before: dict[int, Any] = {}
        self._mode: list[Any] | None = None
        self._waker = os.pipe()

    def __enter__(self) -> Self:
        """Take the terminal, where standard input is one and ours."""
        for end in self._waker:
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._waker[1], warn_on_full_buffer=False)
        for number in _WATCHED:
            self._before[number] = signal.signal(number, self._note)
        self._take()
        return self

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        self._give_back()
        for number, before in self._before.items():
            signal.signal(number, before)
        signal.set_wakeup_fd(-1)
        for end in self._waker:
            os.close(end)

    def _note(self, number: int, _: FrameType | None) -> None:
        self._signals.append(number)

    def _take(self) -> None:
        if self._mode is None and is_ours():
            self._mode = termios.tcgetattr(0)
            tty.setcbreak(0, termios.TCSADRAIN)

    def _give_back(self) -> None:
        if self._mode is not None and is_ours():
            termios.tcsetattr(0, termios.TCSADRAIN, self._mode)
        self._mode = None

    def wait(self, seconds: float) -> str:
        """Wait for a key or a signal, no longer than so; returns what was typed. Raises Ended."""
        waited = [self._waker[0], *([0] if self._mode is not None else [])]
        ready, _, _ = select.select(waited, [], [], max(seconds, 0))
        if self._waker[0] in ready:
            os.read(self._waker[0], _READ)
        while self._signals:
            self._handle(self._signals.pop(0))
        if 0 not in ready or self._mode is None:
            return ""
        typed = os.read(0, _READ)
        if not typed:
            raise Ended(signal.SIGHUP)
        return typed.decode("utf-8", "ignore")

    def _handle(self, number: int) -> None:
        if number in {signal.SIGTERM, signal.SIGHUP}:
            raise Ended(number)
        if number == signal.SIGTSTP:
            self._leave()
            self._give_back()
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTSTP)  # returns when a shell has us go on
            signal.signal(signal.SIGTSTP, self._note)
            self._take()
            self._enter()
        elif number == signal.SIGCONT and self._mode is None:
            self._take()


def is_ours() -> bool:
    """Say whether standard input is a terminal of which this is the foreground program."""
    try:
        return sys.stdin.isatty() and os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False
