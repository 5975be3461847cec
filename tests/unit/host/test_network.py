"""What the kernel tells of a process's network: asked in that network, and given back to it alone."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tracer.host.network import Listener, holder, listeners, serving, sockets, user_of, within

HERE = Path("/proc/self")


def test_listening_sockets_are_told_with_their_inode() -> None:
    """Of both IP versions, by which the process that holds them is found; connections are none."""
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as other,
        socket.create_connection(one.getsockname()[:2]) as client,
    ):
        found = {(at.address, at.port): at.inode for at in listeners(HERE)}
        for server in (one, other):
            inode = found[server.getsockname()[:2]]
            assert inode == os.fstat(server.fileno()).st_ino
            assert inode in (sockets(HERE) or ())
            assert holder(inode, Path("/proc")) == str(os.getpid())
        assert client.getsockname()[1] not in {port for _, port in found}


def test_a_listener_of_mptcp_is_one_of_tcp() -> None:
    """Every Go program since 1.24 listens so: the first subflow is told under the program's inode."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_MPTCP) as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port, inode = server.getsockname()[1], os.fstat(server.fileno()).st_ino
        assert [at.inode for at in listeners(HERE) if at.port == port] == [inode]


@pytest.mark.parametrize(
    ("address", "port", "inode"),
    [
        ("127.0.0.1", 1, 10),
        ("127.0.0.1", 2, 20),
        ("192.0.2.1", 2, 20),
        ("::1", 3, 30),
        ("127.0.0.1", 3, 30),
        ("192.0.2.1", 1, None),
        ("::1", 2, None),
        ("127.0.0.1", 4, None),
    ],
)
def test_the_listener_of_an_address_is_found(address: str, port: int, inode: int | None) -> None:
    """Its own, or one that takes all addresses of that IP version; `::` takes both."""
    found = (Listener("127.0.0.1", 1, 10, 0), Listener("0.0.0.0", 2, 20, 0), Listener("::", 3, 30, 0))
    one = serving(found, address, port)
    assert (one.inode if one else None) == inode


def test_a_process_that_is_gone_is_an_error(tmp_path: Path) -> None:
    """Of the operating system's, whatever was to be asked."""
    with pytest.raises(OSError, match="ns/net"):
        within(tmp_path, lambda: None)
    assert sockets(tmp_path) is None


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_client_on_this_host_is_known_by_its_user(family: socket.AddressFamily, address: str) -> None:
    """The kernel's table says whose the connecting socket is; of another connection it says nothing."""
    with socket.create_server((address, 0), family=family) as server:
        port = server.getsockname()[1]
        client = socket.create_connection((address, port))
        own = client.getsockname()[1]
        assert user_of(address, own, port) == os.geteuid()
        assert user_of(address, own, port + 1) is None
        assert user_of(address, own ^ 1, port) is None
        client.close()
