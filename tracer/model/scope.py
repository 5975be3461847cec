"""Scope of a remote address, by a table that is written out.

Not `ipaddress.is_private`: it calls the documentation ranges private and 100.64.0.0/10 public.
"""

from __future__ import annotations

import ipaddress
from enum import StrEnum
from functools import lru_cache
from socket import AF_INET, AF_INET6, inet_pton
from typing import Final

# From here, on loopback, tattle asks a runtime for its settings; no other program uses it
ASKER: Final = "127.84.84.84"
QUESTIONS: Final = frozenset({"/api/status"})

MAPPED: Final = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96, RFC 4291 2.5.5.2
_NAT64: Final = bytes.fromhex("0064ff9b") + bytes(8)  # 64:ff9b::/96, RFC 6052 2.1
_NAT64_LOCAL: Final = bytes.fromhex("0064ff9b0001")  # 64:ff9b:1::/48, RFC 8215 5


def packed(text: str) -> bytes | None:
    """Give an address as the kernel half has it: 16 bytes, IPv4 as IPv4-mapped; None where it is none."""
    for family, before in ((AF_INET, MAPPED), (AF_INET6, b"")):
        try:
            return before + inet_pton(family, text)
        except (OSError, ValueError):
            continue
    return None


class Scope(StrEnum):
    """How far away a remote address is."""

    LOOPBACK = "loopback"
    HOST = "host"
    LAN = "lan"
    MULTICAST = "multicast"
    INTERNET = "internet"
    UNKNOWN = "unknown"  # the sum of flows whose address found no room in the kernel's table


_IPV4: Final = (
    ("0.0.0.0/32", Scope.LOOPBACK),  # RFC 1122 3.2.1.3 (a): this host; Linux connects to itself
    ("127.0.0.0/8", Scope.LOOPBACK),  # RFC 1122 3.2.1.3 (g)
    ("10.0.0.0/8", Scope.LAN),  # RFC 1918 3
    ("172.16.0.0/12", Scope.LAN),  # RFC 1918 3
    ("192.168.0.0/16", Scope.LAN),  # RFC 1918 3
    ("100.64.0.0/10", Scope.LAN),  # RFC 6598 7: shared with the provider's NAT, not the internet
    ("169.254.0.0/16", Scope.LAN),  # RFC 3927 2.1: link-local, cloud metadata services
    ("224.0.0.0/4", Scope.MULTICAST),  # RFC 5771 3
    ("255.255.255.255/32", Scope.MULTICAST),  # RFC 919 7: limited broadcast
)
_IPV6: Final = (
    ("::/128", Scope.LOOPBACK),  # RFC 4291 2.5.2: unspecified; Linux connects to itself
    ("::1/128", Scope.LOOPBACK),  # RFC 4291 2.5.3
    ("fe80::/10", Scope.LAN),  # RFC 4291 2.5.6: link-local
    ("fc00::/7", Scope.LAN),  # RFC 4193 3.1: unique local
    ("ff00::/8", Scope.MULTICAST),  # RFC 4291 2.7
)


def _row(text: str, scope: Scope) -> tuple[int, int, Scope]:
    network = ipaddress.ip_network(text)
    return int(network.network_address), int(network.netmask), scope


_TABLE4: Final = tuple(_row(*row) for row in _IPV4)
_TABLE6: Final = tuple(_row(*row) for row in _IPV6)


def nat64_inside(remote: bytes) -> bytes | None:
    """Return the IPv4 address, mapped, that a NAT64 speaks to for this one; None where it is none.

    Of RFC 8215's prefix the network uses 48, 56, 64 or 96 bits. Where it uses fewer than 96, nothing follows
    the IPv4 address and byte 8 is left out (RFC 6052 2.2); an address whose last byte is 0 is no host's.
    """
    if remote.startswith(_NAT64):
        return MAPPED + remote[12:]
    if not remote.startswith(_NAT64_LOCAL):
        return None
    if any(remote[13:]):
        return MAPPED + remote[12:]
    if remote[12]:
        return MAPPED + remote[9:13]
    if remote[11]:
        return MAPPED + remote[7:8] + remote[9:12]
    return MAPPED + remote[6:8] + remote[9:11]


@lru_cache(maxsize=1024)
def scope(remote: bytes, *, via_loopback: bool = False) -> Scope:
    """Tell the scope of `remote` (16 bytes, IPv4 as IPv4-mapped).

    `via_loopback` says that the packets left by the loopback device: the address is then the host's own,
    whatever range it is from (the kernel routes own addresses there: net/ipv4/route.c, RTN_LOCAL). An address
    of a NAT64 has the scope of the IPv4 address inside; never loopback, since packets to it leave the host.
    """
    inside = nat64_inside(remote)
    if inside is not None:
        found = scope(inside, via_loopback=via_loopback)
        return Scope.LAN if found is Scope.LOOPBACK else found
    if remote.startswith(MAPPED):
        value, table = int.from_bytes(remote[12:]), _TABLE4
    else:
        value, table = int.from_bytes(remote), _TABLE6
    found = next((name for base, mask, name in table if value & mask == base), Scope.INTERNET)
    if via_loopback and found not in (Scope.LOOPBACK, Scope.MULTICAST):
        return Scope.HOST
    return found
