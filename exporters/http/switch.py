"""The switch over HTTP: POST only, JSON only, from our own page only, with both secrets.

A change passes, in this order: it is a POST of application/json (which no form of another site can send) with
the Origin of this very server; it carries the cookie and the page's secret; there are not too many of them. A
wrong secret is counted, and after a few a minute nothing is said but "too many". The right one always passes:
nobody can lock the owner out by guessing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from exporters.http.requests import Survey, describe, read_request
from exporters.http.rights import CHANGES_MAX, RIGHT_S, WRONG_MAX, Limit
from tracer.errors import TattleError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporters.http.requests import Done, Request
    from exporters.http.rights import Right, Rights

PATH: Final = "/switch/"
COOKIE: Final = "tattle-switch"
SECRET: Final = "HTTP_X_TATTLE_SWITCH"  # noqa: S105 - the header's name
_BODY_MAX: Final = 16 << 10
_DIGITS: Final = 10
_JSON: Final = "application/json"


class Answer(NamedTuple):
    """What to answer: status line, a JSON value, further headers."""

    status: str
    body: Any
    headers: tuple[tuple[str, str], ...] = ()


class Hand(NamedTuple):
    """What the switch uses: who does it, who is told, whose connection it is."""

    perform: Callable[[Request], Done]
    tell: Callable[[str, str, Done], None]
    """Owner, what, how it went: for the audit trail."""
    user: Callable[[str, int], int | None]
    """The user id of a client on loopback by its address and port; None where that is not known."""


class _RefusedError(Exception):
    """A request that is refused."""

    def __init__(self, status: str, why: str) -> None:
        self.answer = Answer(status, {"error": why, "hint": ""})


class Switch:
    """Answers what is posted below PATH."""

    def __init__(self, rights: Rights, hand: Hand, *, secure: bool) -> None:
        """`secure`: by TLS."""
        self._rights = rights
        self._hand = hand
        self._scheme = "https" if secure else "http"
        self._wrong = Limit(WRONG_MAX)
        self._changes = Limit(CHANGES_MAX)

    def answer(self, environ: dict[str, Any]) -> Answer:
        """Answer a request whose path begins with PATH."""
        try:
            return self._do(environ["PATH_INFO"].removeprefix(PATH), environ, _ours(environ, self._scheme))
        except _RefusedError as refused:
            return refused.answer

    def _do(self, what: str, environ: dict[str, Any], body: bytes) -> Answer:
        if what == "right":
            return self._exchange(environ, body)
        if what == "leave":
            return self._leave(environ)
        if what == "change":
            return self._change(environ, body)
        return Answer("404 Not Found", {"error": "there is no such switch", "hint": ""})

    def _exchange(self, environ: dict[str, Any], body: bytes) -> Answer:
        try:
            code = msgspec.json.decode(body, type=dict[str, str])["code"]
        except (msgspec.MsgspecError, UnicodeDecodeError, KeyError):
            code = ""
        pair = self._rights.exchange(code, self._user(environ))
        if pair is None:
            raise self._refused("this link has been used, or its time is over: sudo tattle open")
        secure = "; Secure" if self._scheme == "https" else ""
        cookie = f"{COOKIE}={pair.cookie}; Path={PATH}; Max-Age={RIGHT_S}; HttpOnly; SameSite=Strict{secure}"
        return Answer("200 OK", {"secret": pair.page}, (("Set-Cookie", cookie),))

    def _leave(self, environ: dict[str, Any]) -> Answer:
        self._right(environ)
        self._rights.end(_cookie(environ))
        gone = f"{COOKIE}=; Path={PATH}; Max-Age=0; HttpOnly; SameSite=Strict"
        return Answer("200 OK", {}, (("Set-Cookie", gone),))

    def _change(self, environ: dict[str, Any], body: bytes) -> Answer:
        right = self._right(environ)
        try:
            asked = read_request(body)
            changes = not isinstance(asked, Survey)
            if changes and not self._changes.take():
                raise _RefusedError("429 Too Many Requests", f"{CHANGES_MAX} changes a minute are the most")
            done = self._hand.perform(asked)
        except UsageError as error:
            return Answer("400 Bad Request", {"error": error.message, "hint": error.hint})
        except TattleError as error:
            return Answer("503 Service Unavailable", {"error": error.message, "hint": error.hint})
        if changes:
            self._hand.tell(f"{right.owner}, from {environ['REMOTE_ADDR']}", describe(asked), done)
        return Answer("200 OK" if done.error is None else "409 Conflict", msgspec.to_builtins(done))

    def _right(self, environ: dict[str, Any]) -> Right:
        found = self._rights.find(_cookie(environ), environ.get(SECRET, ""), self._user(environ))
        if found is None:
            raise self._refused("this browser has no right to switch: sudo tattle open")
        return found

    def _refused(self, why: str) -> _RefusedError:
        if not self._wrong.take():
            return _RefusedError(
                "429 Too Many Requests", "too many wrong tries; the right one is still taken"
            )
        return _RefusedError("401 Unauthorized", why)

    def _user(self, environ: dict[str, Any]) -> int | None:
        return self._hand.user(environ["REMOTE_ADDR"], int(environ.get("REMOTE_PORT") or 0))


def _ours(environ: dict[str, Any], scheme: str) -> bytes:
    """Return the body of a request that our own page has sent."""
    if environ["REQUEST_METHOD"] != "POST":
        raise _RefusedError("405 Method Not Allowed", "only POST changes anything")
    origin = environ.get("HTTP_ORIGIN")
    if origin is None or origin != f"{scheme}://{environ.get('HTTP_HOST')}":
        raise _RefusedError("403 Forbidden", "that is not from this page")
    if environ.get("HTTP_SEC_FETCH_SITE", "same-origin") != "same-origin":
        raise _RefusedError("403 Forbidden", "that is not from this page")
    if environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower() != _JSON:
        raise _RefusedError("415 Unsupported Media Type", f"{_JSON} alone is read")
    length = environ.get("CONTENT_LENGTH") or "0"
    if not (length.isascii() and length.isdecimal() and len(length) < _DIGITS) or int(length) > _BODY_MAX:
        raise _RefusedError("413 Content Too Large", f"{_BODY_MAX} bytes are the most")
    return bytes(environ["wsgi.input"].read(int(length)))


def _cookie(environ: dict[str, Any]) -> str:
    """Return the value of the switch's cookie, RFC 6265 4.2.1; empty where there is not one."""
    pairs = (part.strip().partition("=") for part in environ.get("HTTP_COOKIE", "").split(";"))
    found = [value for name, _, value in pairs if name == COOKIE]
    return found[0] if len(found) == 1 else ""
