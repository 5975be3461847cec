"""QUIC Initial packets: the ClientHello in them. Bytes in, values out.

Whoever sees the first packet can read it: its keys are derived from the connection id in it (RFC 9001 5.2,
RFC 9369 3.3.1), so this is no secret. The cryptography library is imported with the first such packet.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

from tracer.names.reassembly import AGE_NS, Stream
from tracer.names.tls import BROKEN, HELLO_MAX, Hello, hello_message

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

CONNECTIONS_MAX: Final = 256
FRAMES_MAX: Final = 256  # of one packet, runs of padding counted once
_ID_MAX: Final = 20  # RFC 9000 17.2
_TAG: Final = 16  # RFC 9001 5.3
_SAMPLE: Final = 16  # RFC 9001 5.4.2
_KEY: Final = 16  # AES-128
_NONCE: Final = 12


class _Version(NamedTuple):
    """What a version of QUIC differs in: salt, first part of labels, and the type of Initial packets."""

    salt: bytes
    label: bytes
    initial: int


_VERSIONS: Final = {
    # RFC 9001 5.2, RFC 9000 17.2.2
    1: _Version(bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a"), b"quic ", 0b00),
    # RFC 9369 3.1 to 3.3
    0x6B3343CF: _Version(bytes.fromhex("0dede3def700a6db819381be6e269dcbf9bd2ed9"), b"quicv2 ", 0b01),
}


class Keys(NamedTuple):
    """What a client's Initial packets are protected with."""

    key: bytes
    nonce: bytes
    header: bytes


class Packet(NamedTuple):
    """An Initial packet as it is on the wire."""

    version: _Version
    connection: bytes
    number_at: int
    data: bytes  # from its first byte to its last


class Piece(NamedTuple):
    """Bytes of the handshake, and where they belong."""

    at: int
    data: bytes


def _expand(secret: bytes, label: bytes, size: int) -> bytes:
    """HKDF-Expand-Label of RFC 8446 7.1 with an empty context, for results of one hash."""
    label = b"tls13 " + label
    info = size.to_bytes(2) + bytes((len(label),)) + label + b"\0"
    return hmac.digest(secret, info + b"\1", hashlib.sha256)[:size]


def client_keys(connection: bytes, version: int = 1) -> Keys:
    """Derive the keys of a client's Initial packets from the connection id that it chose."""
    kind = _VERSIONS[version]
    secret = hmac.digest(kind.salt, connection, hashlib.sha256)
    return _keys(kind, _expand(secret, b"client in", 32))


def _keys(kind: _Version, secret: bytes) -> Keys:
    sizes = {b"key": _KEY, b"iv": _NONCE, b"hp": _KEY}
    return Keys(*(_expand(secret, kind.label + label, size) for label, size in sizes.items()))


def packets(datagram: bytes) -> Iterator[tuple[int, Packet]]:
    """Yield the Initial packets of a datagram with their version; it ends where something else begins."""
    while len(datagram) >= 7 and datagram[0] & 0xC0 == 0xC0:  # noqa: PLR2004 - RFC 9000 17.2: a long header
        number = int.from_bytes(datagram[1:5])
        version = _VERSIONS.get(number)
        found = _packet(datagram, version) if version else None
        if found is None:
            return
        if datagram[0] >> 4 & 3 == found.version.initial:
            yield number, found
        datagram = datagram[len(found.data) :]


def _packet(data: bytes, version: _Version) -> Packet | None:
    """Find the fields of a packet with a long header (RFC 9000 17.2); None where it is cut short."""
    size = data[5]
    connection, at = data[6 : 6 + size], 6 + size
    at += 1 + (data[at] if at < len(data) else 0)
    if data[0] >> 4 & 3 == version.initial:
        length, at = _number(data, at)
        at += length  # of the token
    elif data[0] >> 4 & 3 == (version.initial + 3) % 4:  # Retry: RFC 9000 17.2.5, RFC 9369 3.2
        return None
    length, at = _number(data, at)
    if size > _ID_MAX or at + length > len(data) or length < 4 + _SAMPLE:
        return None
    return Packet(version, connection, at, data[: at + length])


def _number(data: bytes, at: int) -> tuple[int, int]:
    """Read a variable-length integer (RFC 9000 16); returns it and the place behind it."""
    if at >= len(data):
        return 0, at + 1
    size = 1 << (data[at] >> 6)
    return int.from_bytes(data[at : at + size]) & ~(3 << 8 * size - 2), at + size


def decrypt(packet: Packet, keys: Keys) -> bytes | None:
    """Give the frames of a packet; None where the keys are not its own."""
    # With the first QUIC packet: 10 MiB that most hosts never need
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes  # noqa: PLC0415
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

    at = packet.number_at
    # Header protection is one block of AES, by RFC 9001 5.4.3
    block = Cipher(algorithms.AES(keys.header), modes.ECB()).encryptor()  # noqa: S305
    mask = block.update(packet.data[at + 4 : at + 4 + _SAMPLE])
    head = bytearray(packet.data[: at + 4])
    head[0] ^= mask[0] & 0x0F
    size = (head[0] & 3) + 1
    for place in range(size):
        head[at + place] ^= mask[1 + place]
    number = int.from_bytes(head[at : at + size])
    nonce = bytes(a ^ b for a, b in zip(keys.nonce, number.to_bytes(_NONCE), strict=True))
    try:
        return AESGCM(keys.key).decrypt(nonce, packet.data[at + size :], bytes(head[: at + size]))
    except InvalidTag:
        return None


def pieces(frames: bytes) -> list[Piece] | None:
    """Give the handshake's bytes in the frames of an Initial packet (RFC 9000 12.4); None: no such frames."""
    found: list[Piece] = []
    at = 0
    for _ in range(FRAMES_MAX):
        rest = frames[at:].lstrip(b"\0")  # PADDING
        at = len(frames) - len(rest)
        if not rest or rest[0] in (0x1C, 0x1D):  # CONNECTION_CLOSE: nothing follows
            return found
        kind, at = _number(frames, at)
        if kind in (2, 3):
            at = _skip_ack(frames, at, kind)
        elif kind == 6:  # noqa: PLR2004 - CRYPTO, RFC 9000 19.6
            place, at = _number(frames, at)
            size, at = _number(frames, at)
            found.append(Piece(place, frames[at : at + size]))
            at += size
        elif kind != 1:  # PING
            return None
        if at > len(frames):
            return None
    return found


def _skip_ack(frames: bytes, at: int, kind: int) -> int:
    """Pass an ACK frame (RFC 9000 19.3)."""
    for _ in range(2):  # largest, delay
        _, at = _number(frames, at)
    ranges, at = _number(frames, at)
    for _ in range(min(1 + 2 * ranges + 3 * (kind == 3), 2 * FRAMES_MAX)):  # noqa: PLR2004 - ACK with ECN counts
        _, at = _number(frames, at)
    return at


class _Connection:
    """A hello that is yet to be whole."""

    __slots__ = ("begun_ns", "done", "keys", "stream")

    def __init__(self, keys: Keys, now_ns: int) -> None:
        self.keys = keys
        self.stream = Stream(0, now_ns)
        self.begun_ns = now_ns
        self.done = False


class Initials:
    """Hellos put together from Initial packets, by who speaks with whom; bounded."""

    def __init__(self, given_up: Callable[[], None], most: int = CONNECTIONS_MAX) -> None:
        """`given_up` is told when a hello that is not whole has to go for another's sake."""
        self._given_up = given_up
        self._most = most
        self._connections: OrderedDict[Hashable, _Connection] = OrderedDict()

    def __len__(self) -> int:
        return len(self._connections)

    def read(self, key: Hashable, datagram: bytes, now_ns: int) -> Hello | None:
        """Read a datagram that a client has sent; None: no hello is whole by it."""
        told = None
        for version, packet in packets(datagram):
            frames = self._open(key, version, packet, now_ns)
            if frames is not None:
                told = self._take(self._connections[key], frames) or told
        return told

    def _open(self, key: Hashable, version: int, packet: Packet, now_ns: int) -> bytes | None:
        """Decrypt by the keys of this very packet, else by those of the connection's first."""
        own = client_keys(packet.connection, version)
        known = self._connections.get(key)
        frames = decrypt(packet, own)
        if frames is not None and (known is None or known.keys != own):
            self._connections[key] = _Connection(own, now_ns)
            self._connections.move_to_end(key)
            self._bound()
        elif frames is None and known is not None:
            frames = decrypt(packet, known.keys)
        return frames

    def _bound(self) -> None:
        while len(self._connections) > self._most:
            _, gone = self._connections.popitem(last=False)
            if not gone.done:
                self._given_up()

    def _take(self, connection: _Connection, frames: bytes) -> Hello | None:
        found = pieces(frames)
        if connection.done or found is None:
            return None
        for piece in found:
            if piece.at <= HELLO_MAX:
                connection.stream.add(piece.at, piece.data)
        head = connection.stream.head()
        if min(connection.stream.pieces, default=1) or len(head) < 4:  # noqa: PLR2004 - RFC 8446 4: type, length
            return None
        size = 4 + int.from_bytes(head[1:4])
        if size <= HELLO_MAX and len(head) < size:
            return None
        connection.done = True
        connection.stream.close()
        return hello_message(head[:size]) if size <= HELLO_MAX else BROKEN

    def tidy(self, now_ns: int) -> int:
        """Forget what began longer than AGE_NS ago; returns how many hellos never were whole."""
        unfinished = 0
        while self._connections:
            key, first = next(iter(self._connections.items()))
            if now_ns - first.begun_ns < AGE_NS:
                break
            del self._connections[key]
            unfinished += not first.done
        return unfinished
