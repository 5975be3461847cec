"""The other end: servers that count, ruled by one JSON object a line on standard input.

{"do": "tcp"|"udp", "host": H, "port": P}         serve (port 0: any), answers {"port": N}
{"do": "call", "host": H, "port": P, "up": N, "down": N}   connect to the lab, answers {"port": own port}
{"do": "stats", "port": N}                        {"connections", "bytes_in", "bytes_out"} of a server
"""

import json
import select
import socket
import sys
import threading
from collections import Counter

from common import CHUNK, CLOSE_FIRST, DATAGRAM, MAGIC, PAUSE_FIRST, REQUEST, family_of, pause

UDPLITE = 136
MPTCP = 262
TCP_FASTOPEN = 23


class Server:
    """One port; every connection or datagram of it is counted."""

    def __init__(self, kind: str, host: str, port: int) -> None:
        self.kind = kind
        self.counts: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.socket = self._open(kind, host, port)
        self.port: int = self.socket.getsockname()[1]
        loop = self._datagrams if kind in ("udp", "udplite") else self._accept
        threading.Thread(target=loop, daemon=True).start()

    @staticmethod
    def _open(kind: str, host: str, port: int) -> socket.socket:
        family = family_of(host)
        if kind in ("udp", "udplite"):
            sock = socket.socket(family, socket.SOCK_DGRAM, UDPLITE if kind == "udplite" else 0)
            sock.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
        else:
            sock = socket.socket(family, socket.SOCK_STREAM, MPTCP if kind.endswith("mptcp") else 0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
        if sock.type == socket.SOCK_STREAM:
            if kind == "tcp":
                sock.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN, 16)
            sock.listen(4096)
        return sock

    def add(self, name: str, amount: int) -> None:
        """Count under the lock that all threads of this server share."""
        with self.lock:
            self.counts[name] += amount

    def _accept(self) -> None:
        while True:
            connection, _ = self.socket.accept()
            self.add("connections", 1)
            if self.kind == "sink":
                connection.close()
            elif self.kind.startswith("echo"):
                threading.Thread(target=self._echo, args=(connection,), daemon=True).start()
            else:
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                self._exchange(connection)
            except (ConnectionError, TimeoutError):
                self.add("broken", 1)

    def _echo(self, connection: socket.socket) -> None:
        with connection:
            try:
                while piece := connection.recv(CHUNK):
                    connection.sendall(piece)
            except OSError:
                self.add("broken", 1)

    def _exchange(self, connection: socket.socket) -> None:
        opening = b""
        while len(opening) < REQUEST.size:
            piece = connection.recv(REQUEST.size - len(opening))
            if not piece:
                return
            self.add("bytes_in", len(piece))
            opening += piece
        _magic, flags, up, down = REQUEST.unpack(opening)
        if flags & PAUSE_FIRST:
            pause(0.3)
        while up > 0:
            piece = connection.recv(CHUNK)
            if not piece:
                break
            up -= len(piece)
            self.add("bytes_in", len(piece))
        self._send(connection, down)
        if not flags & CLOSE_FIRST:
            while piece := connection.recv(CHUNK):
                self.add("bytes_in", len(piece))

    def _send(self, connection: socket.socket, size: int) -> None:
        chunk = bytes(CHUNK)
        while size > 0:
            sent = connection.send(chunk[:size])
            size -= sent
            self.add("bytes_out", sent)

    def _datagrams(self) -> None:
        while True:
            data, sender = self.socket.recvfrom(CHUNK)
            self.add("datagrams", 1)
            self.add("bytes_in", len(data))
            if len(data) == REQUEST.size and data.startswith(MAGIC):
                _magic, size, _up, down = REQUEST.unpack(data)
                self._reply(sender, size or DATAGRAM, down)

    def _reply(self, receiver: tuple[str, int], size: int, down: int) -> None:
        while down > 0:
            piece = bytes(min(size, down))
            select.select([], [self.socket], [])
            self.add("bytes_out", self.socket.sendto(piece, receiver))
            down -= len(piece)
            if down % (32 * size) < size:
                pause(0.001)  # a receiver's buffer must not overflow: what is lost proves nothing


def call(order: dict[str, object]) -> dict[str, object]:
    """Connect to a server of the watched side, send `up` bytes, take `down`."""
    host, port = str(order["host"]), int(str(order["port"]))
    up, down = int(str(order.get("up", 0))), int(str(order.get("down", 0)))
    kind = socket.SOCK_DGRAM if order.get("kind") == "udp" else socket.SOCK_STREAM
    protocol = MPTCP if order.get("kind") == "mptcp" else 0
    with socket.socket(family_of(host), kind, protocol) as sock:
        sock.settimeout(10)
        sock.connect((host, port))
        own = sock.getsockname()[1]
        sock.sendall(bytes(up))
        got = 0
        while got < down:
            piece = sock.recv(CHUNK)
            if not piece:
                break
            got += len(piece)
        if kind == socket.SOCK_STREAM:
            sock.shutdown(socket.SHUT_WR)
            sock.recv(1)
        return {"port": own, "bytes_received": got}


def main() -> None:
    """Obey until standard input ends."""
    servers: dict[int, Server] = {}
    for line in sys.stdin:
        order = json.loads(line)
        answer: dict[str, object]
        if order["do"] == "stats":
            answer = dict(servers[order["port"]].counts)
        elif order["do"] == "call":
            try:
                answer = call(order)
            except OSError as error:
                answer = {"error": str(error)}
        else:
            server = Server(order["do"], order["host"], order.get("port", 0))
            servers[server.port] = server
            answer = {"port": server.port}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
