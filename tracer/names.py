"""Names of strangers, made safe: for terminals, log lines and labels alike.

Process names, paths and (later) DNS names are chosen by whoever is watched. `escape` is the one place
where such bytes become text. Names of destinations are not known yet: `name` is null, `name_source` none.
"""

from __future__ import annotations

NO_NAME_SOURCE = "none"
_CUT = "…"


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
