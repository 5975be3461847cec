"""The web servers of the miniature internet: TLS on port 443 of every address. Runs in world-net.

    python -m tests.world.miniature.internet CERTIFICATES LOG

The Host header chooses the site; a name that it does not know gets 421. HTTP/1.1 only. Every request is
a line of JSON in LOG: the truth about names, addresses, connections (`source` is address:port) and bodies.
"""

import asyncio
import json
import socket
import ssl
import sys
import time
from pathlib import Path
from typing import TextIO

from aiohttp import web

from tests.world.miniature import hub_sites, ollama_sites
from tests.world.miniature.bodies import Site, record
from tests.world.miniature.layout import addresses

SITES: dict[str, Site] = {**ollama_sites.SITES, **hub_sites.SITES}
BODY_MAX = 1 << 26
IDLE_S = 120
BACKLOG = 256


class Front:
    """Hands each request to its site and writes down what happened."""

    def __init__(self, log: TextIO) -> None:
        self.log = log

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        started, host = time.time(), request.host.split(":")[0].lower()
        body, status = await request.read(), 0
        try:
            site = SITES.get(host)
            response = await site(request, body) if site else record(request, {"error": "misdirected"}, 421)
            status = response.status
        finally:
            self.write(request, time=started, host=host, status=status, body_in=len(body))
        return response

    def write(self, request: web.Request, **facts: object) -> None:
        """Append one line to the log."""
        transport = request.transport
        local = transport.get_extra_info("sockname") if transport else ("", 0)
        peer = transport.get_extra_info("peername") if transport else ("", 0)
        more = {
            "address": local[0],
            "source": f"{peer[0]}:{peer[1]}",
            "method": request.method,
            "path": request.path_qs,
            "body_out": request.get("sent", 0),
            "range": request.headers.get("Range"),
            "signed": "Authorization" in request.headers,
            "agent": request.headers.get("User-Agent", ""),
        }
        self.log.write(json.dumps({**facts, **more}) + "\n")


def listener(address: str) -> socket.socket:
    """Return a socket bound to port 443 of ADDRESS."""
    bound = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((address, 443))
    return bound


async def serve(certificates: Path, log: TextIO) -> None:
    """Serve until the process is ended."""
    app = web.Application(client_max_size=BODY_MAX)
    app.router.add_route("*", "/{tail:.*}", Front(log).handle)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    runner = web.AppRunner(app, keepalive_timeout=IDLE_S)
    await runner.setup()
    for address in addresses():
        await web.SockSite(runner, listener(address), ssl_context=context, backlog=BACKLOG).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Open the log and serve."""
    with Path(sys.argv[2]).open("a", buffering=1) as log:
        asyncio.run(serve(Path(sys.argv[1]), log))


if __name__ == "__main__":
    main()
