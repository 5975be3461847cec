"""Tattle in surroundings that fail: `python -m tests.support.faulty RULES COMMAND...`.

RULES is a JSON file, read again whenever it changes: `[{"call", "path", "errno"}]`. A call of this kind whose
path fits the pattern fails so, where the program makes it. Calls: open, scandir, stat, connect, sendto, clock
(a jump of ten years). How often a rule has struck stands in RULES.hits. What is done
every half minute is done five times a second.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import threading
import time
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

_real_stat, _real_time_ns = os.stat, time.time_ns
_TEN_YEARS_NS = 10 * 365 * 86400 * 10**9
_CALLS = {"open": 0, "os.scandir": 0, "os.listdir": 0, "socket.connect": 1, "socket.sendto": 1}
_own = threading.local()


class Surroundings:
    """The rules that are in force."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._rules: list[dict[str, str]] = []
        self._hits: Counter[str] = Counter()

    def follow(self) -> None:
        """Read the rules again and again, and write down what has struck."""
        _own.exempt = True
        text = ""
        while True:
            time.sleep(0.02)
            with contextlib.suppress(OSError):  # those that the test causes
                text = self._look(text)

    def _look(self, text: str) -> str:
        now = self._file.read_text(encoding="ascii")
        if now and now != text:
            text, self._rules = now, json.loads(now)
            self._hits.clear()
        fresh = self._file.with_suffix(".fresh")
        fresh.write_text(json.dumps({"rules": text, "hits": self._hits.total()}), encoding="ascii")
        fresh.replace(self._file.with_suffix(".hits"))
        return text

    def strike(self, call: str, path: object) -> None:
        """Fail as a rule says, if one does."""
        if getattr(_own, "exempt", False):
            return
        text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        for rule in self._rules:
            if rule["call"] == call and fnmatchcase(text, rule["path"]):
                self._hits[call] += 1
                number = getattr(errno, rule["errno"])
                raise OSError(number, os.strerror(number), text)

    def jump(self) -> int:
        """Return by how much the clock is wrong, in nanoseconds."""
        wrong = any(rule["call"] == "clock" for rule in self._rules)
        self._hits["clock"] += wrong
        return _TEN_YEARS_NS if wrong else 0

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Look at each call that the interpreter tells of."""
        at = _CALLS.get(event)
        if at is not None and len(arguments) > at:
            self.strike(event.removeprefix("os.").removeprefix("socket."), arguments[at])


def _hasten() -> None:
    import tracer.containers.engines  # noqa: PLC0415 - after the hooks are there
    import tracer.daemon.daemon  # noqa: PLC0415
    import tracer.history.recorder  # noqa: PLC0415

    tracer.daemon.daemon.TIDY_S = 0.2  # type: ignore[misc]
    tracer.history.recorder.LOOK_S = tracer.history.recorder.LOOK_MAX_S = 0.2  # type: ignore[misc]
    tracer.containers.engines._DISCOVER_S = 0.2  # type: ignore[misc]
    tracer.containers.engines._DEEP_EVERY = 1  # type: ignore[misc]


def main() -> int:
    """Run tattle."""
    made = Surroundings(Path(sys.argv[1]))
    threading.Thread(target=made.follow, daemon=True).start()

    def stat(path: Any, *more: Any, **options: Any) -> os.stat_result:  # noqa: ANN401 - as os.stat
        made.strike("stat", path)
        return _real_stat(path, *more, **options)

    os.stat = stat
    time.time_ns = lambda: _real_time_ns() + made.jump()
    sys.addaudithook(made.audit)
    _hasten()
    from tracer.__main__ import main as tattle  # noqa: PLC0415

    sys.argv = ["tattle", *sys.argv[2:]]
    return int(tattle() or 0)


if __name__ == "__main__":
    raise SystemExit(main())
