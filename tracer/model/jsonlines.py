"""JSON lines: events as bytes, and the line that says what was lost."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from tracer.model.process import NOBODY
from tracer.model.records import lost_json

EVERYBODY: Final = NOBODY._replace(comm="tattle")  # whose events every watcher gets: what was lost


encode = msgspec.json.Encoder().encode


decode = msgspec.json.Decoder(dict[str, Any]).decode


def notice(reason: str, count: int, now_ns: int) -> bytes:
    """Return the line that says what was lost; `now_ns` in nanoseconds since the epoch."""
    return encode(lost_json(reason, count, now_ns)) + b"\n"
