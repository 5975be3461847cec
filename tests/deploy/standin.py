"""A stand-in for a model runtime, and the internet that it phones home to; standard library only.

    standin.py '{"play": "internet", "addresses": {"NAME": "ADDRESS"}, "resolver": "ADDRESS"}'
    standin.py '{"play": "runtime", "resolver": "ADDRESS"}'

The internet answers DNS and, on port 443, "N" with N bytes. The runtime answers its API on 127.0.0.1:11434:
whatever is posted to it names the hosts to contact, {"hosts": [[NAME, UP, DOWN]], "hold": SECONDS}.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = 11434
ANSWER_S = 60


def wire(name: str) -> bytes:
    """Return a name as DNS writes it, RFC 1035 3.1."""
    labels = [label.encode("latin-1") for label in name.split(".")]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def resolver(address: str, addresses: dict[str, str]) -> None:
    """Answer questions for an address, whatever their type."""
    known = {wire(name): socket.inet_aton(found) for name, found in addresses.items()}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((address, 53))
        while True:
            asked, client = sock.recvfrom(2048)
            name = asked[12 : asked.index(b"\0", 12) + 1]
            record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, ANSWER_S, 4) + known[name]
            head = asked[:2] + struct.pack(">HHHHH", 0x8180, 1, 1, 0, 0)
            sock.sendto(head + asked[12 : 12 + len(name) + 4] + record, client)


def serve(address: str) -> None:
    """Send whoever connects as many bytes as they ask for."""
    with socket.create_server((address, 443)) as listening:
        while True:
            client, _ = listening.accept()
            with client, client.makefile("rb") as lines:
                size = int(lines.readline())
                lines.read(int(lines.readline()))
                client.sendall(bytes(size))


def internet(order: dict[str, object]) -> None:
    """Be all of it."""
    addresses = order["addresses"]
    for address in set(addresses.values()):
        threading.Thread(target=serve, args=(address,), daemon=True).start()
    threading.Thread(target=resolver, args=(order["resolver"], addresses), daemon=True).start()
    print("{}", flush=True)
    sys.stdin.read()


def contact(server: str, name: str, up: int, down: int) -> None:
    """Look a name up, send so many bytes there, and fetch so many; a refusal is nothing new."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.connect((server, 53))
        sock.send(struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0) + wire(name) + struct.pack(">HH", 1, 1))
        address = socket.inet_ntoa(sock.recv(2048)[-4:])
    with socket.create_connection((address, 443), timeout=5) as stream:
        stream.sendall(f"{down}\n{up}\n".encode() + bytes(up))
        while stream.recv(1 << 16):
            pass


class Api(BaseHTTPRequestHandler):
    """The runtime's API: every path does what it is told."""

    resolver = ""
    free = threading.Event()

    def do_POST(self) -> None:
        """Contact the hosts, then answer, at the latest when the time is up."""
        order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        refused = 0
        for name, up, down in order.get("hosts", ()):
            try:
                contact(self.resolver, name, up, down)
            except OSError:
                refused += 1
        self.free.wait(order.get("hold", 0))
        body = f'{{"refused": {refused}}}'.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


def runtime(order: dict[str, str]) -> None:
    """Serve until standard input ends."""
    Api.resolver = order["resolver"]
    server = ThreadingHTTPServer(("127.0.0.1", int(order.get("port", PORT))), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print("{}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    {"internet": internet, "runtime": runtime}[told["play"]](told)
