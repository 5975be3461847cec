"""Sockets below TCP and UDP: raw IP, ICMP by raw and ping sockets, and AF_PACKET, which no hook sees."""

import socket
import struct
from typing import Any

from common import Outcome, family_of, main

ECHO_REQUEST = {socket.AF_INET: 8, socket.AF_INET6: 128}
ICMP = {socket.AF_INET: socket.IPPROTO_ICMP, socket.AF_INET6: socket.IPPROTO_ICMPV6}


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def _echo(family: socket.AddressFamily, number: int, size: int) -> bytes:
    head = struct.pack("!BBHHH", ECHO_REQUEST[family], 0, 0, 4711, number)
    filled = head + bytes(size - len(head))
    if family == socket.AF_INET6:  # the kernel fills it in
        return filled
    return filled[:2] + struct.pack("!H", _checksum(filled)) + filled[4:]


def echo(outcome: Outcome, a: dict[str, Any]) -> None:
    """Ping `count` times by a raw (default) or a ping socket and read each reply."""
    family = family_of(a["host"])
    kind = socket.SOCK_DGRAM if a.get("ping") else socket.SOCK_RAW
    with socket.socket(family, kind, ICMP[family]) as sock:
        sock.settimeout(3)
        if kind == socket.SOCK_RAW and family == socket.AF_INET6:  # else it gets neighbour discovery, too
            echo_reply = 129
            wanted = [0xFFFFFFFF] * 8
            wanted[echo_reply >> 5] &= ~(1 << (echo_reply & 31))
            sock.setsockopt(socket.IPPROTO_ICMPV6, 1, struct.pack("8I", *wanted))  # ICMPV6_FILTER
        if a.get("connect"):
            outcome.call(sock.connect, (a["host"], 0))
        for number in range(a["count"]):
            packet = _echo(family, number, a["size"])
            peer = None if a.get("connect") else (a["host"], 0)
            sent = (
                outcome.call(sock.send, packet) if peer is None else outcome.call(sock.sendto, packet, peer)
            )
            outcome.sent += sent or 0
            if sent and a.get("reply", True):
                outcome.received += len(outcome.call(sock.recv, 65_536) or b"")


def protocol(outcome: Outcome, a: dict[str, Any]) -> None:
    """Send packets of an IP protocol without ports."""
    family = family_of(a["host"])
    with socket.socket(family, socket.SOCK_RAW, a["proto"]) as sock:
        if a.get("connect"):
            sock.connect((a["host"], 0))
        for _ in range(a["count"]):
            if a.get("connect"):
                outcome.sent += outcome.call(sock.send, bytes(a["size"])) or 0
            else:
                outcome.sent += outcome.call(sock.sendto, bytes(a["size"]), (a["host"], 0)) or 0


def forged(outcome: Outcome, a: dict[str, Any]) -> None:
    """Send whole IPv4 packets, source address and all, by IP_HDRINCL."""
    udp = struct.pack("!HHHH", 4000, a["port"], 8 + 100, 0) + bytes(100)
    source, destination = socket.inet_aton(a["sender"]), socket.inet_aton(a["host"])
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, a["proto"], 0) + source + destination
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        for _ in range(a["count"]):
            outcome.sent += outcome.call(sock.sendto, head + udp, (a["host"], 0)) or 0


def frames(outcome: Outcome, a: dict[str, Any]) -> None:
    """Send hand-made Ethernet frames by AF_PACKET."""
    udp = struct.pack("!HHHH", 4000, a["port"], 8 + 100, 0) + bytes(100)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0)
    head += socket.inet_aton(a["sender"]) + socket.inet_aton(a["host"])
    head = head[:10] + struct.pack("!H", _checksum(head)) + head[12:]
    ethernet = bytes.fromhex(a["mac"].replace(":", "")) + bytes(6) + b"\x08\x00"
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.bind((a["device"], 0))
        for _ in range(a["count"]):
            outcome.sent += outcome.call(sock.send, ethernet + head + udp) or 0


if __name__ == "__main__":
    main({"echo": echo, "protocol": protocol, "forged": forged, "frames": frames})
