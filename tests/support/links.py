"""Network namespaces, the devices that join them, and their addresses: by netlink, for all tests.

Lab (kernel tests), the miniature internet, the bench and the guests of tests/vm are built of these. Names of
namespaces are those of ip-netns(8), so `ip netns` shows what a test has made.
"""

from __future__ import annotations

from contextlib import contextmanager
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pyroute2 import IPRoute, NetNS, netns

if TYPE_CHECKING:
    from collections.abc import Iterator

NODAD = 0x02
"""IFA_F_NODAD, include/uapi/linux/if_addr.h: an IPv6 address is usable at once."""
PERMANENT = 0x80
"""NUD_PERMANENT, include/uapi/linux/neighbour.h: no address resolution."""
HERE = ""
"""The namespace that this process is in."""
_LOOPBACK = 1


class End(NamedTuple):
    """One end of a cable: a device in a namespace."""

    namespace: str
    device: str


def make(name: str) -> None:
    """Make a namespace whose loopback device is up."""
    netns.create(name)
    raise_loopback(name)


def raise_loopback(name: str) -> None:
    """Bring a namespace's loopback device up."""
    with opened(name) as link:
        link.link("set", index=_LOOPBACK, state="up")


def exists(name: str) -> bool:
    """Whether there is a namespace of this name."""
    return Path("/run/netns", name).exists()


def remove(name: str) -> None:
    """Remove a namespace with its devices; one that is not there is no error."""
    if exists(name):
        netns.remove(name)


@contextmanager
def opened(name: str) -> Iterator[IPRoute]:
    """Yield a netlink socket inside of a namespace."""
    with IPRoute() if name == HERE else NetNS(name, flags=0) as link:
        yield link


@contextmanager
def inside(name: str) -> Iterator[None]:
    """Have this thread be in a namespace for a while."""
    netns.pushns(name)
    try:
        yield
    finally:
        netns.popns()


def index_of(link: IPRoute, device: str) -> int:
    """Return the index of a device."""
    found: int = link.link_lookup(ifname=device)[0]
    return found


def join(left: End, right: End) -> None:
    """Join two namespaces by a veth pair; both ends are still down."""
    with opened(left.namespace) as link:
        peer = {"ifname": right.device, "net_ns_fd": right.namespace}
        link.link("add", ifname=left.device, kind="veth", peer=peer)


def up(end: End, **options: object) -> None:
    """Bring a device up, with further link attributes if there are any (`gso_max_size`)."""
    with opened(end.namespace) as link:
        link.link("set", index=index_of(link, end.device), state="up", **options)


def assign(end: End, *addresses: str, **options: object) -> None:
    """Give a device addresses, each with its prefix length; IPv6 ones are usable at once."""
    with opened(end.namespace) as link:
        device = index_of(link, end.device)
        for text in addresses:
            one = ip_interface(text)
            how = {"flags": NODAD} if one.version == 6 else {}
            link.addr(
                "add", index=device, address=str(one.ip), prefixlen=one.network.prefixlen, **how, **options
            )


def route(namespace: str, to: str, *, via: str | None = None, device: str | None = None) -> None:
    """Add a route; `to` 0.0.0.0/0 or ::/0 is the default one."""
    where: dict[str, object] = {"dst": str(ip_network(to))}
    with opened(namespace) as link:
        if via is not None:
            where["gateway"] = via
        if device is not None:
            where["oif"] = index_of(link, device)
        link.route("add", **where)


def no_route(namespace: str, to: str, kind: str) -> None:
    """Add a route that leads nowhere: `blackhole` drops, `unreachable` says so."""
    with opened(namespace) as link:
        link.route("add", dst=str(ip_network(to)), type=kind)


def mac_of(end: End) -> str:
    """Return a device's link address."""
    with opened(end.namespace) as link:
        found: str = link.link("get", index=index_of(link, end.device))[0].get_attr("IFLA_ADDRESS")
    return found


def know(end: End, address: str, mac: str) -> None:
    """Tell a device where a neighbour is, for good."""
    with opened(end.namespace) as link:
        link.neigh("replace", dst=address, lladdr=mac, ifindex=index_of(link, end.device), state=PERMANENT)
