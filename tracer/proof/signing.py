"""Signatures of reports: Ed25519 (RFC 8032) over the canonical form, by a key that never leaves this host.

Keys are PEM files as openssl makes and reads them. The fingerprint is the SHA-256 of the public key's DER
form (RFC 8410): `openssl pkey -in KEY -pubout -outform DER | sha256sum` tells the same.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import stat
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tracer.errors import HostError, UsageError
from tracer.model.text import escape
from tracer.proof import canonical

Json = dict[str, Any]

ALGORITHM: Final = "ed25519"
_FINGERPRINT: Final = re.compile(r"(?:sha256:)?([0-9a-fA-F]{64})\Z")
_DER: Final = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def make_key(path: Path) -> str:
    """Make a new key in a file that only its owner can read; returns the fingerprint. Never overwrites."""
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        mend = "give a path that does not exist yet, in a directory that does"
        raise HostError(f"the key {escape(str(path))} cannot be made: {error.strerror}", mend) from None
    with os.fdopen(fd, "wb") as file:
        file.write(pem)
    return fingerprint(_public(key))


def load_key(path: Path) -> Ed25519PrivateKey:
    """Read a private key; UsageError where it is none, or where others could read it, too."""
    raw = _read(path)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise UsageError(
            f"the key {escape(str(path))} can be read by others", f"chmod 600 {escape(str(path))}"
        )
    try:
        key = serialization.load_pem_private_key(raw, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        mend = "make one: tattle prove --make-key FILE, or openssl genpkey -algorithm ed25519 -out FILE"
        raise UsageError(f"{escape(str(path))} is no Ed25519 key without a password", mend)
    return key


def sign(report: Json, key: Ed25519PrivateKey) -> Json:
    """Give a sealed report with a signature over all of it."""
    value = key.sign(canonical.dumps(canonical.without(report, canonical.SIGNATURE)))
    return report | {canonical.SIGNATURE: _signature(_public(key), value)}


def signer(report: Json) -> str:
    """Check the signature and give its key's fingerprint; ValueError says what is wrong with it."""
    signature = report[canonical.SIGNATURE]
    try:
        if signature["algorithm"] != ALGORITHM:
            raise ValueError(f"the algorithm {escape(str(signature['algorithm']))} is not known")
        public = base64.b64decode(signature["public_key"], validate=True)
        value = base64.b64decode(signature["value"], validate=True)
        key = serialization.load_der_public_key(public)
    except (binascii.Error, KeyError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(f"the signature cannot be read: {error}") from None
    if not isinstance(key, Ed25519PublicKey) or public != key.public_bytes(*_DER):
        raise ValueError("its key is no Ed25519 key")
    if signature != _signature(public, value):
        raise ValueError("the signature is not written as tattle writes it")
    try:
        key.verify(value, canonical.dumps(canonical.without(report, canonical.SIGNATURE)))
    except InvalidSignature:
        raise ValueError("the signature is not of this report: it was changed after it was signed") from None
    return fingerprint(public)


def _signature(public: bytes, value: bytes) -> Json:
    """Write a signature in its one form: base64 has others, where the last digit has bits to spare."""
    return {
        "algorithm": ALGORITHM,
        "public_key": base64.b64encode(public).decode(),
        "fingerprint": fingerprint(public),
        "value": base64.b64encode(value).decode(),
    }


def trusted(texts: list[str]) -> set[str]:
    """Give the fingerprints that --trust names: themselves, or files with a key."""
    return {_trusted(text) for text in texts}


def _trusted(text: str) -> str:
    found = _FINGERPRINT.match(text)
    if found:
        return f"sha256:{found.group(1).lower()}"
    raw = _read(Path(text))
    for load in (serialization.load_pem_public_key, _load_private):
        try:
            key = load(raw)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            continue
        if isinstance(key, Ed25519PublicKey):
            return fingerprint(key.public_bytes(*_DER))
    mend = "give a fingerprint (sha256:...) or a PEM file with a public key"
    raise UsageError(f"{escape(text)} is no Ed25519 key", mend)


def _load_private(raw: bytes) -> object:
    key = serialization.load_pem_private_key(raw, None)
    return key.public_key()


def fingerprint(public: bytes) -> str:
    """Give the fingerprint of a public key in DER form."""
    return f"sha256:{hashlib.sha256(public).hexdigest()}"


def _public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(*_DER)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        mend = "make a key: tattle prove --make-key FILE"
        raise UsageError(f"the key {escape(str(path))} cannot be read: {error.strerror}", mend) from None
