"""Try every way out of this process and print as JSON what each said: "ok", or the errno's name.

ADDRESS4 ADDRESS6 are the far side's; ports are those of guest_net.py.
"""

import contextlib
import errno
import json
import socket
import sys
from collections.abc import Callable

TCP4, TCP6, UDP4, UDP6 = 7001, 7002, 7003, 7004
PAYLOAD = bytes(100)
ICMP_ECHO = b"\x08\0\xf7\xff\0\0\0\0"  # RFC 792, with its checksum


def main(address4: str, address6: str) -> None:
    """Try all."""
    ways: dict[str, Callable[[], object]] = {
        "tcp4": lambda: stream(socket.AF_INET, (address4, TCP4)),
        "tcp6": lambda: stream(socket.AF_INET6, (address6, TCP6)),
        "tcp4-mapped": lambda: stream(socket.AF_INET6, (f"::ffff:{address4}", TCP4)),
        "udp4": lambda: datagram(socket.AF_INET, (address4, UDP4), connected=False),
        "udp6": lambda: datagram(socket.AF_INET6, (address6, UDP6), connected=False),
        "udp4-connected": lambda: datagram(socket.AF_INET, (address4, UDP4), connected=True),
        "udp6-connected": lambda: datagram(socket.AF_INET6, (address6, UDP6), connected=True),
        "raw4": lambda: raw((address4, 0)),
        "sctp": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close(),
        "loopback": lambda: talk("127.0.0.1"),
        "own4": lambda: talk(own(socket.AF_INET, address4)),
        "own6": lambda: talk(own(socket.AF_INET6, address6)),
        "own4-datagram": lambda: answer(own(socket.AF_INET, address4)),
    }
    print(json.dumps({name: said(way) for name, way in ways.items()}), flush=True)


def said(way: Callable[[], object]) -> str:
    """Give "ok" or what failed."""
    try:
        way()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, repr(error))
    return "ok"


def stream(family: int, peer: tuple[str, int]) -> None:
    """Connect."""
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(30)
        connection.connect(peer)


def datagram(family: int, peer: tuple[str, int], *, connected: bool) -> None:
    """Send one datagram."""
    with socket.socket(family, socket.SOCK_DGRAM) as datagrams:
        if not connected:
            datagrams.sendto(PAYLOAD, peer)
            return
        datagrams.connect(peer)
        datagrams.send(PAYLOAD)


def raw(peer: tuple[str, int]) -> None:
    """Send one ICMP echo request."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as packets:
        packets.sendto(ICMP_ECHO, peer)


def own(family: int, far: str) -> str:
    """Return the address of this side from which the far one is spoken to; nothing is sent."""
    with socket.socket(family, socket.SOCK_DGRAM) as datagrams:
        datagrams.connect((far, UDP4))
        address: str = datagrams.getsockname()[0]
        return address


def talk(host: str) -> None:
    """Be one's own client at an address of this host."""
    with contextlib.ExitStack() as opened:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        server = opened.enter_context(socket.create_server((host, 0), family=family))
        opened.enter_context(socket.create_connection(server.getsockname()[:2], timeout=30))
        opened.enter_context(server.accept()[0])


def answer(host: str) -> None:
    """Send a datagram to oneself, by an address of this host, and take it."""
    with contextlib.ExitStack() as opened:
        server = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        server.bind((host, 0))
        server.settimeout(30)
        client = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        client.sendto(PAYLOAD, server.getsockname())
        server.recv(1000)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
