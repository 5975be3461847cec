"""Who may ask over HTTP: host names on loopback, a token elsewhere, and headers that hold a browser to it.

Nothing here knows what is served. Tokens and cookies are compared in constant time; a cookie is signed by
the token, so a new token ends every session, and nothing has to be remembered.
"""

from __future__ import annotations

import ipaddress
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tracer.errors import HostError, UsageError
from tracer.model.text import escape

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

TOKEN_MIN: Final = 16  # bytes: nobody guesses so many by asking
TOKEN_MAX: Final = 4096
SESSION_S: Final = 12 * 3600
COOKIE: Final = "tattle"
_FORM_MAX: Final = 3 * TOKEN_MAX + 64  # every byte of a token as %XX

# Content Security Policy 3: own files alone; with trusted types, text can never become markup
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS: Final = (
    ("Content-Security-Policy", POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
    ("Server", "tattle"),
)


class Access(NamedTuple):
    """What the configuration and the command line say of who may ask; files are paths."""

    token_file: str | None = None
    certificate: str | None = None
    key: str | None = None
    insecure: bool = False
    control: bool | None = None
    """Whether the page may switch; None: where only this machine reaches it."""

    def switches(self, host: str) -> bool:
        """Say whether the page may switch, listening on this address."""
        return is_loopback(host) if self.control is None else self.control

    def keys(self) -> Keys:
        """Read the files; raises HostError or UsageError."""
        return Keys(read_token(self.token_file) if self.token_file else None, _tls(self))


class Keys(NamedTuple):
    """What was read: the token, and what encrypts. None: without."""

    token: bytes | None = None
    tls: ssl.SSLContext | None = None


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach an address or name to listen on."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check(host: str, listen: str, access: Access) -> None:
    """Raise UsageError where a door would be open to the network that nobody said should be."""
    if (access.certificate is None) != (access.key is None):
        there, lacking = ("certificate", "key") if access.certificate else ("key", "certificate")
        raise UsageError(f"a {there} without its {lacking}", f"give the other one, too: --{lacking} FILE")
    if access.control and not is_loopback(host) and access.certificate is None:
        raise UsageError(
            f"[web] control = true, and {listen} can be reached from the network without TLS",
            "give --certificate and --key; without control = true the page there only shows",
        )
    if access.insecure or is_loopback(host):
        return
    lack = [
        what for what, given in (("token", access.token_file), ("TLS", access.certificate)) if given is None
    ]
    if lack:
        raise UsageError(
            f"{listen} can be reached from the network, and there is no {' and no '.join(lack)}",
            "give --token-file, --certificate and --key, or --insecure where something else guards it",
        )


def read_token(path: str) -> bytes:
    """Read the secret of a file, without the white space around it; raises HostError or UsageError."""
    try:
        with Path(path).open("rb") as file:
            token = file.read(TOKEN_MAX + 1).strip()
    except OSError as error:
        raise HostError(
            f"the token file {escape(path)} cannot be read: {error.strerror}",
            f"make one: (umask 077; head -c 32 /dev/urandom | base64 >{escape(path)})",
        ) from None
    if not TOKEN_MIN <= len(token) <= TOKEN_MAX or not token.isascii() or len(token.split()) != 1:
        raise UsageError(
            f"the token in {escape(path)} is no word of {TOKEN_MIN} to {TOKEN_MAX} ASCII characters",
            f"make one: (umask 077; head -c 32 /dev/urandom | base64 >{escape(path)})",
        )
    return token


def _tls(access: Access) -> ssl.SSLContext | None:
    """Give what encrypts, by the standard library's defaults (TLS 1.2 and up); None: no TLS."""
    if access.certificate is None or access.key is None:
        return None
    import ssl  # noqa: PLC0415 - some MB that a loopback door does not need

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # A key behind a passphrase would have OpenSSL ask for it on the terminal
        context.load_cert_chain(access.certificate, access.key, password=lambda: b"")
    except OSError as error:  # ssl.SSLError is one
        names = f"{escape(access.certificate)} and {escape(access.key)}"
        reason = error.strerror or str(error)
        raise HostError(
            f"no TLS by {names}: {escape(reason)}",
            "give a certificate chain and its key as PEM files, the key without a passphrase",
        ) from None
    return context


class Guard:
    """Decides over requests by their environ (PEP 3333)."""

    def __init__(
        self, token: bytes | None, *, local: bool, secure: bool, now: Callable[[], float] = time.time
    ) -> None:
        """`local`: only this machine can ask; `secure`: by TLS. `now` is the clock that sessions end by."""
        self.token = token
        self._local = local
        self._secure = secure
        self._now = now

    def welcome(self, environ: dict[str, Any]) -> bool:
        """Say whether the request was meant for this server.

        A stranger's page can have its own name resolve to 127.0.0.1 (DNS rebinding) and then read what the
        browser takes for that page's own; its name is still in the request.
        """
        asked = environ.get("HTTP_HOST")
        return not self._local or asked is None or is_loopback(_bare(asked))

    def known(self, environ: dict[str, Any]) -> bool:
        """Say whether the request carries the token or a session; everybody is known where there is none."""
        if self.token is None:
            return True
        scheme, _, given = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._same(given.strip())
        return any(self._session(value) for value in _cookies(environ.get("HTTP_COOKIE", "")))

    def log_in(self, environ: dict[str, Any]) -> str | None:
        """Take the form of the login page; gives the cookie to set, or None for a wrong token."""
        from urllib.parse import parse_qs  # noqa: PLC0415 - few log in, fewer often

        length = environ.get("CONTENT_LENGTH") or "0"
        if not length.isascii() or not length.isdecimal() or len(length) > len(str(_FORM_MAX)):
            return None
        form = environ["wsgi.input"].read(min(int(length), _FORM_MAX)).decode("ascii", "replace")
        fields = parse_qs(form, max_num_fields=4) if form.count("&") < 4 else {}  # noqa: PLR2004 - one is ours
        if not self._same(fields.get("token", [""])[0].strip()):
            return None
        value = self._signed(int(self._now()) + SESSION_S)
        secure = "; Secure" if self._secure else ""
        return f"{COOKIE}={value}; Path=/; Max-Age={SESSION_S}; HttpOnly; SameSite=Strict{secure}"

    def _same(self, given: str) -> bool:
        import hmac  # noqa: PLC0415 - with OpenSSL's hashes, which nobody needs without a token

        return self.token is not None and hmac.compare_digest(given.encode("utf-8", "replace"), self.token)

    def _signed(self, until: int) -> str:
        import hashlib  # noqa: PLC0415 - as above
        import hmac  # noqa: PLC0415

        name = f"tattle session until {until}".encode()
        return f"{until}.{hmac.new(self.token or b'', name, hashlib.sha256).hexdigest()}"

    def _session(self, value: str) -> bool:
        import hmac  # noqa: PLC0415 - as above

        until = value.partition(".")[0]
        if not until.isascii() or not until.isdecimal() or len(until) > len("99999999999"):
            return False
        genuine = hmac.compare_digest(value.encode("utf-8", "replace"), self._signed(int(until)).encode())
        return genuine and int(until) > self._now()


def _bare(host: str) -> str:
    """Give the name or address of a Host header, RFC 9110 7.2, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host


def _cookies(header: str) -> list[str]:
    """Give the values of our cookie, RFC 6265 4.2.1; a browser may send several."""
    pairs = (part.strip().partition("=") for part in header.split(";"))
    return [value for name, _, value in pairs if name == COOKIE]
