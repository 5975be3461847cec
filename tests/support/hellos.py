"""ClientHellos for tests: by the standard library's own client, and by hand where no client makes them."""

from __future__ import annotations

import itertools
import ssl
import struct
from typing import TYPE_CHECKING

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

if TYPE_CHECKING:
    from collections.abc import Iterable

QUIC_V1, QUIC_V2 = 1, 0x6B3343CF


def client(name: str | None, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    """Give what OpenSSL's client says first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = newest
    came, going = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        context.wrap_bio(came, going, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError:
        return going.read()
    raise AssertionError("a handshake without a server")


def extension(kind: int, body: bytes) -> bytes:
    """Write an extension."""
    return struct.pack(">HH", kind, len(body)) + body


def server_name(*names: bytes) -> bytes:
    """Write the extension of RFC 6066 3."""
    entries = b"".join(b"\0" + struct.pack(">H", len(name)) + name for name in names)
    return extension(0, struct.pack(">H", len(entries)) + entries)


def message(*extensions: bytes, size: int = 0) -> bytes:
    """Write a TLS 1.2 ClientHello by hand, padded (RFC 7685) to about `size` bytes."""
    body = b"\3\3" + bytes(32) + b"\0" + b"\0\4\xc0\x2f\x00\x9c" + b"\1\0"
    groups = extension(10, b"\0\4\0\x1d\0\x17") + extension(13, b"\0\4\4\1\4\3")
    joined = b"".join(extensions) + groups
    if size > len(body) + len(joined) + 10:
        joined += extension(21, bytes(size - len(body) - len(joined) - 10))
    body += struct.pack(">H", len(joined)) + joined
    return b"\1" + len(body).to_bytes(3) + body


def in_records(hello: bytes, cuts: Iterable[int] = ()) -> bytes:
    """Put a message into TLS records, cut where it is said."""
    edges = [0, *cuts, len(hello)]
    parts = [hello[start:end] for start, end in itertools.pairwise(edges)]
    return b"".join(b"\x16\3\1" + struct.pack(">H", len(part)) + part for part in parts)


def quic(name: str, version: int = QUIC_V1) -> list[bytes]:
    """Give the first datagrams of aioquic's client."""
    known = QuicConfiguration(
        is_client=True,
        server_name=name,
        alpn_protocols=["h3"],
        supported_versions=[version],
        original_version=version,
    )
    connection = QuicConnection(configuration=known)
    connection.connect(("198.51.100.1", 443), now=0.0)
    return [datagram for datagram, _ in connection.datagrams_to_send(now=0.0)]


def padded(hello: bytes, size: int, *, first: bool = False) -> bytes:
    """Make a hello longer by an extension of `size` bytes that no server knows, the first one or the last."""
    at = 9 + 34
    for width in (1, 2, 1):  # session id, cipher suites, compression methods
        at += width + int.from_bytes(hello[at : at + width])
    extensions, more = hello[at + 2 :], struct.pack(">HH", 0x5A5A, size) + bytes(size)
    extensions = more + extensions if first else extensions + more
    message = hello[9:at] + struct.pack(">H", len(extensions)) + extensions
    record = b"\x01" + len(message).to_bytes(3) + message
    return hello[:3] + struct.pack(">H", len(record)) + record
