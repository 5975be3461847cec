"""Names of strangers, made safe: for terminals, log lines and labels alike.

Process names, paths and names of hosts are chosen by whoever is watched. `escape` is the one place where
such bytes become text; `host` makes names of hosts comparable first.
"""

from __future__ import annotations

from socket import AF_INET, AF_INET6, inet_pton
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

NO_NAME_SOURCE = "none"
_CUT = "…"
LABEL_MAX: Final = 63  # RFC 1035 2.3.4, in bytes
NAME_MAX: Final = 255  # likewise, of a name as DNS writes it
_PLAIN: Final = frozenset(range(0x21, 0x7F)) - frozenset(rb".\\")


def escape(raw: bytes | str, limit: int = 0) -> str:
    r"""Give printable text for any bytes; what could move a cursor or reorder a line becomes an escape.

    Invalid UTF-8 is shown as ``\xNN``, an unprintable code point (Unicode categories C* and Z* but the
    space: controls, bidirectional marks, line separators) as ``\xNN``, ``\uNNNN`` or ``\UNNNNNNNN``.
    A backslash stays one, since systemd's own unit names contain ``\x2d`` and have to match.
    `limit` bounds the result in characters (0: no bound); a cut one ends in an ellipsis.
    """
    text = raw if isinstance(raw, str) else raw.decode("utf-8", "surrogateescape")
    if not text.isprintable():
        text = "".join(char if char.isprintable() else _escaped(char) for char in text)
    if limit and len(text) > limit:
        text = text[: limit - 1] + _CUT
    return text


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # noqa: PLR2004 - PEP 383: a byte that was no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:  # noqa: PLR2004 - ASCII: byte and code point are the same
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004 - the plane that four digits reach


def host(labels: Iterable[bytes]) -> str | None:
    r"""Give a host's name from its labels: lower case, printable ASCII, no dot at its end, the root ``.``.

    A dot or backslash in a label stands behind a backslash, other bytes as ``\DDD`` (RFC 1035 5.1): two names
    that differ look different, and none looks like another with more labels. Punycode stays as it is, so
    look-alikes of other scripts show as such. None: too long for a name, or with an empty label.
    """
    found = tuple(labels)
    if sum(map(len, found)) + len(found) + 1 > NAME_MAX:
        return None
    if not all(0 < len(one) <= LABEL_MAX for one in found):
        return None
    return ".".join("".join(map(_byte, one.lower())) for one in found) or "."


def _byte(value: int) -> str:
    if value in _PLAIN:
        return chr(value)
    return f"\\{chr(value)}" if value in b".\\" else f"\\{value:03d}"


def dotted(raw: bytes) -> str | None:
    """Give a host's name that is written with dots, as TLS and HTTP do; None: no name, or an address."""
    text = raw.removesuffix(b".")
    if not text or is_address(text.strip(b"[]")):
        return None
    return host(text.split(b"."))


def is_address(raw: bytes) -> bool:
    """Say whether a text is an IP address and no name (RFC 6066 3 has none of these)."""
    for family in (AF_INET, AF_INET6):
        try:
            inet_pton(family, raw.decode("ascii"))
        except (OSError, ValueError):
            continue
        return True
    return False


APART: Final = frozenset(
    {"event", "level", "error", "hint", "exception", "trouble", "pathname", "lineno", "func_name"}
)
"""Keys with a place of their own in the line, or none; all others are shown as KEY=VALUE."""


def logline(record: Mapping[str, object]) -> str:
    """Return `EVENT KEY=VALUE ...: ERROR; hint: HINT`, strangers' bytes escaped."""
    fields = "".join(f" {key}={_value(value)}" for key, value in record.items() if key not in APART)
    error = f": {escape(str(record['error']))}" if record.get("error") else ""
    hint = f"; hint: {escape(str(record['hint']))}" if record.get("hint") else ""
    trace = f"\n{record['exception']}" if record.get("exception") else ""
    return f"{escape(str(record['event']))}{fields}{error}{hint}{trace}"


def _value(value: object) -> str:
    text = escape(str(value))
    return f'"{text}"' if " " in text or not text else text
