"""DNS messages as they passed a socket: bytes in, values out, nothing raised on hostile bytes.

dnslib reads names and service parameters; how far it may follow pointers is bounded here, since a message
of a few hundred bytes can send a reader in circles. Answers count only where they belong to the name that
was asked for: by its own records, or along the chain of CNAMEs that starts there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from dnslib import CLASS, QTYPE, RCODE, DNSError, DNSHeader, DNSLabel
from dnslib.buffer import BufferError as ShortError
from dnslib.dns import HTTPS, DNSBuffer

from tracer.model.scope import MAPPED
from tracer.model.text import host

if TYPE_CHECKING:
    from collections.abc import Iterator

PORT: Final = 53
ANSWERS_MAX: Final = 256  # records of one message that are read; the rest is passed over
STREAM_MESSAGE_MAX: Final = 16384  # of DNS over TCP: a longer one is passed over
_DEPTH: Final = 64  # pointers behind each other; dnslib's recursion ends by Python's own bound otherwise
_JUMPS: Final = 2048  # pointers followed in one message
_A: Final = 1  # RFC 1035 3.2.2, as CNAME
_CNAME: Final = 5
_AAAA: Final = 28  # RFC 3596 2.1
_SVCB: Final = frozenset({64, 65})  # RFC 9460 14.1: SVCB and HTTPS
_HINTS: Final = {4: 4, 6: 16}  # RFC 9460 14.3.2: ipv4hint and ipv6hint, with the length of an address
_IN: Final = 1
_ADDRESS: Final = {_A: 4, _AAAA: 16}
_TTL_SIGN: Final = 1 << 31  # RFC 2181 8: a TTL with this bit is zero


class Address(NamedTuple):
    """An address of 16 bytes (IPv4 as IPv4-mapped) and for how many seconds it was said to hold."""

    packed: bytes
    ttl: int


class Message(NamedTuple):
    """What one message asks or answers.

    `name` is the name that was asked for, `kind` the type's name, `result` ok or the rcode's name.
    """

    number: int
    response: bool
    truncated: bool
    name: str
    kind: str
    result: str
    addresses: tuple[Address, ...] = ()
    chain: tuple[str, ...] = ()


class _Record(NamedTuple):
    owner: str
    addresses: tuple[Address, ...]
    leads_to: str | None


class _MalformedError(Exception):
    """What is no message; never leaves this module."""


class _Buffer(DNSBuffer):  # type: ignore[misc] # dnslib has no types
    """A message that is read with bounded patience."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._depth = 0
        self._jumps = 0

    def decode_name(self, last: int = -1) -> DNSLabel:
        """Read a name; dnslib calls this again for each pointer."""
        self._jumps += self._depth > 0
        if self._depth >= _DEPTH or self._jumps > _JUMPS:
            raise ShortError("too many pointers")
        self._depth += 1
        try:
            return super().decode_name(last)
        finally:
            self._depth -= 1

    def name(self) -> str:
        """Read a name as text."""
        found = host(self.decode_name().label)
        if found is None:
            raise _MalformedError
        return found


def parse(data: bytes, *, cut: bool = False) -> Message | None:
    """Give what a message says, None where it is malformed or asks not just one question.

    Of one that was `cut`, as a long packet is when it is copied, the records that are whole count.
    """
    buffer = _Buffer(data)
    try:
        header = DNSHeader.parse(buffer)
        if header.q != 1 or header.opcode:
            return None
        name = buffer.name()
        kind, klass = buffer.unpack("!HH")
        records = list(_records(buffer, min(header.a, ANSWERS_MAX), cut=cut)) if header.qr else []
    except (DNSError, ShortError, _MalformedError):
        return None
    owners = _owners(name, records)
    found = (address for record in records if record.owner in owners for address in record.addresses)
    return Message(
        number=header.id,
        response=bool(header.qr),
        truncated=bool(header.tc),
        name=name,
        kind=_word(QTYPE.forward, kind, "TYPE") if klass == _IN else _word(CLASS.forward, klass, "CLASS"),
        result=_word(RCODE.forward, header.rcode, "RCODE") if header.rcode else "ok",
        addresses=tuple(dict.fromkeys(found)),
        chain=tuple(owners)[1:],
    )


def _word(words: dict[int, str], number: int, prefix: str) -> str:
    """Name a number, as RFC 3597 5 does where it has no name."""
    return str(words.get(number) or f"{prefix}{number}")


def _records(buffer: _Buffer, count: int, *, cut: bool) -> Iterator[_Record]:
    for _ in range(count):
        try:
            yield _record(buffer)
        except (DNSError, ShortError):
            if cut:
                return
            raise


def _record(buffer: _Buffer) -> _Record:
    owner = buffer.name()
    kind, klass, ttl, length = buffer.unpack("!HHIH")
    end = buffer.offset + length
    if buffer.remaining() < length:
        raise ShortError("a record without its end")
    ttl = 0 if ttl & _TTL_SIGN else ttl
    addresses: tuple[Address, ...] = ()
    leads_to = None
    if klass != _IN:
        buffer.offset = end
    elif kind in _ADDRESS:
        addresses = tuple(_addresses(buffer.get(length), _ADDRESS[kind], ttl))
        if len(addresses) != 1:
            raise _MalformedError
    elif kind == _CNAME:
        leads_to = buffer.name()
    elif kind in _SVCB:
        addresses, leads_to = _service(buffer, length, ttl)
    else:
        buffer.offset = end
    if buffer.offset != end:
        raise _MalformedError
    return _Record(owner, addresses, leads_to)


def _service(buffer: _Buffer, length: int, ttl: int) -> tuple[tuple[Address, ...], str | None]:
    """Read a SVCB or HTTPS record (RFC 9460 2.2): hints are addresses of the name that was asked for."""
    found = HTTPS.parse(buffer, length)
    hints = tuple(
        address
        for key, value in found.params
        if key in _HINTS
        for address in _addresses(bytes(value), _HINTS[key], ttl)
    )
    target = host(map(bytes, found.target))
    if target is None:
        raise _MalformedError
    return hints, target if target != "." else None


def _addresses(data: bytes, size: int, ttl: int) -> Iterator[Address]:
    """Cut addresses of `size` bytes out of `data`."""
    if not data or len(data) % size:
        raise _MalformedError
    mapped = MAPPED if size == _ADDRESS[_A] else b""
    for at in range(0, len(data), size):
        yield Address(mapped + data[at : at + size], ttl)


def _owners(asked: str, records: list[_Record]) -> dict[str, None]:
    """Follow the chain from the name that was asked for, in whatever order its links stand."""
    owners = dict.fromkeys([asked])
    links = [record for record in records if record.leads_to is not None]
    moved = True
    while moved:
        fresh = {
            record.leads_to: None
            for record in links
            if record.owner in owners and record.leads_to not in owners and record.leads_to is not None
        }
        owners |= fresh
        moved = bool(fresh)
    return owners


def messages(stream: bytes) -> tuple[list[bytes], int]:
    """Cut DNS over TCP into whole messages (RFC 1035 4.2.2); returns them and the bytes that they took.

    A message longer than STREAM_MESSAGE_MAX ends the reading: -1 instead of the bytes.
    """
    found: list[bytes] = []
    at = 0
    while at + 2 <= len(stream):
        length = int.from_bytes(stream[at : at + 2])
        if length > STREAM_MESSAGE_MAX:
            return found, -1
        if at + 2 + length > len(stream):
            break
        found.append(stream[at + 2 : at + 2 + length])
        at += 2 + length
    return found, at
