"""Who may switch over HTTP, and who may not: each way in is tried."""

from __future__ import annotations

import http.client
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from exporters.http import listener
from exporters.http.auth import Access, Keys, check
from exporters.http.requests import Done, Lock, Rule, Survey, Unlock, describe, read_request
from exporters.http.rights import CHANGES_MAX, LINK_S, RIGHT_S, RIGHTS_MAX, WRONG_MAX, Limit, Rights
from exporters.http.server import Asset, MetricsServer
from exporters.http.switch import Hand, Switch
from tracer.errors import HostError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from exporters.http.requests import Request

ALICE, RUNTIME = 1000, 998
LOCK = {"do": "lock", "target": "ollama"}


class Nothing:
    """A collector of no metric."""

    def collect(self) -> list[Metric]:
        """Return none."""
        return []


class Answer(NamedTuple):
    """What came back."""

    status: int
    cookie: str | None
    body: Any


class Door:
    """A server whose switch notes what it is asked to do, and clients of it."""

    def __init__(self) -> None:
        self.clock, self.user = 1000.0, ALICE
        self.done: list[Request] = []
        self.told: list[tuple[str, str, Done]] = []
        self.fails: HostError | None = None
        self.rights = Rights(lambda: self.clock)
        self.server = MetricsServer(listener.listen("127.0.0.1", 0), Keys())
        hand = Hand(self._perform, lambda *what: self.told.append(what), lambda *_: self.user)
        page = {"/": Asset("text/html", lambda: b"<p>")}
        self.server.start(Nothing(), list, page, Switch(self.rights, hand, secure=False))
        self.origin = f"http://127.0.0.1:{self.server.port}"

    def _perform(self, asked: Request) -> Done:
        self.done.append(asked)
        if self.fails:
            raise self.fails
        return Done(text="ollama is blocked")

    def ask(self, path: str, body: object = None, method: str = "POST", **headers: str | None) -> Answer:
        """Ask as the page's script does; a header of None is left out, an underscore is a hyphen."""
        given = {"Origin": self.origin, "Content_Type": "application/json", **headers}
        sent = {name.replace("_", "-"): text for name, text in given.items() if text is not None}
        link = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        link.request(method, path, body if isinstance(body, bytes) else json.dumps(body), sent)
        answer = link.getresponse()
        raw, cookie = answer.read(), answer.getheader("Set-Cookie")
        link.close()
        is_json = answer.getheader("Content-Type") == "application/json"
        return Answer(answer.status, cookie, json.loads(raw) if is_json and raw else raw)

    def enter(self) -> dict[str, str]:
        """Open a link, and return the headers that carry the right."""
        answer = self.ask("/switch/right", {"code": self.rights.link("alice", ALICE)})
        assert answer.status == 200
        assert answer.cookie is not None
        return {"Cookie": answer.cookie.split(";")[0], "X_Tattle_Switch": answer.body["secret"]}


@contextmanager
def opened() -> Iterator[Door]:
    """Serve."""
    door = Door()
    try:
        yield door
    finally:
        door.server.close()


def test_a_link_gives_one_browser_the_right() -> None:
    """The link's code is exchanged for a cookie that no script reads and a secret; both together switch."""
    with opened() as door:
        answer = door.ask("/switch/right", {"code": door.rights.link("alice", ALICE)})
        assert answer.cookie is not None
        assert {"HttpOnly", "SameSite=Strict", "Path=/switch/"} <= set(answer.cookie.split("; "))
        assert answer.body["secret"] not in answer.cookie
        right = {"Cookie": answer.cookie.split(";")[0], "X_Tattle_Switch": answer.body["secret"]}
        done = door.ask("/switch/change", LOCK, **right)
        assert (done.status, done.body["text"]) == (200, "ollama is blocked")
        assert door.done == [Lock("ollama")]


def test_a_link_works_once() -> None:
    """Who comes second, with the very code that worked, gets nothing."""
    with opened() as door:
        code = door.rights.link("alice", ALICE)
        first, second = (door.ask("/switch/right", {"code": code}) for _ in range(2))
        assert (first.status, second.status, second.cookie) == (200, 401, None)


def test_a_new_link_voids_the_old_one() -> None:
    """A link that was never opened does not lie about."""
    with opened() as door:
        old, new = door.rights.link("alice", ALICE), door.rights.link("alice", ALICE)
        assert door.ask("/switch/right", {"code": old}).status == 401
        assert door.ask("/switch/right", {"code": new}).status == 200


def test_links_and_rights_end() -> None:
    """A link after ten minutes, a right after twelve hours, or when its browser gives it back."""
    with opened() as door:
        code = door.rights.link("alice", ALICE)
        door.clock += LINK_S
        assert door.ask("/switch/right", {"code": code}).status == 401
        right = door.enter()
        door.clock += RIGHT_S - 1
        assert door.ask("/switch/change", LOCK, **right).status == 200
        door.clock += 1
        assert door.ask("/switch/change", LOCK, **right).status == 401
        right = door.enter()
        assert door.ask("/switch/leave", {}, **right).status == 200
        assert door.ask("/switch/change", LOCK, **right).status == 401
        assert len(door.done) == 1


def test_another_users_program_gets_nothing_by_the_link() -> None:
    """A program that reads the link from a command line in /proc is another user's: the link is not its."""
    with opened() as door:
        code = door.rights.link("alice", ALICE)
        door.user = RUNTIME
        assert door.ask("/switch/right", {"code": code}).status == 401
        door.user = ALICE
        assert door.ask("/switch/right", {"code": code}).status == 200


def test_another_users_program_gets_nothing_by_the_secrets() -> None:
    """Nor do the two secrets help it, however it came by them."""
    with opened() as door:
        right = door.enter()
        door.user = RUNTIME
        assert door.ask("/switch/change", LOCK, **right).status == 401
        assert door.done == []


@pytest.mark.parametrize("lacking", ["Cookie", "X_Tattle_Switch"])
def test_one_secret_is_not_enough(lacking: str) -> None:
    """A cookie of 127.0.0.1 goes to every port of it: alone it is worth nothing; nor is the page's secret."""
    with opened() as door:
        right = {**door.enter(), lacking: ""}
        assert door.ask("/switch/change", LOCK, **right).status == 401
        assert door.done == []


def test_two_rights_do_not_mix() -> None:
    """The secret of one browser does not go with the cookie of another; nor do two cookies count."""
    with opened() as door:
        one, other = door.enter(), door.enter()
        mixed = {"Cookie": one["Cookie"], "X_Tattle_Switch": other["X_Tattle_Switch"]}
        assert door.ask("/switch/change", LOCK, **mixed).status == 401
        both = {**one, "Cookie": f"{one['Cookie']}; {other['Cookie']}"}
        assert door.ask("/switch/change", LOCK, **both).status == 401
        assert door.done == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": None},
        {"Origin": "null"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:11434"},
        {"Origin": "https://127.0.0.1"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Content_Type": "text/plain"},
        {"Content_Type": "application/x-www-form-urlencoded"},
        {"Content_Type": "multipart/form-data; boundary=application/json"},
    ],
)
def test_another_sites_page_changes_nothing(headers: dict[str, str | None]) -> None:
    """CSRF: with all secrets, a request that our own page did not send is refused, a form's kind as well."""
    with opened() as door:
        assert door.ask("/switch/change", LOCK, **{**door.enter(), **headers}).status in {403, 415}
        assert door.done == []


def test_a_rebound_name_changes_nothing() -> None:
    """DNS rebinding: the attacker's page has its own name as Host and Origin, both alike."""
    with opened() as door:
        name = f"evil.example:{door.server.port}"
        answer = door.ask(
            "/switch/change", LOCK, **{**door.enter(), "Host": name, "Origin": f"http://{name}"}
        )
        assert answer.status == 421
        assert door.done == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_only_post_changes(method: str) -> None:
    """No link and no image can change anything."""
    with opened() as door:
        right = door.enter()
        for path in ("/switch/change", "/switch/right", "/switch/leave"):
            assert door.ask(path, LOCK, method, **right).status == 405
        assert door.ask("/switch/nothing", {}, **right).status == 404
        assert door.done == []


def test_guessing_is_limited_and_locks_nobody_out() -> None:
    """After a few wrong tries a minute wrong ones are turned away; the right one is always taken."""
    with opened() as door:
        code = door.rights.link("alice", ALICE)
        found = [door.ask("/switch/right", {"code": f"guess {number}"}).status for number in range(30)]
        assert found == [401] * WRONG_MAX + [429] * (30 - WRONG_MAX)
        assert door.ask("/switch/change", LOCK, Cookie="tattle-switch=x").status == 429
        assert door.ask("/switch/right", {"code": code}).status == 200


def test_changes_are_limited() -> None:
    """A page that runs wild is stopped; looking is no change."""
    with opened() as door:
        right = door.enter()
        found = [door.ask("/switch/change", LOCK, **right).status for _ in range(CHANGES_MAX + 1)]
        assert found == [200] * CHANGES_MAX + [429]
        assert door.ask("/switch/change", {"do": "survey"}, **right).status == 200


def test_places_come_back_after_a_minute() -> None:
    """A limit is by the minute."""
    clock = [0.0]
    limit = Limit(2, lambda: clock[0])
    assert [limit.take() for _ in range(3)] == [True, True, False]
    clock[0] = 60.0
    assert limit.take()


def test_so_many_browsers_and_no_more() -> None:
    """The oldest right makes room."""
    with opened() as door:
        rights = [door.enter() for _ in range(RIGHTS_MAX + 1)]
        found = [door.ask("/switch/change", LOCK, **right).status for right in rights]
        assert found == [401] + [200] * RIGHTS_MAX


def test_changes_leave_a_trail() -> None:
    """Who, from where, what, and how it went; looking is not told, and what failed is."""
    with opened() as door:
        right = door.enter()
        door.ask("/switch/change", LOCK, **right)
        door.ask("/switch/change", {"do": "survey"}, **right)
        assert door.told == [("alice, from 127.0.0.1", "block ollama", Done(text="ollama is blocked"))]


def test_what_fails_is_answered() -> None:
    """The helper is gone: the page says so, with the hint."""
    with opened() as door:
        right = door.enter()
        door.fails = HostError("the daemon's helper does not answer", "restart tattle")
        answer = door.ask("/switch/change", LOCK, **right)
        assert (answer.status, answer.body["hint"]) == (503, "restart tattle")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'"lock"',
        b"\xff\xfe",
        b"[" * 10_000,
        b'{"do":"shell","target":"x"}',
        b'{"do":"lock"}',
        b'{"do":"lock","target":""}',
        b'{"do":"lock","target":["ollama"]}',
        b'{"do":"lock","target":"ollama","mode":"observe"}',
        b'{"do":"lock","target":"ollama","allow":["@internet"]}',
        b'{"do":"unlock","target":"ollama","seconds":0}',
        b'{"do":"unlock","target":"ollama","seconds":3601}',
        b'{"do":"unlock","target":"ollama","seconds":1e400}',
    ],
)
def test_only_typed_requests_are_done(body: bytes) -> None:
    """Everything else is refused, and named."""
    with opened() as door:
        answer = door.ask("/switch/change", body, **door.enter())
        assert answer.status == 400
        assert "not understood" in answer.body["error"]
        assert door.done == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"code":1}', b'{"code":""}', b"\xff"])
def test_odd_codes_open_nothing(body: bytes) -> None:
    """Whatever is posted, it is no code, also while no link is open."""
    with opened() as door:
        assert door.ask("/switch/right", body).status == 401


def test_large_requests_are_not_read() -> None:
    """A body has a bound, and a length that is a number."""
    with opened() as door:
        assert door.ask("/switch/change", {}, Content_Length="99999999999").status == 413
        assert door.ask("/switch/change", {}, Content_Length="١٢".encode().decode("latin-1")).status == 413


def test_requests_have_words() -> None:
    """The trail says them as the command line would."""
    asked: list[Request] = [
        Lock("ollama", "audit", ("pull", "cloud")),
        Unlock("ollama"),
        Unlock("ollama", 600),
        Rule("ollama", "x.example:443", allow=True),
        Rule("ollama", "x.example", allow=False),
        Survey(),
    ]
    assert [describe(one) for one in asked] == [
        "block ollama --keep pull --keep cloud --audit",
        "unblock ollama",
        "unblock ollama --for 600s",
        "block ollama --allow x.example:443",
        "block ollama --deny x.example",
        "look for runtimes",
    ]
    assert read_request(b'{"do":"rule","target":"a","rule":"b","allow":true}') == Rule("a", "b", allow=True)


@pytest.mark.parametrize(
    ("host", "control", "switches"),
    [
        ("127.0.0.1", None, True),
        ("127.0.0.1", False, False),
        ("0.0.0.0", None, False),
        ("192.0.2.1", True, True),
    ],
)
def test_beyond_loopback_it_is_off_unless_told(host: str, control: bool | None, switches: bool) -> None:  # noqa: FBT001 - a table
    """`[web] control` says it; where it says nothing, only this machine's own page switches."""
    assert Access(control=control).switches(host) is switches


def test_the_network_needs_tls_to_switch() -> None:
    """`insecure` lets the page be seen without TLS, but nothing is switched that way."""
    check("192.0.2.1", "192.0.2.1:1", Access(insecure=True))
    with pytest.raises(UsageError, match="without TLS"):
        check("192.0.2.1", "192.0.2.1:1", Access(insecure=True, control=True))
    check("127.0.0.1", "127.0.0.1:1", Access(control=True))


def test_without_a_switch_nothing_is_posted() -> None:
    """`control = false`: the paths are as closed as any other."""
    server = MetricsServer(listener.listen("127.0.0.1", 0), Keys())
    server.start(Nothing(), list)
    link = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        link.request("POST", "/switch/right", b'{"code":"x"}', {"Content-Type": "application/json"})
        assert link.getresponse().status == 405
    finally:
        link.close()
        server.close()
