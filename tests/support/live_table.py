"""The live table of `tattle watch`, of flows that are made up: `python -m tests.support.live_table`."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from tracer.cli.live import Table, show
from tracer.model.records import timestamp

if TYPE_CHECKING:
    from collections.abc import Iterator


def flow(comm: str, sent: int, target: str | None) -> dict[str, Any]:
    """Return a flow."""
    now = timestamp(time.time_ns())
    return {
        "comm": comm,
        "pid": 7,
        "target": target,
        "container": None,
        "unit": None,
        "cgroup": "/a",
        "remote_addr": "192.0.2.1",
        "remote_port": 443,
        "name": None,
        "names": [],
        "proto": "tcp",
        "scope": "internet",
        "purpose": None,
        "unexpected": False,
        "direction": "out",
        "denied": 0,
        "attempts": 1,
        "established": 1,
        "bytes_out": sent,
        "bytes_in": 0,
        "phase": "idle",
        "first_seen": now,
        "last_seen": now,
    }


class Source:
    """Flows that stay as they are."""

    name = "made up"

    def lines(self, until: float) -> Iterator[list[bytes]]:
        """Yield nothing: the table asks for flows."""
        del until
        yield []

    def snapshot(self, newest: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return a head and two flows."""
        flows = [flow("curl", 10, None), flow("llama", 9000, "ollama")][:newest]
        since = timestamp(time.time_ns())
        return {"since": since, "losses": {}, "totals": {}, "count": len(flows)}, flows


if __name__ == "__main__":
    show(Table(Source(), "tattle", None, addresses=False), float("inf"))
    sys.stdout.write("ended\n")
