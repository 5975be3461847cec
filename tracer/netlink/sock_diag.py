"""Connections ended by the kernel: SOCK_DESTROY of sock_diag(7), in the network namespace of each.

The program gets ECONNABORTED and the peer a reset, whoever holds the socket, and if nobody does any more.
Kernels without CONFIG_INET_DIAG_DESTROY refuse it (EOPNOTSUPP); Debian's have it. Of MPTCP it ends subflows
only, upon which the connection waits for others: not for that.
"""

from __future__ import annotations

import errno
import ipaddress
import struct
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

if TYPE_CHECKING:
    from types import TracebackType

_TCP: Final = 6  # IANA protocol number
_ALL_STATES: Final = 0xFFF  # include/net/tcp_states.h
_WORDS: Final = struct.Struct(">4I")


class Connection(NamedTuple):
    """A TCP connection as its socket tells it: addresses as text, of the socket's own family."""

    family: int
    local: str
    local_port: int
    remote: str
    remote_port: int
    interface: int
    cookie: int


class SockDiag:
    """Netlink sockets in the namespaces that were asked for; `close` closes them."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._sockets: dict[int, Any] = {}
        self.lacking = False
        """Whether the kernel has said that it cannot."""

    def destroy(self, pid: int, one: Connection) -> bool:
        """End a connection in the namespace of a process; False where that did not do it.

        It may be in another namespace, or be gone; the namespace may be closed to us; the kernel may lack it.
        """
        if self.lacking:
            return False
        try:
            self._ask(self._socket(pid), one)
        except _refusals() as error:
            number = getattr(error, "code", getattr(error, "errno", 0))
            self.lacking = number in {errno.EOPNOTSUPP, errno.EPERM}
            return False
        return True

    def _socket(self, pid: int) -> Any:  # noqa: ANN401 - a NetlinkSocket, whose package is imported late
        path = Path(f"/proc/{pid}/ns/net")
        number = path.stat().st_ino
        if number not in self._sockets:
            self._sockets[number] = self._stack.enter_context(_open(path, number))
        return self._sockets[number]

    def _ask(self, netlink: Any, one: Connection) -> None:  # noqa: ANN401
        from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST  # noqa: PLC0415 - 9 MiB, for those who cut only
        from pyroute2.netlink.diag import SOCK_DESTROY, inet_diag_req  # noqa: PLC0415

        asked = inet_diag_req()
        asked["sdiag_family"], asked["sdiag_protocol"] = one.family, _TCP
        asked["idiag_states"], asked["idiag_if"] = _ALL_STATES, one.interface
        asked["idiag_sport"], asked["idiag_dport"] = one.local_port, one.remote_port
        asked["idiag_src"], asked["idiag_dst"] = _words(one.local), _words(one.remote)
        asked["idiag_cookie"] = one.cookie
        for _ in netlink.nlm_request(asked, SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK):
            pass

    def close(self) -> None:
        """Close what was opened."""
        self._stack.close()

    def __enter__(self) -> Self:
        """Nothing is open yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close what was opened."""
        self.close()


def _open(path: Path, number: int) -> Any:  # noqa: ANN401
    from pyroute2.netlink import NETLINK_SOCK_DIAG  # noqa: PLC0415
    from pyroute2.netlink.nlsocket import NetlinkSocket  # noqa: PLC0415

    ours = number == Path("/proc/self/ns/net").stat().st_ino
    netlink = NetlinkSocket(NETLINK_SOCK_DIAG, netns=None if ours else str(path), flags=0)
    netlink.bind()
    return netlink


def _refusals() -> tuple[type[Exception], ...]:
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415

    return (NetlinkError, OSError)


def _words(text: str) -> tuple[int, ...]:
    """Return an address as pyroute2 wants it: four words, IPv4 in the first."""
    return tuple(_WORDS.unpack(ipaddress.ip_address(text).packed.ljust(16, b"\0")))
