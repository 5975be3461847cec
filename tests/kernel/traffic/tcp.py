"""TCP as programs do it: plain, by sendfile, splice and zerocopy, failing, reused, abandoned."""

import ctypes
import errno
import json
import os
import select
import signal
import socket
import sys
import tempfile
import threading
import time
from typing import Any

from common import CHUNK, Outcome, await_go, family_of, main, pause, request

MSG_FASTOPEN = 0x20000000
MSG_ZEROCOPY = 0x4000000
SO_ZEROCOPY = 60
IPPROTO_MPTCP = 262
TCP_FASTOPEN_CONNECT = 30
IP_FREEBIND = 15
SYN_SENT = 2


def _socket(a: dict[str, Any]) -> socket.socket:
    family = socket.AF_INET6 if a.get("mapped") else family_of(a["host"])
    sock = socket.socket(family, socket.SOCK_STREAM, IPPROTO_MPTCP if a.get("mptcp") else 0)
    sock.settimeout(a.get("timeout", 15))
    if a.get("freebind"):  # may be bound to any address, ip(7)
        sock.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)
    return sock


def _peer(a: dict[str, Any]) -> tuple[str, int]:
    return (f"::ffff:{a['host']}" if a.get("mapped") else a["host"], a["port"])


def _send_plain(sock: socket.socket, size: int, a: dict[str, Any]) -> int:
    chunk, sent = bytes(a.get("chunk", CHUNK)), 0
    while sent < size:
        sent += sock.send(chunk[: size - sent])
        if "pace" in a:
            pause(a["pace"])
    return sent


def _send_file(sock: socket.socket, size: int, _a: dict[str, Any]) -> int:
    sock.setblocking(True)  # noqa: FBT003
    with tempfile.TemporaryFile() as file:
        file.truncate(size)
        sent = 0
        while sent < size:
            sent += os.sendfile(sock.fileno(), file.fileno(), sent, size - sent)
        return sent


def _send_zerocopy(sock: socket.socket, size: int, _a: dict[str, Any]) -> int:
    sock.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
    chunk, sent = bytes(CHUNK), 0
    while sent < size:
        sent += sock.send(chunk[: size - sent], MSG_ZEROCOPY)
    return sent


def _send_splice(sock: socket.socket, size: int, _a: dict[str, Any]) -> int:
    sock.setblocking(True)  # noqa: FBT003
    reader, writer = os.pipe()
    sent = 0
    while sent < size:
        os.write(writer, bytes(min(32_768, size - sent)))
        sent += os.splice(reader, sock.fileno(), size - sent)
    os.close(reader)
    os.close(writer)
    return sent


def _receive_plain(sock: socket.socket, size: int) -> int:
    received = 0
    while received < size:
        piece = sock.recv(min(CHUNK, size - received))
        if not piece:
            break
        received += len(piece)
    return received


def _receive_splice(sock: socket.socket, size: int) -> int:
    reader, writer = os.pipe()
    sock.setblocking(True)  # noqa: FBT003
    received = 0
    while received < size:
        moved = os.splice(sock.fileno(), writer, min(32_768, size - received))
        if not moved:
            break
        os.read(reader, moved)
        received += moved
    os.close(reader)
    os.close(writer)
    return received


SENDERS = {"send": _send_plain, "sendfile": _send_file, "zerocopy": _send_zerocopy, "splice": _send_splice}
RECEIVERS = {"recv": _receive_plain, "splice": _receive_splice}


def _exchange(outcome: Outcome, sock: socket.socket, a: dict[str, Any]) -> None:
    up, down = a.get("up", 0), a.get("down", 0)
    try:
        outcome.sent += sock.send(request(up, down, a.get("flags", 0)))
        outcome.sent += SENDERS[a.get("by", "send")](sock, up, a)
        outcome.received += RECEIVERS[a.get("into", "recv")](sock, down)
        _finish(sock, a.get("end", "orderly"))
    except OSError as error:
        outcome.note(error)


def _finish(sock: socket.socket, how: str) -> None:
    if how == "orderly":  # the socket outlives the last packet: every packet has it
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(CHUNK):
            pass
    if how == "reset":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    if how == "killed":
        print('{"bytes_sent": -1}', flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    sock.close()


def transfer(outcome: Outcome, a: dict[str, Any]) -> None:
    """Connect and exchange, `times` times one after the other."""
    for _ in range(a.get("times", 1)):
        with _socket(a) as sock:
            if "bind" in a:
                sock.bind(tuple(a["bind"]))
            outcome.call(sock.connect, _peer(a))
            if outcome.last is None:
                _exchange(outcome, sock, a)


def held(outcome: Outcome, a: dict[str, Any]) -> None:
    """Connect, then exchange only when told so: a keep-alive connection."""
    with _socket(a) as sock:
        outcome.call(sock.connect, _peer(a))
        outcome.extra["local_port"] = sock.getsockname()[1]
        if not a.get("early", 0) or sock.send(request(a["early"] + a.get("up", 0), a.get("down", 0))):
            outcome.sent += _send_plain(sock, a.get("early", 0), a)
        await_go()
        if a.get("early"):
            outcome.sent += _send_plain(sock, a.get("up", 0), a)
            outcome.received += _receive_plain(sock, a.get("down", 0))
            _finish(sock, "orderly")
        else:
            _exchange(outcome, sock, a)


def wait(outcome: Outcome, a: dict[str, Any]) -> None:
    """Connect, and wait for the server to say something, which it never does: no time-out of our own."""
    with _socket(a) as sock:
        sock.setblocking(True)  # noqa: FBT003
        outcome.call(sock.connect, _peer(a))
        outcome.call(sock.send, request(1, 0))
        print('{"waits": true}', flush=True)
        outcome.extra["end"] = repr(outcome.call(sock.recv, 100))
        outcome.extra["ended_at"] = time.monotonic()


def chatter(outcome: Outcome, a: dict[str, Any]) -> None:
    """Keep a connection to each peer, and speak and listen on it without a pause or a time-out until told."""
    over, longest, ended = threading.Event(), [0.0], [0]

    def speak(peer: dict[str, Any]) -> None:
        while not over.is_set():
            try:
                with _socket(peer) as sock:
                    sock.setblocking(True)  # noqa: FBT003
                    sock.connect(_peer(peer))
                    while not over.is_set():
                        outcome.sent += _rally(sock, longest)
            except OSError as error:
                ended[0] += error.errno != errno.EPERM
                pause(0.002)

    for peer in a["peers"]:
        threading.Thread(target=speak, args=(peer,), daemon=True).start()
    await_go()
    over.set()
    outcome.extra |= {"longest": longest[0], "ended": ended[0]}


def _rally(sock: socket.socket, longest: list[float]) -> int:
    """Say a byte and wait for it to come back; notes how long that took, however it ended."""
    before = time.monotonic()
    try:
        sock.send(b"x")
        if not sock.recv(1):
            raise ConnectionResetError(errno.ECONNRESET, "end of file")
    finally:
        longest[0] = max(longest[0], time.monotonic() - before)
    return 1


def fastopen(outcome: Outcome, a: dict[str, Any]) -> None:
    """Send data in the SYN, by sendto without connect or by TCP_FASTOPEN_CONNECT."""
    opening = request(0, a.get("down", 0))
    with _socket(a) as sock:
        if a.get("variant") == "connect":
            sock.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
            outcome.call(sock.connect, _peer(a))
            sent = outcome.call(sock.send, opening)
        else:
            sent = outcome.call(sock.sendto, opening, MSG_FASTOPEN, _peer(a))
        outcome.sent += sent or 0
        if sent:
            outcome.received += _receive_plain(sock, a.get("down", 0))
            _finish(sock, "orderly")


def probe(outcome: Outcome, a: dict[str, Any]) -> None:
    """Connect and expect to fail: refused, unreachable, timed out, interrupted, non-blocking."""
    for _ in range(a.get("times", 1)):
        with _socket(a) as sock:
            if "retries" in a:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, a["retries"])
            if a.get("blocking"):
                sock.setblocking(True)  # noqa: FBT003
            outcome.call(sock.connect, _peer(a))


def interrupted(outcome: Outcome, a: dict[str, Any]) -> None:
    """Be interrupted by a signal while connect waits, then give up."""
    with _socket(a) as sock:

        def stop(_number: int, _frame: object) -> None:
            if sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == SYN_SENT:
                signal.setitimer(signal.ITIMER_REAL, 0)
                raise InterruptedError(4, "interrupted")

        signal.signal(signal.SIGALRM, stop)
        sock.setblocking(True)  # noqa: FBT003
        signal.setitimer(signal.ITIMER_REAL, after := a.get("after", 0.2), after)
        outcome.call(sock.connect, _peer(a))


def nonblocking(outcome: Outcome, a: dict[str, Any]) -> None:
    """Start a connect without waiting, then ask SO_ERROR what became of it."""
    with _socket(a) as sock:
        sock.setblocking(False)  # noqa: FBT003
        outcome.call(sock.connect, _peer(a))
        select.select([], [sock], [], a.get("timeout", 5))
        outcome.extra["so_error"] = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        outcome.extra["second"] = sock.connect_ex(_peer(a))


def routed(outcome: Outcome, a: dict[str, Any]) -> None:
    """Name one address and have the packets go to another: a loose source route, RFC 791 3.1."""
    with _socket({**a, "timeout": 0.5}) as sock:
        route = b"\x83\7\4" + socket.inet_aton(a["host"]) + b"\1"
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, route)
        outcome.call(sock.connect, (a["claimed"], a["port"]))


def reuse(outcome: Outcome, a: dict[str, Any]) -> None:
    """Fail to connect, then connect elsewhere with the same descriptor; then dissolve and connect again."""
    with _socket({**a, "timeout": None}) as sock:
        outcome.call(sock.connect, (a["host"], a["dead"]))
        for port in a["ports"]:
            outcome.call(sock.connect, (a["host"], port))
            outcome.sent += sock.send(request(0, a["down"], 2))
            outcome.received += _receive_plain(sock, a["down"] + 1)
            _dissolve(sock)


def _dissolve(sock: socket.socket) -> None:
    """connect(AF_UNSPEC) takes a connection apart but keeps the descriptor."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.connect(sock.fileno(), bytes(16), 16)


def forked(outcome: Outcome, a: dict[str, Any]) -> None:
    """Connect, fork; the parent exits, the child sends and reports."""
    sock = _socket(a)
    outcome.call(sock.connect, _peer(a))
    child = os.fork()
    if child:
        os._exit(0)
    _exchange(outcome, sock, a)


def execed(outcome: Outcome, a: dict[str, Any]) -> None:
    """Connect, then become another program that uses the connection."""
    if "fd" in a:
        with socket.socket(fileno=a["fd"]) as sock:
            _exchange(outcome, sock, a)
        return
    sock = _socket(a)
    outcome.call(sock.connect, _peer(a))
    sock.setblocking(True)  # noqa: FBT003
    sock.set_inheritable(True)
    again = json.dumps({**a, "fd": sock.fileno()})
    os.execv(a["become"], [a["become"], *sys.orig_argv[1:-1], again])  # noqa: S606 - that is the scenario


def serve(outcome: Outcome, a: dict[str, Any]) -> None:
    """Accept `times` connections and answer each with `down` bytes: the side that is called."""
    listener = socket.socket(family_of(a["host"]), socket.SOCK_STREAM, IPPROTO_MPTCP if a.get("mptcp") else 0)
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((a["host"], a["port"]))
        listener.listen(64)
        await_go()
        for _ in range(a.get("times", 1)):
            connection, _peer_address = listener.accept()
            with connection:
                _answer(outcome, connection, a)


def _answer(outcome: Outcome, connection: socket.socket, a: dict[str, Any]) -> None:
    try:
        outcome.received += _receive_plain(connection, a["up"])
        outcome.sent += _send_plain(connection, a["down"], a)
        _finish(connection, "orderly")
    except OSError as error:
        outcome.note(error)


def selfconnect(outcome: Outcome, a: dict[str, Any]) -> None:
    """Bind a port and connect to it: simultaneous open with oneself."""
    with _socket(a) as sock:
        sock.bind((a["host"], a["port"]))
        outcome.call(sock.connect, (a["host"], a["port"]))
        outcome.sent += sock.send(bytes(a["up"]))
        outcome.received += _receive_plain(sock, a["up"])


def both_ends(outcome: Outcome, a: dict[str, Any]) -> None:
    """Listener and client in one process."""
    with socket.create_server((a["host"], a["port"])) as listener, _socket(a) as sock:
        outcome.call(sock.connect, _peer(a))
        connection, _address = listener.accept()
        outcome.extra["client_port"] = sock.getsockname()[1]
        outcome.sent += sock.send(bytes(a["up"]))
        outcome.received += _receive_plain(connection, a["up"])
        sock.shutdown(socket.SHUT_WR)
        connection.recv(1)
        connection.close()
        sock.recv(1)


def burst(outcome: Outcome, a: dict[str, Any]) -> None:
    """Connect and close as fast as it goes; resets, so that no port stays in TIME_WAIT."""
    linger = b"\1\0\0\0\0\0\0\0"
    family, peer = family_of(a["host"]), _peer(a)
    for _ in range(a["times"]):
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            outcome.call(sock.connect, peer)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


if __name__ == "__main__":
    main(
        {
            "transfer": transfer,
            "held": held,
            "wait": wait,
            "chatter": chatter,
            "fastopen": fastopen,
            "probe": probe,
            "interrupted": interrupted,
            "nonblocking": nonblocking,
            "routed": routed,
            "reuse": reuse,
            "forked": forked,
            "execed": execed,
            "serve": serve,
            "selfconnect": selfconnect,
            "both_ends": both_ends,
            "burst": burst,
        }
    )
