"""Network namespaces whose traffic is counted, and the counters read back: the truth `W`.

nftables counts in `prerouting` of the receiving side, before anything may drop or change a packet. Offloads
are off on the wire, so that every packet there is one real packet of at most the MTU.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING, NamedTuple

from tests.support import links

if TYPE_CHECKING:
    from collections.abc import Sequence

CLIENT4, CLIENT6 = "198.51.100.2", "2001:db8:1::2"

_CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h
_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h
_TABLE = """
table inet lab {{
  set to4 {{ type inet_proto . ipv4_addr . inet_service; size 65535; flags dynamic; counter; }}
  set from4 {{ type inet_proto . ipv4_addr . inet_service; size 65535; flags dynamic; counter; }}
  set to6 {{ type inet_proto . ipv6_addr . inet_service; size 65535; flags dynamic; counter; }}
  set from6 {{ type inet_proto . ipv6_addr . inet_service; size 65535; flags dynamic; counter; }}
  set host_to4 {{ type inet_proto . ipv4_addr; size 65535; flags dynamic; counter; }}
  set host_from4 {{ type inet_proto . ipv4_addr; size 65535; flags dynamic; counter; }}
  set host_to6 {{ type inet_proto . ipv6_addr; size 65535; flags dynamic; counter; }}
  set host_from6 {{ type inet_proto . ipv6_addr; size 65535; flags dynamic; counter; }}
  counter control {{ }}
  chain count {{
    type filter hook prerouting priority -450;
    meta l4proto {{ tcp, udp, udplite }} add @to4 {{ meta l4proto . ip daddr . th dport }}
    meta l4proto {{ tcp, udp, udplite }} add @from4 {{ meta l4proto . ip saddr . th sport }}
    meta l4proto {{ tcp, udp, udplite }} add @to6 {{ meta l4proto . ip6 daddr . th dport }}
    meta l4proto {{ tcp, udp, udplite }} add @from6 {{ meta l4proto . ip6 saddr . th sport }}
    add @host_to4 {{ meta l4proto . ip daddr }}
    add @host_from4 {{ meta l4proto . ip saddr }}
    {extra}
    icmpv6 type != {{ echo-request, echo-reply }} counter name control return
    add @host_to6 {{ meta l4proto . ip6 daddr }}
    add @host_from6 {{ meta l4proto . ip6 saddr }}
  }}
}}
"""


class Wire(NamedTuple):
    """Packets and bytes of IP packets, headers included, as the receiving ends counted them."""

    bytes_out: int
    bytes_in: int
    packets_out: int
    packets_in: int

    def less(self, earlier: Wire) -> Wire:
        """Return what was added since `earlier`."""
        return Wire(*(now - then for now, then in zip(self, earlier, strict=True)))


def enter(namespace: int) -> None:
    """Enter the network namespace behind a descriptor: setns(2)."""
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def die_with_parent() -> None:
    """Have this process killed when the test run is: nothing stays behind, whatever ends it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Namespace:
    """A network namespace with counters; `run` and `popen` work inside it."""

    def __init__(self, name: str, extra_rules: str = "") -> None:
        self.name = name
        links.make(name)
        self.fd = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        self.run("ethtool", "-K", "lo", "gso", "off", "tso", "off", "gro", "off")
        self.run("nft", "-f", "-", text=_TABLE.format(extra=extra_rules))

    def run(self, *command: str, text: str | None = None) -> str:
        """Run a command inside and return its output; fails if it fails."""
        done = subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=lambda: enter(self.fd),
        )
        if done.returncode:
            raise RuntimeError(f"{self.name}: {' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def sysctl(self, **values: object) -> None:
        """Set net.ipv4 values (double underscore: a dot)."""
        settings = [f"net.ipv4.{key}={value}" for key, value in values.items()]
        self.run("sysctl", "-q", "-w", *settings)

    def counters(self) -> dict[tuple[str, ...], tuple[int, int]]:
        """Return (bytes, packets) by (set, protocol, address[, port])."""
        listing = json.loads(self.run("nft", "-n", "-j", "list", "table", "inet", "lab"))
        found: dict[tuple[str, ...], tuple[int, int]] = {}
        for item in listing["nftables"]:
            for element in item.get("set", {}).get("elem", []):
                value = element["elem"]
                key = (item["set"]["name"], *(str(part) for part in value["val"]["concat"]))
                found[key] = (value["counter"]["bytes"], value["counter"]["packets"])
        return found

    def control(self) -> tuple[int, int]:
        """Return (bytes, packets) of what kernels tell each other over IPv6: it is nobody's."""
        listing = json.loads(self.run("nft", "-j", "list", "counter", "inet", "lab", "control"))
        found = next(item["counter"] for item in listing["nftables"] if "counter" in item)
        return found["bytes"], found["packets"]

    def close(self) -> None:
        """Delete the namespace; its devices go with it."""
        os.close(self.fd)
        links.remove(self.name)


_NUMBERS = {"tcp": "6", "udp": "17", "udplite": "136", "icmp": "1", "ipv6-icmp": "58", "gre": "47"}


def _names_of(proto: str) -> tuple[str, ...]:
    return (_NUMBERS.get(proto, proto), proto)


def wires(peer: Namespace, client: Namespace, wanted: Sequence[tuple[str, str, int | None]]) -> list[Wire]:
    """Return the traffic with several remote addresses by one look at each end's counters."""
    far, near = peer.counters(), client.counters()
    return [
        Wire(*_both(_find(far, "to", key), _find(near, "from", key)))
        if not _is_loopback(key[1])
        else Wire(*_both(_find(near, "to", key), _find(near, "from", key)))
        for key in wanted
    ]


def _is_loopback(address: str) -> bool:
    return address in ("::1", CLIENT4, CLIENT6) or address.startswith("127.")


def _both(out: tuple[int, int], into: tuple[int, int]) -> tuple[int, int, int, int]:
    return out[0], into[0], out[1], into[1]


def _find(
    counters: dict[tuple[str, ...], tuple[int, int]], way: str, key: tuple[str, str, int | None]
) -> tuple[int, int]:
    proto, address, port = key
    family = "6" if ":" in address else "4"
    kind = way + family if port is not None else f"host_{way}{family}"
    tail = (address, str(port)) if port is not None else (address,)
    for name in _names_of(proto):
        if (kind, name, *tail) in counters:
            return counters[kind, name, *tail]
    return 0, 0
