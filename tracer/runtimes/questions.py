"""The one connection that tattle makes: it asks a runtime's own interface, on loopback, when a user does.

It asks from an address of loopback that is nobody's, so that the daemon tells no request where the user made
none. A runtime that listens on ::1 alone has no such address, and is not asked.
"""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING, Final

from tracer.host.network import within
from tracer.model.scope import ASKER

if TYPE_CHECKING:
    from pathlib import Path

_TIMEOUT_S: Final = 1.0
_MOST: Final = 1 << 16  # bytes of an answer; it has a few hundred


def ask(process: Path, address: str, port: int, path: str) -> bytes:
    """Return the answer to GET `path`, in the network that the process lives in; empty: there was none."""
    try:
        return within(process, lambda: _get(address, port, path))
    except (OSError, http.client.HTTPException):
        return b""


def _get(address: str, port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection(address, port, timeout=_TIMEOUT_S, source_address=(ASKER, 0))
    try:
        connection.request("GET", path)
        return connection.getresponse().read(_MOST)
    finally:
        connection.close()
