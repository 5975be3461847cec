"""The little of gRPC that asks a local socket: a call, answered by a message or a stream of them.

Written out here instead of a library that would double the daemon's memory. Sources: RFC 9113 for frames, RFC
7541 6.2.2 for headers, PROTOCOL-HTTP2.md of grpc for messages, protobuf.dev/programming-guides/encoding for
fields. Statuses stand in trailers, which are not read: a call that fails is one without an answer.
"""

from __future__ import annotations

import socket
import struct
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_MESSAGE_MAX: Final = 16 << 20  # bytes: kubelet takes as much (its maxMsgSize)
_FRAME_MAX: Final = 1 << 14  # RFC 9113 4.2: as long as nothing else is said
_WINDOW: Final = 1 << 20
_FIRST_WINDOW: Final = 65535  # RFC 9113 6.9.2: the connection's, whatever the settings say
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS, _PADDED = 0x1, 0x1, 0x4, 0x8
_INITIAL_WINDOW_SIZE: Final = 4
_STREAM: Final = 1
_BYTES: Final = 2  # the wire type of strings and messages
_SHORT: Final = 127  # RFC 7541 5.1: what fits a prefix of seven bits


def call(  # noqa: PLR0913 - what a call is
    path: str,
    method: str,
    message: bytes = b"",
    *,
    timeout_s: float,
    quiet_s: float | None = None,
    metadata: dict[str, str] | None = None,
) -> Iterator[bytes]:
    """Yield the messages that a method answers with.

    The whole answer has to come within `timeout_s`; of a stream, which ends when the caller wishes, each part
    within `quiet_s`. Raises OSError, TimeoutError among them, and ValueError for an answer that is none.
    """
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(timeout_s)
        sock.connect(path)
        sock.sendall(_request(method, message, metadata or {}))
        until = None if quiet_s else time.monotonic() + timeout_s
        sock.settimeout(quiet_s or timeout_s)
        yield from _messages(_Frames(sock, until))


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _request(method: str, message: bytes, metadata: dict[str, str]) -> bytes:
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": method,
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
        **metadata,
    }
    block = b"".join(b"\0" + _text(name) + _text(value) for name, value in headers.items())
    body = b"\0" + struct.pack(">I", len(message)) + message  # uncompressed
    return (
        _PREFACE
        + _frame(_SETTINGS, 0, 0, struct.pack(">HI", _INITIAL_WINDOW_SIZE, _WINDOW))
        + _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _WINDOW - _FIRST_WINDOW))
        + _frame(_HEADERS, _END_HEADERS, _STREAM, block)
        + _frame(_DATA, _END_STREAM, _STREAM, body)
    )


def _text(text: str) -> bytes:
    raw = text.encode("ascii")
    if len(raw) >= _SHORT:
        raise ValueError("a header that is longer than is needed here")
    return bytes([len(raw)]) + raw


class _Frames:
    """Reads the frames of a connection, and answers what the protocol wants answered."""

    def __init__(self, sock: socket.socket, until: float | None) -> None:
        self._sock = sock
        self._until = until
        self._buffer = bytearray()

    def data(self) -> Iterator[bytes]:
        """Yield the data of our stream, until it ends."""
        while True:
            head = self._take(9)  # RFC 9113 4.1
            length, (kind, flags, number) = int.from_bytes(head[:3]), struct.unpack(">BBI", head[3:])
            if length > _FRAME_MAX:
                raise ValueError("a frame that is longer than was allowed")
            payload = self._take(length)
            if kind in (_SETTINGS, _PING) and not flags & _ACK:
                self._sock.sendall(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
            elif kind in (_GOAWAY, _RESET):
                raise ValueError("it hung up")
            elif kind == _DATA and payload:
                self._widen(length)
                yield payload[1 : len(payload) - payload[0]] if flags & _PADDED else payload
            if kind in (_DATA, _HEADERS) and number == _STREAM and flags & _END_STREAM:
                return

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            if self._until is not None:
                self._sock.settimeout(max(self._until - time.monotonic(), 0.001))
            more = self._sock.recv(1 << 16)
            if not more:
                raise ValueError("the answer was cut")
            self._buffer += more
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _widen(self, length: int) -> None:
        more = struct.pack(">I", length)
        self._sock.sendall(_frame(_WINDOW_UPDATE, 0, 0, more) + _frame(_WINDOW_UPDATE, 0, _STREAM, more))


def _messages(frames: _Frames) -> Iterator[bytes]:
    buffer = bytearray()
    for data in frames.data():
        buffer += data
        while len(buffer) >= 5:  # noqa: PLR2004 - a message's head: compressed or not, and its length
            length = int.from_bytes(buffer[1:5])
            if buffer[0] or length > _MESSAGE_MAX:
                raise ValueError("a message that is compressed or too long")
            if len(buffer) < 5 + length:
                break
            yield bytes(buffer[5 : 5 + length])
            del buffer[: 5 + length]


def fields(message: bytes, wanted: int) -> Iterator[bytes]:
    """Yield what stands in a length-delimited field; ValueError where the message is none."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        if tag & 7 == 0:
            _, at = _varint(message, at)
        elif tag & 7 == _BYTES:
            length, at = _varint(message, at)
            if at + length > len(message):
                raise ValueError("a field that is longer than its message")
            if tag >> 3 == wanted:
                yield message[at : at + length]
            at += length
        elif tag & 7 in (1, 5):
            at += 8 if tag & 7 == 1 else 4
        else:
            raise ValueError("a field of no kind")


def field(message: bytes, *way: int) -> bytes:
    """Return the last value of a field, or of a field in a field; empty where there is none."""
    for number in way:
        message = next(iter([*fields(message, number)][-1:]), b"")
    return message


def pairs(message: bytes, number: int) -> dict[str, bytes]:
    """Return a map of strings."""
    return {field(entry, 1).decode("utf-8", "replace"): field(entry, 2) for entry in fields(message, number)}


def string(number: int, value: bytes | str) -> bytes:
    """Return a field (of a number below 16) that holds a text or a message."""
    raw = value.encode() if isinstance(value, str) else value
    length, size = len(raw), b""
    while length > _SHORT:
        size += bytes([length & 0x7F | 0x80])
        length >>= 7
    return bytes([number << 3 | _BYTES]) + size + bytes([length]) + raw


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        value |= (message[at] & 0x7F) << shift
        at += 1
        if not message[at - 1] & 0x80:
            return value, at
    raise ValueError("a number without an end")


def number(message: bytes, wanted: int) -> int:
    """Return the value of a field that is a number; 0 where there is none."""
    at, found = 0, 0
    while at < len(message):
        tag, at = _varint(message, at)
        if tag & 7 == 0:
            value, at = _varint(message, at)
            found = value if tag >> 3 == wanted else found
        elif tag & 7 == _BYTES:
            length, at = _varint(message, at)
            at += length
        elif tag & 7 in (1, 5):
            at += 8 if tag & 7 == 1 else 4
        else:
            raise ValueError("a field of no kind")
    return found
