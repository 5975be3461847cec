"""Addresses of the host in the kernel's table, so that a datagram to one of them is not refused.

A connect asks the kernel itself (bpf/connect.bpf.h, `binds_to`): no table has to be up to date for it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import structlog

from tracer.bpf import libbpf
from tracer.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracer.bpf.abi import Abi
    from tracer.bpf.maps.tables import Maps

log = structlog.get_logger("tattle")


class OwnAddresses:
    """The map `own_addresses`, by network namespace."""

    def __init__(self, maps: Maps, abi: Abi) -> None:
        self._fd = maps.fd("own_addresses")
        self._shape = maps.shape("own_addresses")
        self._format = abi.numbered_address.format
        self._said_full = False

    def follow(self, known: Mapping[int, frozenset[bytes]]) -> None:
        """Make the table say that these namespaces have these addresses, and that there are no others."""
        wanted = {
            struct.pack(self._format, number & 0xFFFFFFFF, address)
            for number, addresses in known.items()
            for address in addresses
        }
        present = set(libbpf.keys(self._fd, self._shape.key_size))
        for key in present - wanted:
            libbpf.delete(self._fd, key)
        self._enter(wanted - present)

    def _enter(self, keys: set[bytes]) -> None:
        """Enter addresses; where the table is full, say so once: datagrams to the others take longer."""
        try:
            for key in keys:
                libbpf.update(self._fd, key, struct.pack("<I", 1))
        except KernelError as error:
            if not self._said_full:
                log.warning(
                    "not all addresses of this host are known to the kernel half", error=error.message
                )
            self._said_full = True
