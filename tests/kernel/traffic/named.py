"""Names as programs use them: ask a resolver, connect to what it says, tell the server whom one means."""

import contextlib
import json
import select
import socket
import ssl
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

from common import Outcome, await_go, main, pause

A, AAAA = 1, 28
IPPROTO_MPTCP = 262
TIMEOUT = 4


def wire(name: str) -> bytes:
    """Return a name as DNS writes it, RFC 1035 3.1."""
    labels = [label.encode("latin-1") for label in name.split(".")]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def question(name: str, number: int, kind: int = A, tail: bytes = b"", counts: int = 0) -> bytes:
    """Return a query; `counts` is what it says of additional records, which are `tail`."""
    return (
        struct.pack(">HHHHHH", number, 0x0100, 1, 0, 0, counts)
        + wire(name)
        + struct.pack(">HH", kind, 1)
        + tail
    )


def addresses(answer: bytes) -> list[str]:
    """Return the IPv4 and IPv6 addresses of an answer with compressed names, as dnsmasq makes it."""
    count, at, found = struct.unpack_from(">H", answer, 6)[0], 12, []
    while answer[at]:
        at += 1 + answer[at]
    at += 5
    for _ in range(count):
        kind, _, _, size = struct.unpack_from(">HHIH", answer, at + 2)
        at += 12
        if kind in (A, AAAA):
            family = socket.AF_INET if kind == A else socket.AF_INET6
            found.append(socket.inet_ntop(family, answer[at : at + size]))
        at += size
    return found


def ask(a: dict[str, Any], message: bytes) -> bytes:
    """Send one message to the resolver and return its answer."""
    family = socket.AF_INET6 if ":" in a["resolver"] else socket.AF_INET
    where = (a["resolver"], a.get("resolver_port", 53))
    if a.get("tcp"):
        with socket.create_connection(where, timeout=TIMEOUT) as stream:
            stream.sendall(struct.pack(">H", len(message)) + message)
            size = struct.unpack(">H", stream.recv(2, socket.MSG_WAITALL))[0]
            return stream.recv(size, socket.MSG_WAITALL)
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(TIMEOUT)
        if a.get("connected"):
            sock.connect(where)
            sock.send(message)
        else:
            sock.sendto(message, where)
        return sock.recv(4096)


def greet(host: str, port: int, sni: str | None) -> str | None:
    """Shake hands by TLS and return what the server says."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((host, port), timeout=TIMEOUT) as stream,
        context.wrap_socket(stream, server_hostname=sni) as secure,
    ):
        return secure.recv(100).decode()


def knock(host: str, port: int) -> bool:
    """Connect, and say nothing."""
    with socket.create_connection((host, port), timeout=TIMEOUT):
        return True


def rounds(outcome: Outcome, a: dict[str, Any]) -> None:
    """Ask and connect at once, again and again; one of `greet` connections also shakes hands."""
    met = []
    for number in range(a.get("times", 1)):
        answer = outcome.call(ask, a, question(a["asks"], number, a.get("type", A)))
        found = addresses(answer) if answer else []
        for host in found[: a.get("most", 1)]:
            met.append(host)
            if number % a.get("greet", 1):
                outcome.received += outcome.call(knock, host, a["port"]) is not None
                continue
            said = outcome.call(greet, host, a["port"], a.get("sni", a["asks"]))
            outcome.extra["said"] = said
            outcome.received += said is not None
    outcome.extra["met"] = sorted(set(met))


def raw(outcome: Outcome, a: dict[str, Any]) -> None:
    """Send messages that are no plain questions."""
    for message in a["messages"]:
        answer = outcome.call(ask, a, bytes.fromhex(message))
        outcome.received += answer is not None


def asking(outcome: Outcome, a: dict[str, Any]) -> None:
    """Ask the same again and again until the test's word."""
    print(json.dumps({"asking": a["asks"]}), flush=True)
    while not select.select([sys.stdin], [], [], 0.005)[0]:
        outcome.received += outcome.call(ask, a, question(a["asks"], 1)) is not None


def hello(outcome: Outcome, a: dict[str, Any]) -> None:
    """Connect to an address and say something: TLS with a name, or bytes in pieces."""
    if "pieces" not in a:
        outcome.extra["said"] = outcome.call(greet, a["host"], a["port"], a.get("sni"))
        return
    stream = outcome.call(socket.create_connection, (a["host"], a["port"]), TIMEOUT)
    if stream is None:
        return
    with stream:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in a["pieces"]:
            outcome.call(stream.sendall, bytes.fromhex(piece))
            pause(0.02)
        outcome.received = len(outcome.call(stream.recv, 100) or b"")


def patient(outcome: Outcome, a: dict[str, Any]) -> None:
    """Connect, say something, and wait for whatever comes of it, however long: no time-out of our own."""
    family = socket.AF_INET6 if ":" in a["host"] else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM, IPPROTO_MPTCP if a.get("mptcp") else 0) as stream:
        if "control" in a:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, a["control"].encode())
        outcome.call(stream.connect, (a["host"], a["port"]))
        if a.get("waits"):
            await_go()
        for piece in a.get("pieces", ()):
            outcome.call(stream.sendall, bytes.fromhex(piece))
        if a.get("talks"):  # the server's answer, and after the test's word something of ours that ends it
            outcome.call(stream.recv, 1 << 16)
            await_go()
            outcome.call(stream.sendall, b"no TLS record")
        before = time.monotonic()
        outcome.extra["end"] = outcome.call(stream.recv, 100)
        outcome.extra["end"] = repr(outcome.extra["end"])
        outcome.extra["seconds"] = time.monotonic() - before


def kept(outcome: Outcome, a: dict[str, Any]) -> None:
    """Resolve and connect, wait for the test's word, then use the connection and try a new one."""
    host = addresses(ask(a, question(a["asks"], 1)))[0]
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((host, a["port"]), timeout=TIMEOUT) as stream,
        context.wrap_socket(stream, server_hostname=a["asks"]) as secure,
    ):
        await_go()
        outcome.extra["kept"] = outcome.call(secure.recv, 100) is not None
        outcome.call(socket.create_connection, (host, a["port"]), TIMEOUT)


def serve(outcome: Outcome, a: dict[str, Any]) -> None:
    """Serve TLS (and, to who does not speak it, nothing) until killed; tell the client which name it said."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(a["pem"])
    names: dict[int, str | None] = {}

    def note(sock: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
        names[id(sock)] = name

    context.sni_callback = note
    with socket.create_server(
        ("::", a["port"]), family=socket.AF_INET6, dualstack_ipv6=True, backlog=256
    ) as door:
        await_go()
        while True:
            stream, _ = door.accept()
            stream.settimeout(TIMEOUT)
            try:
                with context.wrap_socket(stream, server_side=True) as secure:
                    secure.sendall(f"you said {names.pop(id(secure), None)}".encode())
            except OSError as error:
                outcome.note(error)


def answer_to(message: bytes, host: str, lie: str) -> bytes:
    """Answer a question with one address, in a way that is wrong in one thing."""
    number, flags, body = message[:2], b"\x81\x80", message[12:]
    if lie == "id":
        number = bytes(value ^ 0xFF for value in number)
    if lie in {"truncated", "failed", "query"}:
        flags = {"truncated": b"\x83\x80", "failed": b"\x81\x83", "query": b"\x01\x00"}[lie]
    if lie == "name":
        body = question("evil.example", 0)[12:]
    if lie == "type":
        body = body[:-4] + struct.pack(">HH", AAAA, 1)
    record = b"\xc0\x0c" + struct.pack(">HHIH", A, 1, 60, 4) + socket.inet_aton(host)
    return number + flags + struct.pack(">HHHH", 1, 1, 0, 0) + body + record


def lie(_outcome: Outcome, a: dict[str, Any]) -> None:
    """Answer one query or `times`, not quite; `unasked`: from another port than was asked."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        socket.socket(type=socket.SOCK_DGRAM) as other,
    ):
        sock.bind((a["host"], 53))
        other.bind((a["host"], 5353))
        await_go()
        for _ in range(a.get("times", 1)):
            message, peer = sock.recvfrom(4096)
            told = answer_to(message, a["says"], a["lie"])
            (other if a["lie"] == "unasked" else sock).sendto(told, peer)


def answer_itself(outcome: Outcome, a: dict[str, Any]) -> None:
    """Be the resolver that one asks."""
    with socket.socket(type=socket.SOCK_DGRAM) as asker, socket.socket(type=socket.SOCK_DGRAM) as resolver:
        resolver.bind((a["resolver"], 53))
        asker.settimeout(1)
        message = question(a["asks"], 9)
        outcome.call(asker.sendto, message, (a["resolver"], 53))
        peer = ("127.0.0.1", asker.getsockname()[1])
        told = answer_to(message, a["says"], "")
        if a["proto"] == "udp":
            outcome.call(resolver.sendto, told, peer)
        else:
            header = struct.pack(">HHHH", 53, peer[1], 8 + len(told), 0)
            with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as raw_socket:
                raw_socket.bind((a["resolver"], 0))
                outcome.call(raw_socket.sendto, header + told, (peer[0], 0))
        outcome.received = len(outcome.call(asker.recv, 4096) or b"")


def utter(outcome: Outcome, a: dict[str, Any]) -> None:
    """Send many datagrams and tell of each whether it was let go."""
    gone = []
    with Path(a["file"]).open(encoding="ascii") as file, socket.socket(type=socket.SOCK_DGRAM) as sock:
        for line in file:
            sock.settimeout(TIMEOUT)
            gone.append(outcome.call(sock.sendto, bytes.fromhex(line), (a["resolver"], 53)) is not None)
    outcome.extra["gone"] = gone


def recite(_: Outcome, a: dict[str, Any]) -> None:
    """Answer each question with the next line of a file, under the question's own number."""
    with Path(a["file"]).open(encoding="ascii") as file, socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind((a["host"], 53))
        await_go()
        for line in file:
            message, peer = sock.recvfrom(4096)
            sock.sendto(message[:2] + bytes.fromhex(line), peer)


def listen(outcome: Outcome, a: dict[str, Any]) -> None:
    """Ask so many times, and hear the answers; each is asked for by a socket of its own."""
    for number in range(a["times"]):
        outcome.received += len(outcome.call(ask, a, question(a["asks"], number)) or b"") > 0


def chop(stream: socket.socket, data: bytes, cuts: list[int]) -> None:
    """Write in several calls, each at once."""
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        stream.sendall(data[start:end])


def lines(a: dict[str, Any]) -> list[tuple[bytes, list[int]]]:
    """Read the file of streams: bytes in hex, and where they are cut."""
    words = [line.split() for line in Path(a["file"]).read_text(encoding="ascii").splitlines()]
    return [(bytes.fromhex(word), [int(cut) for cut in cuts]) for word, *cuts in words]


def scatter(outcome: Outcome, a: dict[str, Any]) -> None:
    """Say each stream of a file on a connection of its own, and go away."""
    for data, cuts in lines(a):
        stream = outcome.call(socket.create_connection, (a["host"], a["port"]), TIMEOUT)
        if stream is not None:
            with stream:
                outcome.call(chop, stream, data, cuts)


def gather(outcome: Outcome, a: dict[str, Any]) -> None:
    """Accept so many connections, and tell what came on each until nothing more does."""
    came: dict[int, bytes] = {}

    def read(stream: socket.socket, number: int) -> None:
        stream.settimeout(1)
        came[number] = b""
        with stream, contextlib.suppress(OSError):
            while data := stream.recv(65536):
                came[number] += data

    with socket.create_server((a["host"], a["port"]), backlog=512) as door:
        await_go()
        readers = [
            threading.Thread(target=read, args=(door.accept()[0], number)) for number in range(a["times"])
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    outcome.extra["came"] = [came[number].hex() for number in range(a["times"])]


def recite_tcp(_: Outcome, a: dict[str, Any]) -> None:
    """On one connection: read queries and answer each batch with the next line of a file, cut likewise."""
    with socket.create_server((a["host"], 53)) as door:
        await_go()
        stream, _ = door.accept()
        with stream:
            for data, cuts in lines(a):
                told, at = bytearray(data), 0
                while at < len(told):
                    size = struct.unpack(">H", stream.recv(2, socket.MSG_WAITALL))[0]
                    told[at + 2 : at + 4] = stream.recv(size, socket.MSG_WAITALL)[:2]
                    at += 2 + struct.unpack_from(">H", told, at)[0]
                chop(stream, bytes(told), cuts)


def pipeline(outcome: Outcome, a: dict[str, Any]) -> None:
    """Say each stream of a file on one connection, after the answers to the one before; `size` bytes each."""
    with socket.create_connection((a["resolver"], 53), timeout=TIMEOUT) as stream:
        for data, cuts in lines(a):
            chop(stream, data, cuts)
            left = a["size"]
            while left and (told := stream.recv(left)):
                left -= len(told)
                outcome.received += len(told)


OPERATIONS = {
    "scatter": scatter,
    "gather": gather,
    "recite_tcp": recite_tcp,
    "pipeline": pipeline,
    "utter": utter,
    "recite": recite,
    "listen": listen,
    "rounds": rounds,
    "raw": raw,
    "asking": asking,
    "hello": hello,
    "kept": kept,
    "patient": patient,
    "serve": serve,
    "lie": lie,
    "answer_itself": answer_itself,
}

if __name__ == "__main__":
    main(OPERATIONS)
