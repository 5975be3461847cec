"""JSON in one form only, so that the same document is always the same bytes: what gets signed.

A part of RFC 8785 (JSON Canonicalization Scheme): keys sorted, no white space, UTF-8, and whole numbers only:
without fractions the one hard chapter of that RFC, how to write a number, says nothing.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

Json = dict[str, Any]

DIGEST: Final = "sha256"
SIGNATURE: Final = "signature"


def dumps(document: object) -> bytes:
    """Give the bytes of a document; ValueError for fractions and lone surrogates."""
    _whole(document)
    text = json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode()


def loads(raw: bytes) -> object:
    """Read a document strictly; ValueError for doubled keys, fractions, NaN, bad UTF-8 and what is no JSON.

    A doubled key would let one reader see one value and the next reader another.
    """
    try:
        return json.loads(
            raw.decode(),
            object_pairs_hook=_once,
            parse_float=_refuse,
            parse_constant=_refuse,
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None


def sha256(document: object) -> str:
    """Give the SHA-256 of a document's canonical form, in hex."""
    return hashlib.sha256(dumps(document)).hexdigest()


def seal(report: Json) -> Json:
    """Give a report with its digest, unsigned: it finds what was changed by chance, and needs no key."""
    return report | {DIGEST: sha256(without(report, DIGEST, SIGNATURE)), SIGNATURE: None}


def intact(report: Json) -> bool:
    """Tell whether a report is what its digest says."""
    return bool(report[DIGEST] == sha256(without(report, DIGEST, SIGNATURE)))


def without(report: Json, *names: str) -> Json:
    """Give a report without some of its keys."""
    return {name: value for name, value in report.items() if name not in names}


def _whole(value: object) -> None:
    if isinstance(value, float):
        raise ValueError(f"{value} is no whole number")  # noqa: TRY004 - of the document, as all others here
    if isinstance(value, dict):
        for name, inner in value.items():
            if not isinstance(name, str):
                raise ValueError(f"the key {name!r} is no text")  # noqa: TRY004 - likewise
            _whole(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _whole(inner)


def _once(pairs: list[tuple[str, Any]]) -> Json:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        doubled = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {doubled!r} stands there twice")
    return found


def _refuse(text: str) -> object:
    raise ValueError(f"{text} is no whole number")
