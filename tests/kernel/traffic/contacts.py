"""A runtime that contacts others: a connection each, with an HTTP request that names the host, or without."""

import socket
from typing import Any

from common import Outcome, await_go, main


def contact(outcome: Outcome, a: dict[str, Any]) -> None:
    """When told to, open the connections [HOST, PORT, NAME or null]; keep them until told again."""
    await_go()
    kept = []
    for host, port, name in a["contacts"]:
        sock = socket.create_connection((host, port), timeout=10)
        if name:
            outcome.call(sock.sendall, f"GET /api/tags HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
        kept.append(sock)
    await_go()
    for sock in kept:
        sock.close()


main({"contact": contact})
