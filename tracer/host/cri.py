"""Names of pods and containers, asked of a Kubernetes node's container runtime over its local socket.

containerd and CRI-O speak gRPC there. One question is needed, `ContainerStatus`, with an answer of some
hundred bytes; hence the little of HTTP/2 around it is written out here, instead of a library that would
double the daemon's memory. No API server is asked: kubelet gives each container's names to the runtime.

Sources: runtime.v1 (api.proto of kubernetes/cri-api), RFC 9113 for frames, RFC 7541 6.2.2 for the headers.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Final

from tracer.model.text import escape

if TYPE_CHECKING:
    from collections.abc import Iterator

SOCKETS: Final = (
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/k3s/containerd/containerd.sock",
)
_METHOD: Final = "/runtime.v1.RuntimeService/ContainerStatus"
_ANSWER_MAX: Final = 1 << 16  # bytes: the window that a server may fill without being asked for more
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY = 0, 1, 3, 4, 6, 7
_END_STREAM, _ACK, _END_HEADERS, _PADDED = 0x1, 0x1, 0x4, 0x8
_STREAM: Final = 1
_IMAGE, _LABELS = 8, 12  # of ContainerStatus
_BYTES: Final = 2  # the wire type of strings and messages
_POD, _NAMESPACE, _NAME = (
    f"io.kubernetes.{part}" for part in ("pod.name", "pod.namespace", "container.name")
)


def about(path: str, identifier: str, timeout_s: float) -> tuple[str, str | None] | None:
    """Give NAMESPACE/POD/CONTAINER and the image for a 64-digit id; None: it is no container of a pod.

    Raises OSError, TimeoutError among them, and ValueError for an answer that is none.
    """
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(timeout_s)
        sock.connect(path)
        sock.sendall(_question(identifier))
        answer = _answer(sock)
    return _read(answer) if answer else None


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _question(identifier: str) -> bytes:
    """Give the whole request: 64 digits need no length of more than a byte anywhere."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": _METHOD,
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    block = b"".join(b"\0" + _text(name) + _text(value) for name, value in headers.items())
    message = b"\x0a" + _text(identifier)  # ContainerStatusRequest.container_id, field 1
    body = b"\0" + struct.pack(">I", len(message)) + message  # uncompressed
    return (
        _PREFACE
        + _frame(_SETTINGS, 0, 0)
        + _frame(_HEADERS, _END_HEADERS, _STREAM, block)
        + _frame(_DATA, _END_STREAM, _STREAM, body)
    )


def _text(text: str) -> bytes:
    return bytes([len(text)]) + text.encode("ascii")


def _answer(sock: socket.socket) -> bytes:
    """Read frames until our stream ends; give the message of the answer, empty where there is none."""
    body = b""
    with sock.makefile("rb") as stream:
        while len(body) < _ANSWER_MAX:
            head = stream.read(9)
            if len(head) < 9:  # noqa: PLR2004 - RFC 9113 4.1
                raise ValueError("the answer was cut")
            length, (kind, flags, number) = int.from_bytes(head[:3]), struct.unpack(">BBI", head[3:])
            if length > _ANSWER_MAX:
                raise ValueError("a frame that is longer than was allowed")
            payload = stream.read(length)
            if kind in (_SETTINGS, _PING) and not flags & _ACK:
                sock.sendall(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
            elif kind in (_GOAWAY, _RESET):
                raise ValueError("the runtime hung up")
            elif kind == _DATA:
                body += payload[1 : len(payload) - payload[0]] if flags & _PADDED else payload
            if kind in (_DATA, _HEADERS) and number == _STREAM and flags & _END_STREAM:
                return body[5:]
    raise ValueError("an answer without an end")


def _read(answer: bytes) -> tuple[str, str | None] | None:
    labels, image = {}, b""
    for status in _fields(answer, 1):
        for spec in _fields(status, _IMAGE):
            image = b"".join(_fields(spec, 1))
        for entry in _fields(status, _LABELS):
            keys, values = list(_fields(entry, 1)), list(_fields(entry, 2))
            labels[b"".join(keys).decode("utf-8", "replace")] = b"".join(values)
    parts = [labels.get(label, b"") for label in (_NAMESPACE, _POD, _NAME)]
    return (escape(b"/".join(parts), 256), escape(image, 256) or None) if all(parts) else None


def _fields(message: bytes, wanted: int) -> Iterator[bytes]:
    """Yield what stands in a length-delimited field (protobuf.dev/programming-guides/encoding)."""
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
