"""The two namespaces and the link between them. No packet can leave: neither is linked to the host.

    world-host 198.51.100.2, 2001:db8:1::2   its own loopback; default route into world-net
    world-net  198.51.100.1, 2001:db8:1::1   DNS at .53 and ::53, and every address of names.json

Segmentation offload is off: what arrives at the other end is what a wire would carry, packet by packet.
"""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support import links
from tests.support.links import End
from tests.world.miniature import layout
from tests.world.miniature.layout import HOST, HOST_LINK, NET, NET_LINK

HOST_END, NET_END = End(HOST, HOST_LINK), End(NET, NET_LINK)
NETNS_ETC = Path("/etc/netns") / HOST  # bound over /etc by `ip netns exec` (ip-netns(8))
SYSCTLS = ("disable_ipv6=0", "accept_dad=0")


def run(*command: str, text: str | None = None) -> str:
    """Run COMMAND and return its output; raises CalledProcessError."""
    return subprocess.run(command, check=True, input=text, capture_output=True, text=True).stdout


def attempt(*command: str) -> int:
    """Run COMMAND and return its exit code."""
    return subprocess.run(command, check=False, capture_output=True).returncode


def make_namespace(name: str) -> None:
    """Make a namespace whose IPv6 addresses are usable at once (no duplicate address detection)."""
    links.make(name)
    settings = [f"net.ipv6.conf.{scope}.{setting}" for scope in ("all", "default") for setting in SYSCTLS]
    run("ip", "netns", "exec", name, "sysctl", "-qw", *settings)


def make_link() -> None:
    """Join the namespaces by a veth pair and route everything of world-host into world-net."""
    links.join(HOST_END, NET_END)
    links.assign(HOST_END, f"{layout.HOST_V4}/24", f"{layout.HOST_V6}/64")
    links.assign(NET_END, f"{layout.NET_V4}/24", f"{layout.NET_V6}/64")
    for end in (HOST_END, NET_END):
        links.up(end)
        off = [word for feature in ("tso", "gso", "gro") for word in (feature, "off")]
        run("ip", "netns", "exec", end.namespace, "ethtool", "-K", end.device, *off)
    links.route(HOST, "0.0.0.0/0", via=layout.NET_V4)
    links.route(HOST, "::/0", via=layout.NET_V6)


def serve_addresses() -> None:
    """Give world-net the addresses of the internet.

    DNS sits on the link: neighbour discovery answers for the interface's own addresses only.
    """
    links.assign(NET_END, f"{layout.DNS_V4}/24", f"{layout.DNS_V6}/64")
    links.assign(End(NET, "lo"), *layout.addresses())


def resolve_inside() -> None:
    """Let programs in world-host ask the world's DNS server and no other, by way of their usual files."""
    NETNS_ETC.mkdir(parents=True, exist_ok=True)
    servers = f"nameserver {layout.DNS_V4}\nnameserver {layout.DNS_V6}\noptions timeout:2 attempts:2\n"
    (NETNS_ETC / "resolv.conf").write_text(servers)
    (NETNS_ETC / "hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
    (NETNS_ETC / "nsswitch.conf").write_text("hosts: files dns\n")


def remove() -> None:
    """Remove all of it, also what a killed run left behind."""
    shutil.rmtree(NETNS_ETC, ignore_errors=True)
    with suppress(OSError):
        NETNS_ETC.parent.rmdir()
    for name in (HOST, NET):
        links.remove(name)


@contextmanager
def network() -> Iterator[None]:
    """Have both namespaces, linked and addressed, for the time of the block."""
    remove()
    try:
        for name in (HOST, NET):
            make_namespace(name)
        make_link()
        serve_addresses()
        resolve_inside()
        yield
    finally:
        remove()
