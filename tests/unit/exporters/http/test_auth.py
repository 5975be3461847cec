"""Who may ask over HTTP, and what a browser may do with the answers."""

from __future__ import annotations

import base64
import http.client
import ssl
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import pytest

from exporters.http import listener
from exporters.http.auth import Access, Guard, Keys, check, is_loopback
from exporters.http.server import Asset, MetricsServer
from tracer.errors import HostError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from prometheus_client.core import Metric

TOKEN = "correct-horse-battery"  # noqa: S105 - of this test alone
OURS = {"/": Asset("text/html", lambda: b"<p>"), "/login": Asset("text/html", lambda: b"<form>", public=True)}


class Nothing:
    """A collector of no metric."""

    def collect(self) -> list[Metric]:
        """Give none."""
        return []


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes


class Asked:
    """A running server, asked as a client of HTTP/1.1 asks."""

    def __init__(self, server: MetricsServer, tls: ssl.SSLContext | None) -> None:
        self.port, self.tls = server.port, tls

    def __call__(self, path: str, method: str = "GET", body: str | None = None, **headers: str) -> Answer:
        """Ask; `Host` is that of the address unless it is given."""
        if self.tls:
            link: http.client.HTTPConnection = http.client.HTTPSConnection(
                "127.0.0.1", self.port, timeout=10, context=self.tls
            )
        else:
            link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        link.request(method, path, body, headers)
        answer = link.getresponse()
        found = Answer(answer.status, dict(answer.getheaders()), answer.read())
        link.close()
        return found


@contextmanager
def serving(keys: Keys | None = None, tls: ssl.SSLContext | None = None, *wrong: str) -> Iterator[Asked]:
    """Serve a page, a form and no metrics."""
    server = MetricsServer(listener.listen("127.0.0.1", 0), keys or Keys())
    server.start(Nothing(), lambda: list(wrong), OURS)
    try:
        yield Asked(server, tls)
    finally:
        server.close()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:1", 200),
        ("127.0.0.1", 200),
        ("127.8.8.8:9753", 200),
        ("[::1]:9753", 200),
        ("evil.example:9753", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("192.0.2.1:9753", 421),
        ("", 421),
    ],
)
def test_a_strangers_name_is_turned_away_on_loopback(host: str, status: int) -> None:
    """A page that has its own name resolve to 127.0.0.1 reads nothing here: neither page nor metrics."""
    with serving() as ask:
        assert {ask(path, Host=host).status for path in ("/", "/metrics", "/healthz")} == {status}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_nothing_but_reading(method: str) -> None:
    """There is nothing to change: other methods are refused, on the login page too where none is needed."""
    with serving() as ask:
        assert {ask(path, method).status for path in ("/", "/metrics", "/login")} == {405}


def test_head_has_no_body() -> None:
    """HEAD answers as GET does, without the body."""
    with serving() as ask:
        assert ask("/", "HEAD")[::2] == (200, b"")
        assert ask("/metrics", "HEAD").status == 200


def test_every_answer_holds_the_browser() -> None:
    """Also errors: own files only, no inline code, no frame, no sniffing, no cache, nobody else reads it."""
    with serving() as ask:
        for answer in (ask("/"), ask("/metrics"), ask("/nothing"), ask("/", "POST"), ask("/", Host="x.y")):
            policy = answer.headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'")
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.headers["Server"] == "tattle"
            assert "Access-Control-Allow-Origin" not in answer.headers


def test_with_a_token_only_the_form_is_open() -> None:
    """People are sent to the form, programs get 401; health says well or ill and not what is wrong."""
    with serving(Keys(TOKEN.encode()), None, "hook egress is not attached") as ask:
        assert (ask("/").status, ask("/").headers["Location"]) == (303, "login")
        assert ask("/metrics").status == 401
        assert ask("/metrics").headers["WWW-Authenticate"].startswith("Bearer")
        assert ask("/nothing").status == 401
        assert ask("/login").body == b"<form>"
        assert ask("/healthz")[::2] == (503, b"ill\n")
        assert b"egress" in ask("/healthz", Authorization=f"Bearer {TOKEN}").body


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer  {TOKEN}", 200),
        ("Bearer ", 401),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        (f"Basic {base64.b64encode(TOKEN.encode()).decode()}", 401),
        (TOKEN, 401),
        ("Bearer \xff\xfe", 401),
    ],
)
def test_prometheus_brings_the_token(header: str, status: int) -> None:
    """Authorization: Bearer, RFC 6750 2.1; nothing else will do."""
    with serving(Keys(TOKEN.encode())) as ask:
        assert ask("/metrics", Authorization=header).status == status


def test_people_log_in_once() -> None:
    """The form gives a cookie that no script reads and no other site sends; it opens page and metrics."""
    with serving(Keys(TOKEN.encode())) as ask:
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        wrong = ask("/login", "POST", "token=guess", **form)
        assert (wrong.status, wrong.headers["Location"]) == (303, "login-again")
        assert "Set-Cookie" not in wrong.headers
        right = ask("/login", "POST", f"token={TOKEN}", **form)
        assert (right.status, right.headers["Location"]) == (303, "./")
        cookie = right.headers["Set-Cookie"]
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
        assert TOKEN not in cookie
        session = cookie.split(";")[0]
        assert ask("/", Cookie=f"other=1; {session}").status == 200
        assert ask("/metrics", Cookie=session).status == 200
        assert ask("/metrics", Cookie=session[:-1]).status == 401
        assert ask("/metrics", Cookie=session.replace("tattle=", "tattle=9")).status == 401


@pytest.mark.parametrize("body", ["", "token=", "token", "a=1&b=2&c=3&d=4&e=5", "token=%00%ff", "x" * 99_999])
def test_odd_forms_open_nothing(body: str) -> None:
    """Whatever is posted, an answer comes, and it is no."""
    with serving(Keys(TOKEN.encode())) as ask:
        assert ask("/login", "POST", body).headers["Location"] == "login-again"


def environ(cookie: str) -> dict[str, str]:
    """Give a request with a cookie."""
    return {"HTTP_COOKIE": f"tattle={cookie}"}


def test_sessions_end() -> None:
    """A cookie is good for twelve hours, and for the token it was given for."""
    clock = [1000.0]
    guard = Guard(TOKEN.encode(), local=False, secure=True, now=lambda: clock[0])
    value = guard._signed(1000 + 12 * 3600)
    other = Guard(b"another-token-altogether", local=False, secure=True, now=lambda: clock[0])
    assert guard.known(environ(value))
    assert not other.known(environ(value))
    clock[0] += 12 * 3600
    assert not guard.known(environ(value))
    for forged in ("", ".", "9" * 40, "-1.x", "٣.x", f"99999999999.{value.partition('.')[2]}"):
        assert not guard.known(environ(forged))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1, and its key."""
    scratch = tmp_path_factory.mktemp("tls")
    certificate, key = scratch / "cert.pem", scratch / "key.pem"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    words += ["-subj", "/CN=tattle", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    subprocess.run([*words, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


def test_tls(pair: tuple[Path, Path]) -> None:
    """A client that checks the certificate is served; the cookie is for TLS alone; plain HTTP is not."""
    certificate, key = map(str, pair)
    tls = ssl.create_default_context(cafile=certificate)
    keys = Access(certificate=certificate, key=key).keys()
    with serving(keys._replace(token=TOKEN.encode()), tls) as ask:
        assert ask("/metrics", Authorization=f"Bearer {TOKEN}").status == 200
        assert "; Secure" in ask("/login", "POST", f"token={TOKEN}").headers["Set-Cookie"]
        with pytest.raises((http.client.HTTPException, OSError)):
            Asked.__call__(_plain(ask), "/metrics")
        assert ask("/login").status == 200, "one who spoke no TLS has ended nothing"


def _plain(ask: Asked) -> Asked:
    """Give the same server for a client without TLS."""
    other = Asked.__new__(Asked)
    other.port, other.tls = ask.port, None
    return other


def test_bad_keys_are_told_before_anything_starts(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Files that are missing, mixed up or too short name themselves, and say how to mend it."""
    certificate, key = map(str, pair)
    with pytest.raises(HostError, match="no TLS by"):
        Access(certificate=key, key=certificate).keys()
    with pytest.raises(HostError, match="No such file"):
        Access(certificate="/nowhere", key=key).keys()
    short = tmp_path / "token"
    with pytest.raises(HostError, match="cannot be read"):
        Access(token_file=str(short)).keys()
    for content in (b"short", b"", b"two words of sixteen", b"x" * 5000, b"\xff" * 20):
        short.write_bytes(content)
        with pytest.raises(UsageError, match="no word of 16"):
            Access(token_file=str(short)).keys()
    short.write_text(f"{TOKEN}\n")
    assert Access(token_file=str(short)).keys().token == TOKEN.encode()


ALL = {"token_file": "t", "certificate": "c", "key": "k"}


@pytest.mark.parametrize(
    ("host", "given", "said"),
    [
        ("127.0.0.1", {}, None),
        ("::1", {}, None),
        ("localhost", {}, None),
        ("0.0.0.0", {}, "no token and no TLS"),
        ("192.0.2.1", {"token_file": "t"}, "no TLS"),
        ("::", {"certificate": "c", "key": "k"}, "no token"),
        ("host.example", {}, "no token and no TLS"),
        ("0.0.0.0", ALL, None),
        ("0.0.0.0", {"insecure": True}, None),
        ("127.0.0.1", {"certificate": "c"}, "a certificate without its key"),
        ("0.0.0.0", {"key": "k", "insecure": True}, "a key without its certificate"),
    ],
)
def test_the_network_is_let_in_on_purpose_only(host: str, given: dict[str, str], said: str | None) -> None:
    """Beyond loopback it takes a token and TLS, or the word --insecure."""
    if said is None:
        check(host, f"{host}:1", Access(**given))
        return
    with pytest.raises(UsageError, match=said) as error:
        check(host, f"{host}:1", Access(**given))
    assert "--" in error.value.hint


def test_loopback_is_told_by_address() -> None:
    """A name is no address, but for localhost."""
    assert [host for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost") if not is_loopback(host)] == []
    assert [
        host for host in ("0.0.0.0", "::", "localhost.example", "", "127.0.0.1.x") if is_loopback(host)
    ] == []
