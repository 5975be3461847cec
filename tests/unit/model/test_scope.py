"""Scopes by the written-out table: each range at both of its ends, and what lies next to them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fakes import packed
from tracer.model.scope import Scope, scope

EDGES = [
    ("127.0.0.0", "loopback"),
    ("127.255.255.255", "loopback"),
    ("126.255.255.255", "internet"),
    ("128.0.0.0", "internet"),
    ("0.0.0.0", "loopback"),
    ("0.0.0.1", "internet"),
    ("10.0.0.0", "lan"),
    ("10.255.255.255", "lan"),
    ("11.0.0.0", "internet"),
    ("172.15.255.255", "internet"),
    ("172.16.0.0", "lan"),
    ("172.31.255.255", "lan"),
    ("172.32.0.0", "internet"),
    ("192.168.0.0", "lan"),
    ("192.169.0.0", "internet"),
    ("100.63.255.255", "internet"),
    ("100.64.0.0", "lan"),
    ("100.127.255.255", "lan"),
    ("100.128.0.0", "internet"),
    ("169.254.169.254", "lan"),
    ("224.0.0.251", "multicast"),
    ("239.255.255.255", "multicast"),
    ("240.0.0.0", "internet"),
    ("255.255.255.255", "multicast"),
    ("::", "loopback"),
    ("::1", "loopback"),
    ("::2", "internet"),
    ("fe80::1", "lan"),
    ("febf:ffff::", "lan"),
    ("fec0::", "internet"),
    ("fc00::", "lan"),
    ("fdff::1", "lan"),
    ("ff02::fb", "multicast"),
    ("2001:db8::1", "internet"),
    ("198.51.100.1", "internet"),
    ("203.0.113.1", "internet"),
    ("64:ff9b::8.8.8.8", "internet"),
    ("64:ff9b::192.168.1.1", "lan"),
    ("64:ff9b::224.0.0.1", "multicast"),
    ("64:ff9b::127.0.0.1", "lan"),  # it leaves the host: the gateway's, not ours
    ("64:ff9b:1::10.0.0.1", "lan"),
    ("64:ff9b:1:ffff:ffff:ffff:10.0.0.1", "lan"),
    ("64:ff9b:1::8.8.8.8", "internet"),
    ("64:ff9b:2::10.0.0.1", "internet"),
    ("64:ff9a::10.0.0.1", "internet"),
]


@pytest.mark.parametrize(("address", "expected"), EDGES)
def test_each_range_ends_where_its_rfc_says(address: str, expected: str) -> None:
    """Documentation ranges count as internet, shared address space as LAN: not what `ipaddress` says."""
    assert scope(packed(address)) == expected


def test_own_address_is_the_host() -> None:
    """What leaves by the loopback device reaches nobody else, whatever the address looks like."""
    assert scope(packed("198.51.100.1"), via_loopback=True) is Scope.HOST
    assert scope(packed("192.168.1.5"), via_loopback=True) is Scope.HOST
    assert scope(packed("127.0.0.1"), via_loopback=True) is Scope.LOOPBACK


@given(raw=st.binary(min_size=16, max_size=16), via=st.booleans())
def test_every_address_has_a_scope(*, raw: bytes, via: bool) -> None:
    """No bytes raise, and none is unknown."""
    assert scope(raw, via_loopback=via) in set(Scope) - {Scope.UNKNOWN}
