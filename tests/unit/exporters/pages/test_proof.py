"""The report for people: one page, nothing from elsewhere, nothing of a stranger's that could act."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from typing import Any

import pytest

from exporters.pages.proof import page, timeline
from exporters.terminal.proof import print_proof
from tests.support.reports import flow, nothing, observed

Json = dict[str, Any]

EVIL = "\"><script>alert(1)</script><img src=x onerror=y>'&\x1b[31m\u202e"
MARK = {
    "name": None,
    "names": [],
    "event": "connect",
    "pid": 7,
    "comm": "curl",
    "remote_addr": "203.0.113.1",
    "remote_port": 443,
    "proto": "tcp",
    "scope": "internet",
    "phase": "unknown",
}
NAME = {"source": "sni", "own": True, "expired": False}


def stamp(second: int) -> str:
    """Give a moment of the window."""
    return f"2026-01-01T00:00:{second:02d}.000000Z"


def request(start: int, end: int | None, phase: str = "inference", path: str = "/api/chat") -> Json:
    """Give a request of the runtime's API."""
    return {
        "start": stamp(start),
        "end": None if end is None else stamp(end),
        "phase": phase,
        "path": path,
        "pid": 7,
        "comm": "ollama",
        "remote_addr": "127.0.0.1",
        "remote_port": 5,
        "bytes_out_at_most": 500,
        "payload_out_at_most": 300,
    }


def busy(text: str = "/api/chat") -> Json:
    """Give a report with something of each kind, strangers' texts being `text`."""
    marks = [MARK | {"ts": stamp(2)}, MARK | {"ts": stamp(5), "remote_addr": "203.0.113.2", "comm": text}]
    denied = nothing(
        denied=2,
        remote_addr="203.0.113.2",
        comm=text,
        exe=text,
        purpose=text,
        name=text,
        names=[NAME | {"name": text}],
    )
    return observed(
        flow(comm=text, phase="inference"),
        denied,
        flow(direction="in", scope="loopback"),
        command=["run", text],
        target=text,
        requests=[request(1, 3, path=text), request(2, 4), request(8, None, "pull")],
        unseen=[{"pid": 1, "comm": text, "what": text}],
        limits=[text],
        kernel=text,
        timeline={
            "samples": [[stamp(0), 0, 0], [stamp(3), 500, 10], [stamp(9), 500, 10]],
            "marks": marks,
            "more_marks": 0,
            "more_requests": 0,
        },
    )


class Outside(HTMLParser):
    """Collects what a page would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in {"meta", "line", "rect"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close what was opened last."""
        if tag not in {"line", "rect"}:
            assert self.open.pop() == tag


@pytest.mark.parametrize("text", ["/api/chat", EVIL], ids=["plain", "hostile"])
def test_the_page_is_self_contained(text: str) -> None:
    """No script, no link, no image, no handler; a policy forbids them on top; every tag is closed."""
    html = page(busy(text))
    seen = Outside()
    seen.feed(html)
    assert seen.open == []
    assert not seen.tags & {"script", "img", "link", "iframe", "object", "a", "form", "foreignobject"}
    assert not {name for name in seen.attributes if name.startswith("on")} | (
        seen.attributes & {"src", "href"}
    )
    assert "default-src 'none'" in html
    assert "url(" not in html
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html
    assert not {"\x1b", "\u202e"} & set(html)


def test_the_timeline_is_true_to_the_report() -> None:
    """Requests side by side where they overlap, bytes in their place, denials in the colour of a stop."""
    drawing = ET.fromstring(timeline(busy()))  # noqa: S314 - made by us, above
    bars = [one for one in drawing.iter("rect") if (one.get("class") or "").startswith("bar")]
    assert [one.get("class") for one in bars] == ["bar inference", "bar inference", "bar pull"]
    assert bars[0].get("y") != bars[1].get("y")
    assert bars[0].get("y") == bars[2].get("y")
    (column,) = [one for one in drawing.iter("rect") if one.get("class") == "column"]
    assert float(bars[1].get("x") or 0) < float(column.get("x") or 0) < float(bars[2].get("x") or 0)
    kinds = [one.get("class") for one in drawing.iter("line") if one.get("class") != "axis"]
    assert kinds == ["attempt", "deny"]
    assert "left: 500 B" in "".join(drawing.itertext())


def test_a_quiet_window_has_a_page() -> None:
    """Also one of no length."""
    report = observed(window={"start": stamp(1), "end": stamp(1)})
    assert "no-egress" in page(report)


@pytest.mark.parametrize("to_stderr", [False, True])
def test_the_terminal_has_one_page(to_stderr: bool, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: FBT001
    """Verdict first; the command's output is left alone where there is one."""
    print_proof(busy() | {"target": None}, to_stderr=to_stderr)
    out, err = capsys.readouterr()
    said, other = (err, out) if to_stderr else (out, err)
    assert other == ""
    assert said.startswith("incomplete: ")
    assert len(said.splitlines()) < 50
    assert re.search(r"inference +2 +500 B", said)


def test_words_of_a_verdict_are_not_used_for_another(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing on the page of incomplete evidence says no-egress."""
    report = observed(losses={"ring_full": 1})
    print_proof(report, to_stderr=False)
    assert "no-egress" not in capsys.readouterr().out
    assert "no-egress" not in re.sub(r"<style>.*?</style>", "", page(report), flags=re.DOTALL)
