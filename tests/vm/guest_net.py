"""The guest's network: a veth pair to a namespace with a server, clients, and a packet tap as the truth.

The tap is an AF_PACKET socket on the veth device. With segmentation offload off the device is handed packets
as they would be on a wire, so the sum of their IP lengths is what a flow must have counted.
"""

import array
import fcntl
import ipaddress
import socket
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

NEAR, FAR = "near", "far"
ADDRESSES = {4: ("198.51.100.1", "198.51.100.2"), 6: ("2001:db8::1", "2001:db8::2")}
PATIENCE_SECONDS = 150
LONGEST_PACKET = 1500

SIOCETHTOOL = 0x8946  # include/uapi/linux/sockios.h
ETHTOOL_SGSO, ETHTOOL_STSO, ETHTOOL_SGRO = 0x24, 0x1F, 0x2C  # include/uapi/linux/ethtool.h
SO_RCVBUFFORCE = 33  # include/uapi/asm-generic/socket.h
PACKET_STATISTICS = 6  # include/uapi/linux/if_packet.h
SOL_PACKET = 263  # include/linux/socket.h
FIN, RST = 1, 4  # RFC 9293 3.1
COUNTS = ("bytes_out", "bytes_in", "packets_out", "packets_in", "late", "longest")
TIME_WAIT = "06"  # include/net/tcp_states.h
ETH_P_ALL = 3  # include/uapi/linux/if_ether.h


class Conversation(NamedTuple):
    """One flow to make: `kind` is the client's process name and says what it does."""

    kind: str
    proto: str
    family: int
    port: int


CONVERSATIONS = (
    Conversation("tcp4", "tcp", 4, 7001),
    Conversation("tcp6", "tcp", 6, 7002),
    Conversation("udp4", "udp", 4, 7003),
    Conversation("udp6", "udp", 6, 7004),
    Conversation("udp4-connected", "udp", 4, 7005),
    Conversation("udp6-connected", "udp", 6, 7006),
)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Return when `condition` holds; TimeoutError names `what` after PATIENCE_SECONDS."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {PATIENCE_SECONDS} s: {what}")
        time.sleep(0.02)


def run(*command: str) -> str:
    """Run a command and give its output; what it says on failure is in the error."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command)}: exit {done.returncode}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
        )
    return done.stdout


def make_network() -> None:
    """Bring up loopback and a veth pair into the namespace FAR, with segmentation left to the sender."""
    from tests.support import links  # noqa: PLC0415 - not for the guest's other scripts: pyroute2 takes long here

    links.raise_loopback(links.HERE)
    links.make(FAR)
    links.join(links.End(links.HERE, NEAR), links.End(FAR, FAR))
    for side, end in enumerate((links.End(links.HERE, NEAR), links.End(FAR, FAR))):
        links.assign(end, f"{ADDRESSES[4][side]}/24", f"{ADDRESSES[6][side]}/64")
        links.up(end)
    offload_off(NEAR)
    with links.inside(FAR):
        offload_off(FAR)


def offload_off(device: str) -> None:
    """Make the stack cut packets before the device gets them, and never glue them together."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for setting in (ETHTOOL_SGSO, ETHTOOL_STSO, ETHTOOL_SGRO):
            value = array.array("I", [setting, 0])
            fcntl.ioctl(control, SIOCETHTOOL, struct.pack("16sP", device.encode(), value.buffer_info()[0]))


def start_server() -> subprocess.Popen[str]:
    """Start the server in FAR; it is ready when this returns."""
    command = ["ip", "netns", "exec", FAR, named("far-server"), "/guest/guest_server.py"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n", f"server ended with {server.wait()}"
    return server


def named(name: str) -> str:
    """Give a path that, executed, is Python in a process of that name."""
    path = Path("/run/named", name)
    path.parent.mkdir(exist_ok=True)
    if not path.is_symlink():
        path.symlink_to("/usr/bin/python3.11")
    return str(path)


def converse(conversation: Conversation) -> dict[str, Any]:
    """Run one client to its end and give what the wire saw of it, with the client's pid."""
    with Tap() as tap:
        address = ADDRESSES[conversation.family][1]
        command = [
            named(conversation.kind),
            "/guest/guest_client.py",
            conversation.kind,
            address,
            str(conversation.port),
        ]
        client = subprocess.Popen(command)
        status = client.wait(PATIENCE_SECONDS)
        wait_until_closed()
        return {"pid": client.pid, "exit": status, **tap.total(conversation)}


def wait_until_closed() -> None:
    """Return when no TCP connection to the server is open or half closed."""
    wait_until(lambda: not _tcp_sockets(), "end of the TCP connections to the server")


def _tcp_sockets() -> list[str]:
    ports = {f"{wish.port:04X}" for wish in CONVERSATIONS}
    tables = [Path(f"/proc/net/{table}").read_text().splitlines()[1:] for table in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table]
    return [row[1] for row in rows if row[2].rpartition(":")[2] in ports and row[3] != TIME_WAIT]


class Tap:
    """Every packet that passes NEAR while this context is open."""

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        self._socket.bind((NEAR, ETH_P_ALL))
        self._socket.settimeout(0)
        return self

    def __exit__(self, *_exception: object) -> None:
        self._socket.close()

    def total(self, conversation: Conversation) -> dict[str, int]:
        """Sum up packets and IP bytes of `conversation`, as long as the client has a socket.

        The socket ends when its FIN is acknowledged. What comes after (a repeated acknowledgment, and the
        reset that answers it) belongs to no socket and passes no cgroup hook; it is counted as `late`.
        """
        total = Counter(dict.fromkeys(COUNTS, 0))
        far = ipaddress.ip_address(ADDRESSES[conversation.family][1]).packed
        fin_end, ended = None, False
        while packet := self._next():
            source, target, ports, size = _parsed(packet)
            way = "out" if target == far else "in"
            if far not in {source, target} or ports[way == "out"] != conversation.port:
                continue
            total["longest"] = max(total["longest"], size)
            total["late" if ended else f"packets_{way}"] += 1
            total[f"bytes_{way}"] += 0 if ended else size
            segment = _segment(packet, size)
            if way == "out" and segment and segment.flags & FIN:
                fin_end = segment.end
            ended = ended or (way == "in" and segment is not None and segment.acknowledged == fin_end)
        return {**total, "tap_dropped": self._dropped()}

    def leaving(self) -> int:
        """Count IP packets to the far side, but for resets of cut connections and neighbour discovery."""
        far = {ipaddress.ip_address(pair[1]).packed for pair in ADDRESSES.values()}
        found = 0
        while packet := self._next():
            found += _parsed(packet)[1] in far and not _is_exempt(packet)
        assert not self._dropped()
        return found

    def _dropped(self) -> int:
        return struct.unpack("II", self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1]

    def _next(self) -> bytes:
        try:
            return self._socket.recv(1 << 17)
        except BlockingIOError:
            return b""


def _parsed(packet: bytes) -> tuple[bytes, bytes, tuple[int, int], int]:
    """Give source, target, ports and length of an IP packet (no options, no extension headers here)."""
    if packet[0] >> 4 == 4:
        head, source, target = 20, packet[12:16], packet[16:20]
        size = int.from_bytes(packet[2:4])
    else:
        head, source, target = 40, packet[8:24], packet[24:40]
        size = 40 + int.from_bytes(packet[4:6])
    return source, target, struct.unpack("!HH", packet[head : head + 4].ljust(4, b"\0")), size


class _Segment(NamedTuple):
    """What a TCP segment says; `end` is the sequence number after it."""

    flags: int
    end: int
    acknowledged: int


def _segment(packet: bytes, size: int) -> _Segment | None:
    """Read the header of RFC 9293 3.1; None for a packet of another protocol."""
    head, proto = (20, packet[9]) if packet[0] >> 4 == 4 else (40, packet[6])
    if proto != socket.IPPROTO_TCP:
        return None
    sequence, acknowledged, words, flags = struct.unpack("!4xIIBB", packet[head : head + 14])
    payload = size - head - (words >> 4) * 4
    return _Segment(flags, (sequence + payload + (flags & FIN)) % (1 << 32), acknowledged)


def _is_exempt(packet: bytes) -> bool:
    """Tell if this is a TCP reset or a neighbour message (RFC 4861 4)."""
    segment = _segment(packet, 0)
    if segment:
        return bool(segment.flags & RST)
    return packet[0] >> 4 == 6 and packet[6] == socket.IPPROTO_ICMPV6 and 133 <= packet[40] <= 137
