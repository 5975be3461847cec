"""A runtime's API as a test wants it: HTTP/1.1 over plain sockets, and the truth of each request.

Asks one line of JSON on standard input at a time and answers each with one:
{"do": "listen", "host": H, "mptcp": B}    another listening socket, answers {"port": N}
{"do": "hush"}                       close all of them
{"do": "upstream", "host": H, "port": P}   a connection that stays, answers {}
{"do": "child"}                      a child of this program that serves the same, answers {"port": N}
{"do": "send", "bytes": N}           N bytes on it, now
{"do": "connect", "host": H, "port": P}    a connection that is closed at once
{"do": "connections"}                how many it serves, "open"
{"do": "records"}                    what was served: "client" (ADDRESS PORT), number there, path, times (s)

How a request is answered stands in its header X-How; X-Wait says for how long (s), X-Cloud how many bytes
go upstream meanwhile, X-Dial that somebody is called meanwhile (HOST PORT). X-Feed is a connection of the
request's own (HOST PORT COUNT SIZE): after a TLS hello, whose bytes stand in X-Hello in base64, so many
pieces as it waits. X-Pass is the port of a child that answers first.
"""

import base64
import json
import select
import socket
import subprocess
import sys
import threading
import time

from common import family_of, request

PARTS = 4
records: list[dict[str, object]] = []
upstream: list[socket.socket] = []
servers: list[socket.socket] = []
children: list[subprocess.Popen[str]] = []
serving: set["Connection"] = set()
IPPROTO_MPTCP = 262  # include/uapi/linux/in.h; all that Go listens on since 1.24


class GoneError(Exception):
    """The client went away."""


class Connection:
    """One accepted connection and its requests."""

    def __init__(self, sock: socket.socket, client: str) -> None:
        self.sock = sock
        self.client = client
        self.rest = b""
        self.served = 0
        serving.add(self)

    def run(self) -> None:
        """Serve until the client has no more to ask."""
        try:
            while self.one():
                pass
        except (GoneError, OSError):
            pass
        finally:
            self.sock.close()
            serving.discard(self)
            for record in records:
                if record["client"] == self.client and record["last"] is None:
                    record["closed"] = time.time()

    def one(self) -> bool:
        """Serve one request; False: that was all."""
        read = time.time()
        while b"\r\n\r\n" not in self.rest:
            more = self.sock.recv(65536)
            if not more:
                return False
            if not self.rest:
                read = time.time()
            self.rest += more
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        line, *fields = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (field.split(": ", 1) for field in fields)}
        method, target, _ = line.split(" ")
        record: dict[str, object] = {"client": self.client, "number": self.served, "method": method}
        record |= {"path": target.partition("?")[0], "read": read, "last": None, "closed": None}
        records.append(record)
        self.served += 1
        self.body(int(headers.get("content-length", "0")))
        if "x-cloud" in headers:
            upstream[0].sendall(b"c" * int(headers["x-cloud"]))
        if "x-dial" in headers:
            dial(*headers["x-dial"].split(" "))
        if "x-pass" in headers:
            ask_child(int(headers["x-pass"]), headers.get("x-wait", "0"))
        if "x-feed" in headers:
            feed(headers["x-feed"].split(" "), headers.get("x-hello", ""), float(headers.get("x-wait", "0")))
        return self.answer(record, headers.get("x-how", "length"), float(headers.get("x-wait", "0")))

    def body(self, length: int) -> None:
        """Read a request's body."""
        while len(self.rest) < length:
            more = self.sock.recv(65536)
            if not more:
                raise GoneError
            self.rest += more
        self.rest = self.rest[length:]

    def wait(self, seconds: float) -> None:
        """Work for a while; notice a client that goes away meanwhile."""
        readable, _, _ = select.select([self.sock], [], [], seconds)
        if readable and not self.sock.recv(1, socket.MSG_PEEK):
            raise GoneError
        if readable:
            time.sleep(seconds)  # a request that is early: it has to wait

    def answer(self, record: dict[str, object], how: str, wait: float) -> bool:
        """Answer as asked; False: and then close."""
        if how == "half":  # the client has closed its side: no reason to stop
            time.sleep(wait)
            how = "length"
        method = str(record["method"])
        *before, last = ANSWERS[how](method)
        for part in before:
            self.sock.sendall(part)
            self.wait(wait / len(before))
        if not before:
            self.wait(wait)
        record["last"] = time.time()
        if last:
            self.sock.sendall(last)
        return how != "close"


def head(fields: str, status: str = "200 OK") -> bytes:
    """Give a response's head."""
    return f"HTTP/1.1 {status}\r\nServer: lab\r\n{fields}\r\n".encode()


def length(method: str) -> list[bytes]:
    """Give an answer whose length is said; HEAD has none of it."""
    body = b"x" * 3000
    start = head(f"Content-Type: text/plain\r\nContent-LENGTH: {len(body)}\r\n")
    return [start] if method == "HEAD" else [start + body[:1000], body[1000:]]


def chunk(data: bytes) -> bytes:
    """Give one chunk: RFC 9112 7.1."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def chunked(end: list[bytes]) -> list[bytes]:
    """Give an answer in chunks, as a stream of tokens is."""
    start = head("Transfer-Encoding: chunked\r\nContent-Type: application/x-ndjson\r\n")
    return [start, *[chunk(b'{"response":"0\\r\\n"}\n') for _ in range(PARTS)], *end]


ANSWERS = {
    "length": length,
    "empty": lambda _: [head("Content-Length: 0\r\n")],
    "none": lambda _: [head("", "204 No Content")],
    "unchanged": lambda _: [head("Content-Length: 77\r\n", "304 Not Modified")],
    "chunked": lambda _: chunked([b"0\r\n\r\n"]),
    "joined": lambda _: chunked([chunk(b"last") + b"0\r\n\r\n"]),
    "torn": lambda _: chunked([b"0\r", b"\n\r\n"]),
    "continue": lambda method: [b"HTTP/1.1 100 Continue\r\n\r\n", *length(method)],
    "slow head": lambda _: [b"HTTP/1.1 20", b"0 OK\r\nContent-Len", b"gth: 3\r\n\r\n", b"abc"],
    "long head": lambda _: [head(f"X-Filler: {'y' * 1500}\r\nContent-Length: 5\r\n") + b"12345"],
    "close": lambda _: [head("Connection: close\r\n"), b"until the end", b""],
}


def dial(host: str, port: str) -> None:
    """Call somebody and hang up."""
    with socket.socket(family_of(host), socket.SOCK_STREAM) as sock:
        sock.connect((host, int(port)))
        sock.sendall(b"d" * 100)


def feed(where: list[str], hello: str, seconds: float) -> None:
    """Send piece after piece, as a client with a connection of its own does; read what comes back."""
    host, port, count, size = where[0], *map(int, where[1:])
    first = base64.b64decode(hello)
    with socket.create_connection((host, port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(request(len(first) + count * size, 0))
        sock.sendall(first)
        for _ in range(count):
            time.sleep(seconds / count)
            sock.sendall(b"f" * size)


def ask_child(port: int, wait: str) -> None:
    """Pass a prompt on to a child, as a server does whose models run in another process."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(f"POST /completion HTTP/1.1\r\nHost: child\r\nX-Wait: {wait}\r\n\r\n".encode())
        got = b""
        while b"x" * 3000 not in got:
            got += sock.recv(65536)


def start_child() -> dict[str, object]:
    """Start another one of this program and have it listen."""
    pipe = subprocess.PIPE
    child = subprocess.Popen([sys.executable, __file__], stdin=pipe, stdout=pipe, text=True)
    children.append(child)
    child.stdin.write('{"do": "listen", "host": "127.0.0.1"}\n')
    child.stdin.flush()
    return json.loads(child.stdout.readline())


def accept(server: socket.socket) -> None:
    """Give each connection a thread."""
    while True:
        try:
            sock, peer = server.accept()
        except OSError:  # it listens no more
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=Connection(sock, f"{peer[0]} {peer[1]}").run, daemon=True).start()


def listen(host: str, protocol: int) -> dict[str, object]:
    """Listen on one more address, at any port."""
    server = socket.socket(family_of(host), socket.SOCK_STREAM, protocol)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((host, 0))
    server.listen(256)
    servers.append(server)
    threading.Thread(target=accept, args=(server,), daemon=True).start()
    return {"port": server.getsockname()[1]}


def hush() -> None:
    """Listen no more. Who waits in accept(2) holds on to a socket: wake them up."""
    for server in servers:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
    servers.clear()


def obey(order: dict[str, str]) -> dict[str, object]:
    """Do one thing and say what came of it."""
    match order["do"]:
        case "listen":
            return listen(order["host"], IPPROTO_MPTCP if order.get("mptcp") else 0)
        case "hush":
            hush()
        case "upstream":
            upstream.append(socket.create_connection((order["host"], int(order["port"]))))
            return {"port": upstream[0].getsockname()[1]}
        case "child":
            return start_child()
        case "send":
            upstream[0].sendall(b"s" * int(order["bytes"]))
        case "connect":
            dial(order["host"], order["port"])
        case "connections":
            return {"open": len(serving)}
        case "records":
            return {"records": records}
    return {}


for order in sys.stdin:
    print(json.dumps(obey(json.loads(order))), flush=True)
