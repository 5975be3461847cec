"""What the kernel half notices of targets, in the log: processes that stay in one, and those held."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from tracer.model.process import comm_text
from tracer.model.text import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tracer.model.rows import NoticeRow
    from tracer.targets.processes import Registry

log = structlog.get_logger("tattle")

LINES_MAX: Final = 20
SPAN_S: Final = 10.0
"""So many lines are written within so many seconds; what is left out is counted in the next one."""


class NoticeTeller:
    """Logs notices, as often as a reader can take."""

    def __init__(
        self,
        enums: dict[str, dict[str, int]],
        registry: Registry,
        proc: Path = Path("/proc"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`registry` names targets and cgroups; `clock` counts seconds."""
        kinds = enums["notice_kind"]
        self._moved, self._held = kinds["NOTICE_MOVED"], kinds["NOTICE_HELD_PROCESS"]
        self._registry = registry
        self._proc = proc
        self._clock = clock
        self._began = -SPAN_S
        self._lines = self._left_out = 0

    def tell(self, rows: Iterable[NoticeRow]) -> None:
        """Log those that a person should know of."""
        for row in rows:
            if row.kind in {self._moved, self._held}:
                self._one(row)

    def _one(self, row: NoticeRow) -> None:
        now = self._clock()
        if now - self._began >= SPAN_S:
            self._began, self._lines = now, 0
        if self._lines >= LINES_MAX:
            self._left_out += 1
            return
        self._lines += 1
        fields = {
            "target": ", ".join(map(escape, self._registry.targets(row.target))) or None,
            "pid": row.id,
            "comm": self._comm(row.id),
            "cgroup": escape(self._registry.cgroup(row.cgroup) or "?"),
        }
        if self._left_out:
            fields["left_out"], self._left_out = self._left_out, 0
        if row.kind == self._moved:
            log.info("moved to another cgroup, and still in the target", **fields)
        else:
            log.warning("held: what it runs could not be read", **fields)

    def _comm(self, pid: int) -> str | None:
        """Return the name of a process; None where it is gone."""
        try:
            return escape(comm_text((self._proc / str(pid) / "comm").read_bytes().rstrip(b"\n")))
        except OSError:
            return None
