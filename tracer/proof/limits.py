"""What a proof does not prove, in plain words: what is so on every host, and what was so in this window."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

LIMITS: Final = (
    "AF_PACKET sockets (CAP_NET_RAW): frames made by hand pass below the cgroup hooks",
    "AF_XDP sockets (CAP_NET_RAW and CAP_BPF): they drive the network card's queues themselves",
    "AF_VSOCK: traffic between a virtual machine and its host is no IP",
    "TUN/TAP and other devices written to as files: the packets belong to the kernel, not to the writer",
    "Bluetooth, CAN and other families that are no IP",
    "packets the kernel sends for nobody: ICMP errors, ARP, IGMP and MLD reports, resets for closed ports",
    "what another program does on request: a resolver, a proxy, a container engine is named instead",
    (
        "a connected TCP socket that another program has opened and hands over (SCM_RIGHTS): what is sent "
        "there counts, and is allowed or denied, as that program's"
    ),
    "processes with CAP_BPF or CAP_SYS_ADMIN, which can detach tattle (status and metrics then say so)",
)
ALWAYS: Final = (
    *LIMITS,
    (
        "contents: addresses and sizes are known, not what was sent. Behind one address, and behind one TLS "
        "name, can be many services (shared CDN addresses, domain fronting, a connection used again for "
        "another name)"
    ),
    (
        "of sockets that are handed over: one that is open when we look makes the proof incomplete, one that "
        "is gone by then is missed"
    ),
    (
        "a process that root moves to another control group: what it and its children send there is told, "
        "further generations are not followed"
    ),
    (
        "whoever is root on this host can forge all of this: a signature tells which key signed, not that "
        "the host was honest"
    ),
)
# Doors of programs that do things for others, which need no network socket of the caller
_HELPERS: Final = (
    "/run/docker.sock",
    "/run/podman/podman.sock",
    "/run/containerd/containerd.sock",
    "/run/systemd/resolve/io.systemd.Resolve",
    "/run/nscd/socket",
    "/run/dbus/system_bus_socket",
    "/run/avahi-daemon/socket",
    "/run/snapd.socket",
)


class Facts(NamedTuple):
    """What is known of one window: `powers` are capabilities by process name."""

    wrapped: bool
    listened: bool
    looks: int
    empty: bool
    powers: dict[str, list[str]]
    running: int
    notes: list[str]


def tell(facts: Facts) -> list[str]:
    """Give the limits of one proof, those of this window first."""
    said = list(facts.notes)
    if facts.empty:
        said.append("the target had no process when the window began")
    if facts.running:
        said.append(f"the window ended with the command; {facts.running} processes that it started went on")
    said.append(_families(facts))
    for held in sorted({tuple(held) for held in facts.powers.values()}):
        names = [comm for comm, its in facts.powers.items() if tuple(its) == held]
        said.append(f"{', '.join(names)} had {', '.join(held)}: able to send what the hooks do not see")
    here = [path for path in _HELPERS if _is_socket(path)]
    if here:
        said.append(f"helpers on this host that could send for it, through a socket file: {', '.join(here)}")
    return said + list(ALWAYS)


def _is_socket(path: str) -> bool:
    """Tell whether a socket is there, or hidden in a directory that may not be looked into."""
    try:
        return Path(path).is_socket()
    except OSError:
        return True


def _families(facts: Facts) -> str:
    if facts.listened:
        return (
            "sockets that no hook sees (AF_PACKET, AF_XDP, AF_VSOCK ...): every call that opens one was "
            f"listened to, but for those by io_uring; {facts.looks} looks at what was open"
        )
    return (
        "sockets that no hook sees (AF_PACKET, AF_XDP, AF_VSOCK ...): what was open at one of "
        f"{facts.looks} looks is told, what was opened and closed between two of them is missed"
    )


# What no cgroup hook sees: said always, since no check can rule it out.
