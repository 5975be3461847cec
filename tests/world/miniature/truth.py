"""What really happened, told by others than tattle: nftables at both ends of the link, the servers' logs.

A connection is counted where its packets arrive: what the host sent in world-net, what it received in
world-host. So every packet counts once, after segmentation, with its IP header: bytes on the wire.
"""

import ipaddress
import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from tests.world.miniature.layout import HOST, HOST_LINK, NET, NET_LINK

TABLE = """
table inet truth {{
    set v4 {{
        typeof ip {far} . meta l4proto . th {far_port} . th {near_port}
        size 65535; flags dynamic; counter
    }}
    set v6 {{
        typeof ip6 {far} . meta l4proto . th {far_port} . th {near_port}
        size 65535; flags dynamic; counter
    }}
    chain arriving {{
        type filter hook prerouting priority raw; policy accept;
        iifname != "{link}" return
        meta l4proto {{ tcp, udp }} update @v4 {{ ip {far} . meta l4proto . th {far_port} . th {near_port} }}
        meta l4proto {{ tcp, udp }} update @v6 {{ ip6 {far} . meta l4proto . th {far_port} . th {near_port} }}
    }}
}}
"""
SENT = {"far": "daddr", "far_port": "dport", "near_port": "sport"}
RECEIVED = {"far": "saddr", "far_port": "sport", "near_port": "dport"}


class Connection(NamedTuple):
    """One connection as the host sees it; proto is `tcp` or `udp`."""

    remote: str
    proto: str
    remote_port: int
    local_port: int


class Wire(NamedTuple):
    """Bytes of IP packets, headers included, and packets."""

    bytes_out: int = 0
    packets_out: int = 0
    bytes_in: int = 0
    packets_in: int = 0

    def plus(self, other: "Wire") -> "Wire":
        """Return the sum."""
        return Wire(*(mine + its for mine, its in zip(self, other, strict=True)))

    def minus(self, other: "Wire") -> "Wire":
        """Return the difference."""
        return Wire(*(mine - its for mine, its in zip(self, other, strict=True)))


def nft(namespace: str, *words: str, text: str | None = None) -> str:
    """Return what one command of nftables says in NAMESPACE."""
    command = ["ip", "netns", "exec", namespace, "nft", *words]
    return subprocess.run(command, check=True, input=text, capture_output=True, text=True).stdout


def start_counting() -> None:
    """Put the counters in place; they go with their namespaces."""
    nft(NET, "-f", "-", text=TABLE.format(link=NET_LINK, **SENT))
    nft(HOST, "-f", "-", text=TABLE.format(link=HOST_LINK, **RECEIVED))


def counted(namespace: str) -> dict[Connection, tuple[int, int]]:
    """Return {connection: (bytes, packets)} as NAMESPACE's counters have it now."""
    found = {}
    for part in json.loads(nft(namespace, "-j", "list", "sets"))["nftables"]:
        for element in part.get("set", {}).get("elem", []):
            remote, proto, remote_port, local_port = element["elem"]["val"]["concat"]
            key = Connection(str(ipaddress.ip_address(remote)), proto, remote_port, local_port)
            counter = element["elem"]["counter"]
            found[key] = (counter["bytes"], counter["packets"])
    return found


def wire() -> dict[Connection, Wire]:
    """Return what every connection of world-host has carried so far."""
    sent, received = counted(NET), counted(HOST)
    nothing = (0, 0)
    return {key: Wire(*sent.get(key, nothing), *received.get(key, nothing)) for key in sent.keys() | received}


def total(parts: Iterable[Wire]) -> Wire:
    """Return the sum of PARTS."""
    whole = Wire()
    for part in parts:
        whole = whole.plus(part)
    return whole


def lines(log: Path) -> list[dict[str, Any]]:
    """Return the records of a server's log, oldest first."""
    return [json.loads(line) for line in log.read_text().splitlines()]
