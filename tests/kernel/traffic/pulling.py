"""A runtime that pulls and prompts, and the registry that it pulls from.

Its API is plain HTTP/1.1 in chunks, as Ollama streams. POST /api/pull resolves a name and fetches a layer
over TLS, on a connection of its pool where one works (as Go does: one that turns out to be dead is replaced
once). POST /api/generate tries all that a prompt must not do: it asks for the name, calls the addresses that
it knows, and speaks on every connection of the pool. Each answer says what came of it.
"""

import http.client
import http.server
import json
import socket
import ssl
import sys
import threading
from typing import Any, ClassVar

from common import Outcome, await_go, main
from named import addresses, ask, question

LAYER = 20_000
CONNECTIONS = 3
PATIENCE_S = 10.0


class Pool:
    """The connections of a runtime to its registry, and all addresses that it was ever given."""

    def __init__(self, a: dict[str, Any]) -> None:
        self.a = a
        self.known: set[str] = set()
        self.open: list[ssl.SSLSocket] = []
        self.asked = 0
        self.context = ssl.create_default_context()
        self.context.check_hostname, self.context.verify_mode = False, ssl.CERT_NONE

    def resolve(self) -> list[str]:
        """Ask for the registry's name."""
        self.asked += 1
        found = addresses(ask(self.a, question(self.a["asks"], self.asked & 0xFFFF)))
        self.known.update(found)
        return found

    def connect(self, host: str) -> ssl.SSLSocket:
        """Make one connection."""
        stream = socket.create_connection((host, self.a["port"]), timeout=PATIENCE_S)
        return self.context.wrap_socket(stream, server_hostname=self.a["asks"])

    def fetch(self, stream: ssl.SSLSocket) -> int:
        """Fetch a layer; ConnectionError where the other end is gone."""
        stream.sendall(b"GET\n")
        size = 0
        while size < LAYER:
            more = stream.recv(65536)
            if not more:
                raise ConnectionResetError
            size += len(more)
        return size

    def pull(self) -> dict[str, Any]:
        """Fetch a layer on each of some connections; says how many were new."""
        fresh, kept = 0, []
        for place in range(CONNECTIONS):
            old = self.open[place] if place < len(self.open) else None
            if old is not None:
                try:
                    self.fetch(old)
                    kept.append(old)
                    continue
                except OSError:
                    old.close()
            stream = self.connect(self.resolve()[0])
            fresh += 1
            self.fetch(stream)
            kept.append(stream)
        self.open = kept
        return {"status": "success", "fresh": fresh}

    def prompt(self) -> dict[str, Any]:
        """Try to reach the registry in each way; says what worked, by way."""
        worked = {"resolve": self.try_(self.resolve)}
        worked["connect"] = sum(self.try_(self.connect, host) for host in sorted(self.known))
        worked["kept"] = sum(self.try_(stream.sendall, b"GET\n") for stream in self.open)
        return worked

    @staticmethod
    def try_(function: Any, *arguments: Any) -> int:  # noqa: ANN401 - any call
        """Return 1 if it works."""
        try:
            function(*arguments)
        except OSError:
            return 0
        return 1


class Api(http.server.BaseHTTPRequestHandler):
    """The API; its answers are in chunks."""

    protocol_version = "HTTP/1.1"
    pool: ClassVar[Pool]

    def do_POST(self) -> None:
        """Pull, or answer a prompt."""
        sent = self.pool.try_(self.now) if self.path.endswith("?now") else 0
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.chunk({"status": "working"})
        try:
            if self.path.endswith("?now"):
                last: dict[str, Any] = {"sent": sent}
            else:
                last = self.pool.pull() if self.path == "/api/pull" else self.pool.prompt()
        except OSError as error:
            last = {"error": repr(error)}
        self.chunk(last)
        self.wfile.write(b"0\r\n\r\n")

    def now(self) -> None:
        """Send a datagram to the registry's host, whatever it makes of it."""
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.sendto(b"now", (self.pool.a["resolver"], 9))

    def chunk(self, value: dict[str, Any]) -> None:
        """Send one line of JSON as a chunk."""
        line = json.dumps(value).encode() + b"\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


def runtime(_: Outcome, a: dict[str, Any]) -> None:
    """Serve the API on loopback until killed; the first line says at which port."""
    Api.pool = Pool(a)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", a.get("api", 0)), Api)
    print(json.dumps({"port": server.server_port}), flush=True)
    server.serve_forever()


def client(_: Outcome, a: dict[str, Any]) -> None:
    """Ask for each path that stands on a line of standard input, on one connection; print the last line."""
    api = http.client.HTTPConnection("127.0.0.1", a["port"])
    for line in sys.stdin:
        api.request("POST", line.strip(), body=b"{}")
        print(api.getresponse().read().splitlines()[-1].decode(), flush=True)


def give(stream: socket.socket, context: ssl.SSLContext) -> None:
    """Give a layer for each line, as long as the client wants."""
    try:
        stream.settimeout(PATIENCE_S * 60)
        with context.wrap_socket(stream, server_side=True) as secure:
            while secure.recv(4):
                secure.sendall(b"x" * LAYER)
    except OSError:
        stream.close()


def registry(_: Outcome, a: dict[str, Any]) -> None:
    """Serve layers over TLS until killed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(a["pem"])
    where = ("::", a["port"])
    with socket.create_server(where, family=socket.AF_INET6, dualstack_ipv6=True, backlog=256) as door:
        await_go()
        while True:
            stream, _ = door.accept()
            threading.Thread(target=give, args=(stream, context), daemon=True).start()


if __name__ == "__main__":
    main({"runtime": runtime, "client": client, "registry": registry})
