"""A private certificate authority and one server certificate for every name of the world.

python -m tests.world.miniature.authority DIRECTORY      writes ca.pem, server.pem, server.key
"""

import datetime as dt
import os
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.world.miniature.layout import table

Key = ec.EllipticCurvePrivateKey
USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)
DAY = dt.timedelta(days=1)


def usage(*granted: str) -> x509.KeyUsage:
    """Return a key usage with exactly GRANTED."""
    return x509.KeyUsage(**{name: name in granted for name in USAGES})


def sign(
    subject: str, public: ec.EllipticCurvePublicKey, issuer: Key, *extensions: x509.ExtensionType
) -> bytes:
    """Return a PEM certificate for SUBJECT that is good from yesterday for 30 days."""
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(
        subject_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]),
        issuer_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "miniature internet CA")]),
        public_key=public,
        serial_number=x509.random_serial_number(),
        not_valid_before=now - DAY,
        not_valid_after=now + 30 * DAY,
    )
    for extension in extensions:
        critical = isinstance(extension, x509.BasicConstraints | x509.KeyUsage)
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(issuer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def main() -> None:
    """Write the three files."""
    directory = Path(sys.argv[1])
    root, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root_id = x509.SubjectKeyIdentifier.from_public_key(root.public_key())
    root_pem = sign(
        "miniature internet CA",
        root.public_key(),
        root,
        x509.BasicConstraints(ca=True, path_length=0),
        usage("key_cert_sign", "crl_sign"),
        root_id,
    )
    server_pem = sign(
        "server.example",
        server.public_key(),
        root,
        x509.BasicConstraints(ca=False, path_length=None),
        usage("digital_signature"),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
        x509.SubjectAlternativeName([x509.DNSName(name) for name in table()["names"]]),
        x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(root_id),
        x509.SubjectKeyIdentifier.from_public_key(server.public_key()),
    )
    key_format = (
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    os.umask(0o077)
    (directory / "server.key").write_bytes(server.private_bytes(*key_format))
    (directory / "server.pem").write_bytes(server_pem + root_pem)
    (directory / "ca.pem").write_bytes(root_pem)


if __name__ == "__main__":
    main()
