"""Sockets that change hands: descriptors passed, listeners inherited, namespaces and users changed."""

import ctypes
import os
import socket
from typing import Any

from common import DATAGRAM, Outcome, await_go, family_of, main, request

CLONE_NEWNET = 0x40000000


def give(outcome: Outcome, a: dict[str, Any]) -> None:
    """Make a socket (connected, or only opened, or listening) and pass it to who connects to the path."""
    sock = socket.socket(family_of(a["host"]), socket.SOCK_STREAM)
    if a["state"] == "connected":
        outcome.call(sock.connect, (a["host"], a["port"]))
    if a["state"] == "listening":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((a["host"], a["port"]))
        sock.listen(8)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(a["path"])
        door.listen(1)
        await_go()
        other, _ = door.accept()
        with other:
            socket.send_fds(other, [b"x"], [sock.fileno()])
            sock.close()
            other.recv(1)


def take(outcome: Outcome, a: dict[str, Any]) -> None:
    """Get a socket from the path and use it: send on it, connect it, or accept from it."""
    with socket.socket(socket.AF_UNIX) as door:
        door.connect(a["path"])
        _, descriptors, _, _ = socket.recv_fds(door, 1, 1)
        with socket.socket(fileno=descriptors[0]) as sock:
            sock.settimeout(5)
            _use(outcome, sock, a)


def _use(outcome: Outcome, sock: socket.socket, a: dict[str, Any]) -> None:
    if a["state"] == "listening":
        print('{"listening": true}', flush=True)
        sock, _ = sock.accept()
        outcome.received += len(sock.recv(24))
        sock.sendall(bytes(a["down"]))
        outcome.sent += a["down"]
        sock.shutdown(socket.SHUT_WR)
        sock.recv(1)
        sock.close()
        return
    if a["state"] == "open" and outcome.call(sock.connect, (a["host"], a["port"])) is None and outcome.last:
        return
    sent = outcome.call(sock.send, request(a["up"], 0))
    if sent is None:
        return
    outcome.sent += sent
    sock.sendall(bytes(a["up"]))
    outcome.sent += a["up"]
    sock.shutdown(socket.SHUT_WR)
    sock.recv(1)


def enter(outcome: Outcome, a: dict[str, Any]) -> None:
    """Start in one network namespace, enter another, then send."""
    with open(a["into"]) as namespace:  # noqa: PTH123
        if ctypes.CDLL(None).setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError
    _send_once(outcome, a)


def become(outcome: Outcome, a: dict[str, Any]) -> None:
    """Open a socket as root, become another user, then connect and send."""
    sock = socket.socket(family_of(a["host"]), socket.SOCK_STREAM)
    os.setgid(a["uid"])
    os.setuid(a["uid"])
    _use(outcome, sock, {**a, "state": "open"})


def rooted(outcome: Outcome, a: dict[str, Any]) -> None:
    """Become an ordinary user, then root of a user namespace of one's own; connect and send."""
    sock = socket.socket(family_of(a["host"]), socket.SOCK_STREAM)
    os.setgid(a["uid"])
    os.setuid(a["uid"])
    libc = ctypes.CDLL(None)
    libc.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: setuid took the right to write one's own uid_map
    if libc.unshare(0x10000000):  # CLONE_NEWUSER
        raise OSError
    with open("/proc/self/uid_map", "w") as uid_map:  # noqa: PTH123
        uid_map.write(f"0 {a['uid']} 1")
    if os.getuid():
        raise OSError
    _use(outcome, sock, {**a, "state": "open"})


def _send_once(outcome: Outcome, a: dict[str, Any]) -> None:
    sock = socket.socket(family_of(a["host"]), socket.SOCK_STREAM)
    sock.settimeout(5)
    _use(outcome, sock, {**a, "state": "open"})


def move(outcome: Outcome, a: dict[str, Any]) -> None:
    """Connect one socket, move to another cgroup, connect a second one; both send."""
    first = socket.create_connection((a["host"], a["port"]))
    with open(a["procs"], "w") as procs:  # noqa: PTH123
        procs.write(str(os.getpid()))
    for sock, port in ((first, a["port"]), (None, a["second"])):
        use = sock or socket.create_connection((a["host"], port))
        _use(outcome, use, {**a, "state": "connected"})
        use.close()


def shared(outcome: Outcome, a: dict[str, Any]) -> None:
    """One unconnected UDP socket used by the parent and, after a fork, by the child."""
    sock = socket.socket(family_of(a["host"]), socket.SOCK_DGRAM)
    outcome.sent += outcome.call(sock.sendto, bytes(DATAGRAM), (a["host"], a["port"])) or 0
    child = os.fork()
    if child == 0:
        for _ in range(3):
            sock.sendto(bytes(DATAGRAM), (a["host"], a["port"]))
        os._exit(0)
    os.waitpid(child, 0)
    outcome.extra["child"] = child
    outcome.sent += outcome.call(sock.sendto, bytes(DATAGRAM), (a["host"], a["port"])) or 0


if __name__ == "__main__":
    main(
        {
            "give": give,
            "take": take,
            "enter": enter,
            "become": become,
            "rooted": rooted,
            "move": move,
            "shared": shared,
        }
    )
