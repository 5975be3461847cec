"""What a client says first: the server's name in TLS, the host in plain HTTP. Bytes in, values out.

OpenSSL reads ClientHellos, by way of the standard library: a server that hangs up in its callback for the
server's name. It sees whole hellos only: how far a hello goes, whether it has an extension for encrypted
ones, and whether its names are ASCII (where not, Python's callback prints instead of being called) is
looked up here.
"""

from __future__ import annotations

import contextlib
import re
import ssl
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from tracer.model.text import dotted

if TYPE_CHECKING:
    from collections.abc import Sequence

HELLO_MAX: Final = 16384  # bytes; RFC 8446 4 allows 2^24, clients send below 3,000
_RECORD_MAX: Final = 16384  # RFC 8446 5.1
_HANDSHAKE: Final = 22  # RFC 8446 5.1: content type
_CLIENT_HELLO: Final = 1  # RFC 8446 4: handshake type
_SERVER_NAME: Final = 0  # RFC 6066 3: extension
_ECH: Final = 0xFE0D  # RFC 9849: encrypted_client_hello
_MAJOR: Final = 3  # of all versions on the wire, RFC 8446 5.1

_REQUEST: Final = re.compile(rb"([A-Z]{3,16}) ([!-~]{1,8192}) HTTP/1\.[01]\r?\n")
_REQUEST_BEGINS: Final = re.compile(rb"[A-Z]{1,16}\Z|[A-Z]{3,16} ")
_HOST: Final = re.compile(rb"\n[Hh][Oo][Ss][Tt]:[ \t]*([!-~]{1,300})[ \t]*\r?\n")
_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")
_PORT: Final = re.compile(rb":\d{0,5}\Z")


class Kind(StrEnum):
    """What became of the question for a name."""

    SNI = "sni"
    ECH = "ech"  # encrypted: the name is the outer one, or that of a client that only pretends (RFC 9849 6.2)
    HOST = "host"  # of plain HTTP
    NONE = "none"  # a whole hello without one
    BROKEN = "broken"


class Hello(NamedTuple):
    """A client's first words; `name` is None where it gave none that is a name."""

    kind: Kind
    name: str | None = None


class Found(NamedTuple):
    """What `read` found; `over` says that nothing that is said later can change it."""

    hello: Hello | None
    over: bool


BROKEN: Final = Hello(Kind.BROKEN)
_WAIT: Final = Found(None, over=False)


def unfinished(data: bytes, starts: Sequence[int] = (0,)) -> bool:
    """Tell whether what a client has said so far, `read` not being over, is part of a hello or a request.

    Whatever else it has said can be forgotten: the next segment may begin with a hello all the same.
    """
    end = _HEAD_END.search(data)
    if end is None and _REQUEST_BEGINS.match(data):
        return len(data) < HELLO_MAX
    places = {*starts, *([end.end()] if end else [])}
    return any(may_be_tls(data[at : at + 2]) for at in places if at < len(data))


def read(data: bytes, starts: Sequence[int] = (0,)) -> Found:
    """Read what a client has said so far; `starts` are the places where its segments begin.

    A TLS hello counts wherever a segment begins with one, also behind a proxy's CONNECT or a plain text that
    asks for TLS; the first one ends the matter.
    """
    plain = _plain(data)
    after = _HEAD_END.search(data) if plain is not None else None
    places = sorted({*starts, *([after.end()] if after else [])})
    for at in places:
        if at < len(data) and may_be_tls(data[at : at + 2]):
            found = client_hello(data[at:])
            if found is not None:
                return Found(found, over=True)
            return Found(plain, over=False)
    return Found(plain, over=False) if plain else _WAIT


def may_be_tls(data: bytes) -> bool:
    """Say whether these bytes may begin a TLS record of a handshake."""
    return bytes((_HANDSHAKE, _MAJOR)).startswith(data)


def _plain(data: bytes) -> Hello | None:
    """Read the host of an HTTP/1 request; None where there is none (yet)."""
    line = _REQUEST.match(data)
    if line is None:
        return None
    method, target = line.groups()
    if method == b"CONNECT":
        return _host(target)
    end = _HEAD_END.search(data)
    field = _HOST.search(data, line.end() - 1, end.end() if end else len(data))
    return _host(field[1]) if field else None


def _host(raw: bytes) -> Hello:
    return Hello(Kind.HOST, dotted(_PORT.sub(b"", raw)))


def client_hello(data: bytes) -> Hello | None:
    """Read a ClientHello from the records at the beginning of `data`; None: there is more to come."""
    message = bytearray()
    at = 0
    while len(message) < 4 or len(message) < 4 + int.from_bytes(message[1:4]):  # noqa: PLR2004 - RFC 8446 4: type, length
        head = data[at : at + 5]
        if not may_be_tls(head[:2]) or len(message) > HELLO_MAX:
            return BROKEN
        size = int.from_bytes(head[3:5])
        if len(head) == 5 and not 0 < size <= _RECORD_MAX:  # noqa: PLR2004 - a record's header, RFC 8446 5.1
            return BROKEN
        if len(head) < 5 or at + 5 + size > len(data):  # noqa: PLR2004 - likewise
            return _begun(bytes(message) + data[at + 5 :])
        message += data[at + 5 : at + 5 + size]
        at += 5 + size
    return hello_message(bytes(message[: 4 + int.from_bytes(message[1:4])]))


def _begun(message: bytes) -> Hello | None:
    """Say of a hello's first bytes whether it is worth to wait for more."""
    too_long = int.from_bytes(message[1:4]) > HELLO_MAX
    return BROKEN if message and (message[0] != _CLIENT_HELLO or too_long) else None


def hello_message(message: bytes) -> Hello:
    """Read a whole ClientHello, its handshake header included."""
    if not message or message[0] != _CLIENT_HELLO or len(message) > HELLO_MAX:
        return BROKEN
    extensions = _extensions(message)
    if extensions is None or not extensions.get(_SERVER_NAME, b"").isascii():
        return BROKEN
    said = _ask_openssl(message)
    if said is None:
        return BROKEN
    name = dotted(said.encode("ascii", "replace"))
    if _ECH in extensions:
        return Hello(Kind.ECH, name)
    return Hello(Kind.SNI, name) if name else Hello(Kind.NONE)


def _extensions(message: bytes) -> dict[int, bytes] | None:
    """Give the extensions of a ClientHello by type (RFC 8446 4.1.2); None where lengths do not fit."""
    at = 4 + 2 + 32  # the handshake's header, version, random
    for width in (1, 2, 1):  # session id, cipher suites, compression methods
        at += width + int.from_bytes(message[at : at + width])
    if at == len(message):
        return {}  # RFC 5246 7.4.1.2: there need not be any
    end = at + 2 + int.from_bytes(message[at : at + 2])
    at += 2
    found: dict[int, bytes] = {}
    while at + 4 <= end <= len(message):
        kind, size = int.from_bytes(message[at : at + 2]), int.from_bytes(message[at + 2 : at + 4])
        if kind in found:
            return None
        found[kind] = message[at + 4 : at + 4 + size]
        at += 4 + size
    return found if at == end == len(message) else None


def records(message: bytes) -> bytes:
    """Put a handshake message into TLS records, as QUIC leaves them out (RFC 9001 4)."""
    parts = (message[at : at + _RECORD_MAX] for at in range(0, len(message), _RECORD_MAX))
    return b"".join(bytes((_HANDSHAKE, _MAJOR, 1)) + len(part).to_bytes(2) + part for part in parts)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    # Nothing is ever encrypted here: old clients shall be read, too
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


_CONTEXT: Final = _context()


def _ask_openssl(message: bytes) -> str | None:
    """Give the server's name, empty where there is none; None where OpenSSL does not take the message."""
    said: list[str] = []

    def named(_: object, name: str | None, __: object) -> int:
        said.append(name or "")
        return ssl.ALERT_DESCRIPTION_USER_CANCELLED

    came, going = ssl.MemoryBIO(), ssl.MemoryBIO()
    _CONTEXT.sni_callback = named
    came.write(records(message))
    with contextlib.suppress(ssl.SSLError):  # always raised: the callback hangs up
        _CONTEXT.wrap_bio(came, going, server_side=True).do_handshake()
    return said[0] if said else None
