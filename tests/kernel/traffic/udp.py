"""UDP as programs do it: unconnected, connected, re-connected, mapped, to groups, large, silent."""

import errno
import socket
from typing import Any

from common import DATAGRAM, Outcome, await_go, family_of, main, request

UDPLITE = 136


def _socket(a: dict[str, Any]) -> socket.socket:
    family = socket.AF_INET6 if a.get("mapped") else family_of(a["host"])
    sock = socket.socket(family, socket.SOCK_DGRAM, UDPLITE if a.get("lite") else 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    sock.settimeout(a.get("timeout", 5))
    return sock


def _address(a: dict[str, Any], host: str, port: int) -> tuple[str, int]:
    return (f"::ffff:{host}" if a.get("mapped") else host, port)


def _receive(outcome: Outcome, sock: socket.socket, size: int) -> None:
    got = 0
    while got < size:
        piece = outcome.call(sock.recv, 65_536)
        if piece is None:
            return
        got += len(piece)
        outcome.received += len(piece)


def _opening(a: dict[str, Any]) -> bytes:
    return request(0, a["down"], a.get("datagram", DATAGRAM)) if a.get("down") else b""


def unconnected(outcome: Outcome, a: dict[str, Any]) -> None:
    """Sendto `count` datagrams to each port, ask for `down` bytes back and take them."""
    size, host = a.get("datagram", DATAGRAM), a["host"]
    with _socket(a) as sock:
        for port in a.get("ports", [a.get("port")]):
            peer = _address(a, host, port)
            if a.get("down"):
                outcome.sent += outcome.call(sock.sendto, _opening(a), peer) or 0
                _receive(outcome, sock, a["down"])
            for _ in range(a.get("count", 0)):
                outcome.sent += outcome.call(sock.sendto, bytes(size), peer) or 0


def connected(outcome: Outcome, a: dict[str, Any]) -> None:
    """Connect, then send and receive without naming the peer."""
    size = a.get("datagram", DATAGRAM)
    with _socket(a) as sock:
        outcome.call(sock.connect, _address(a, a["host"], a["port"]))
        if a.get("down"):
            outcome.sent += outcome.call(sock.send, _opening(a)) or 0
            _receive(outcome, sock, a["down"])
        for _ in range(a.get("count", 0)):
            outcome.sent += outcome.call(sock.send, bytes(size)) or 0


def silent(outcome: Outcome, a: dict[str, Any]) -> None:
    """Connect to several ports and send nothing: what resolvers do to sort addresses."""
    for port in a["ports"]:
        with _socket(a) as sock:
            outcome.call(sock.connect, (a["host"], port))
            outcome.extra.setdefault("locals", []).append(sock.getsockname()[0])


def detour(outcome: Outcome, a: dict[str, Any]) -> None:
    """Connect to one peer, send to another by its address."""
    with _socket(a) as sock:
        outcome.call(sock.connect, (a["host"], a["first"]))
        for _ in range(a["count"]):
            outcome.sent += outcome.call(sock.sendto, bytes(DATAGRAM), (a["host"], a["second"])) or 0


def reconnected(outcome: Outcome, a: dict[str, Any]) -> None:
    """Connect and send to several peers in turn with one descriptor, taking an answer from each."""
    with _socket(a) as sock:
        for number, port in enumerate(a["ports"], start=1):
            outcome.call(sock.connect, (a["host"], port))
            outcome.sent += outcome.call(sock.send, request(0, 100 * number, 100)) or 0
            _receive(outcome, sock, 100 * number)


def group(outcome: Outcome, a: dict[str, Any]) -> None:
    """Send to a multicast group or the broadcast address."""
    with _socket(a) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, a["device"].encode())
        index = socket.if_nametoindex(a["device"])
        if ":" in a["host"]:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
        else:
            request_ = bytes(8) + index.to_bytes(4, "little")
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request_)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        for _ in range(a["count"]):
            outcome.sent += outcome.call(sock.sendto, bytes(200), (a["host"], a["port"])) or 0


def options(outcome: Outcome, a: dict[str, Any]) -> None:
    """Send with IPv4 options or IPv6 destination options before the UDP header."""
    with _socket(a) as sock:
        if ":" in a["host"]:
            padding = bytes([17, 0, 1, 4, 0, 0, 0, 0])  # PadN, RFC 8200 4.2
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, padding)
        else:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\1\1\1\0")  # NOP, RFC 791 3.1
        for _ in range(a["count"]):
            outcome.sent += outcome.call(sock.sendto, bytes(100), (a["host"], a["port"])) or 0


def _route(host: str) -> tuple[int, int, int, bytes]:
    """Give level, socket option, control message and bytes of a source route by `host`."""
    if ":" not in host:  # loose source route, RFC 791 3.1
        route = b"\x83\7\4" + socket.inet_aton(host) + b"\1"
        return socket.IPPROTO_IP, socket.IP_OPTIONS, socket.IP_RETOPTS, route
    # segment routing header, RFC 8754 2: 4 units of 8 bytes, one segment left, of two
    route = bytes([0, 4, 4, 1, 1, 0, 0, 0]) + bytes(16) + socket.inet_pton(socket.AF_INET6, host)
    return socket.IPPROTO_IPV6, socket.IPV6_RTHDR, socket.IPV6_RTHDR, route


def routed(outcome: Outcome, a: dict[str, Any]) -> None:
    """Name one address and have the packet go to another."""
    level, option, kind, route = _route(a["host"])
    message = [(level, kind, route)]
    with _socket(a) as sock:
        if a.get("by") != "message":
            sock.setsockopt(level, option, route)
            message = []
        for _ in range(a["count"]):
            outcome.sent += (
                outcome.call(sock.sendmsg, [bytes(100)], message, 0, (a["claimed"], a["port"])) or 0
            )


def survey(outcome: Outcome, a: dict[str, Any]) -> None:
    """Try each peer by a datagram and by a TCP connect that does not wait; tell which calls were refused."""
    refused = []
    for host, port in a["peers"]:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            with socket.socket(family_of(host), kind) as sock:
                sock.setblocking(False)  # noqa: FBT003
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                try:
                    if kind == socket.SOCK_DGRAM:
                        sock.sendto(b"x", (host, port))
                    else:
                        sock.connect((host, port))
                    refused.append(False)
                except OSError as error:
                    refused.append(error.errno == errno.EPERM)
    outcome.extra["refused"] = refused


def answer(outcome: Outcome, a: dict[str, Any]) -> None:
    """Serve: answer each of `times` datagrams from one unconnected socket, twice as long."""
    with _socket(a) as sock:
        sock.bind((a["host"], a["port"]))
        await_go()
        for _ in range(a["times"]):
            got = outcome.call(sock.recvfrom, 65_536)
            if got is None:
                return
            outcome.received += len(got[0])
            outcome.sent += outcome.call(sock.sendto, got[0] * 2, got[1]) or 0


def estranged(outcome: Outcome, a: dict[str, Any]) -> None:
    """Answer who asked, connect to somebody else, and when told, say one more word to who had asked."""
    with _socket(a) as sock:
        sock.bind((a["host"], a["port"]))
        await_go()
        got, asker = sock.recvfrom(65_536)
        outcome.sent += outcome.call(sock.sendto, got, asker) or 0
        outcome.call(sock.connect, (a["other"], a["other_port"]))
        await_go()
        outcome.sent += outcome.call(sock.sendto, bytes(100), asker) or 0


def spread(outcome: Outcome, a: dict[str, Any]) -> None:
    """One datagram to each of `count` ports from `first` on: many destinations, one socket."""
    with _socket(a) as sock:
        for port in range(a["first"], a["first"] + a["count"]):
            outcome.sent += outcome.call(sock.sendto, bytes(100), (a["host"], port)) or 0


def held(outcome: Outcome, a: dict[str, Any]) -> None:
    """Connect and send one datagram, wait for the word, send `count` more."""
    with _socket(a) as sock:
        outcome.call(sock.connect, (a["host"], a["port"]))
        outcome.sent += outcome.call(sock.send, bytes(DATAGRAM)) or 0
        await_go()
        for _ in range(a["count"]):
            outcome.sent += outcome.call(sock.send, bytes(DATAGRAM)) or 0


if __name__ == "__main__":
    main(
        {
            "unconnected": unconnected,
            "connected": connected,
            "silent": silent,
            "detour": detour,
            "reconnected": reconnected,
            "group": group,
            "options": options,
            "routed": routed,
            "survey": survey,
            "answer": answer,
            "estranged": estranged,
            "spread": spread,
            "held": held,
        }
    )
