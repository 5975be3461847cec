"""Addresses of a network namespace as /proc tells them, and word of their changes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.support.fakes import packed
from tracer.netlink.addresses import by_namespace, namespace, of_process

if TYPE_CHECKING:
    from pathlib import Path

TRIE = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 192.168.1.5
        /32 link UNICAST
Local:
  +-- 0.0.0.0/0 3 0 5
     |-- 127.0.0.1
        /32 host LOCAL
     |-- 192.168.1.5
        /32 host LOCAL
     |-- 192.168.1.255
        /32 link BROADCAST
"""
IF6 = """\
20010db8000000000000000000000007 02 40 00 80     eth0
00000000000000000000000000000001 01 80 10 80       lo
"""


def test_local_addresses_are_read(tmp_path: Path) -> None:
    """Of the IPv4 routing table what is local, no broadcast; of IPv6 all; and garbage is none."""
    net = tmp_path / "7" / "net"
    net.mkdir(parents=True)
    (net / "fib_trie").write_text(TRIE)
    (net / "if_inet6").write_text(IF6 + "short\n")
    expected = {packed("127.0.0.1"), packed("192.168.1.5"), packed("2001:db8::7"), packed("::1")}
    assert of_process(7, tmp_path) == expected


def test_a_process_that_is_gone_has_none(tmp_path: Path) -> None:
    """Nothing is raised for it."""
    assert of_process(7, tmp_path) == frozenset()
    assert namespace(7, tmp_path) is None
    assert by_namespace([7], tmp_path) == {}


def test_processes_of_one_namespace_are_looked_at_once() -> None:
    """Our own, told by its inode number, has loopback."""
    found = by_namespace([os.getpid(), os.getpid()])
    assert list(found) == [namespace("self")]
    assert packed("127.0.0.1") in found[next(iter(found))]
