"""The port that metrics are served on, taken before anything is attached: a taken port changes nothing."""

from __future__ import annotations

import socket

from tracer.errors import HostError

_BACKLOG = 64


def listen(host: str, port: int) -> socket.socket:
    """Listen on this address; raises HostError that names it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise HostError(
            f"cannot listen on {host}:{port}: {error.strerror}",
            "end what holds the port (ss -ltnp), or choose another: --listen 127.0.0.1:PORT",
        ) from None
