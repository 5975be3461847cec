"""What people read: no escapes where no terminal is, no effect of hostile names where one is."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from exporters.terminal import flows as flows_view
from exporters.terminal import views
from tests.support.fakes import ENUMS, event, flow, packed
from tracer.cli.live import merged
from tracer.model.process import NOBODY, ProcessInfo, comm_text
from tracer.model.records import Decoder, lost_json

DECODER = Decoder(ENUMS)
EVIL = b"\x1b[2J[red]x\r\n"
WHO = ProcessInfo(1, 0, comm_text(EVIL), "sh", None, 0, "/a", None, None, None)
HEAD = {
    "since": "2026-01-01T00:00:00.000000Z",
    "losses": {"ring_full": 0},
    "totals": {"internet": {"attempts": 1, "denied": 0, "bytes_out": 10, "bytes_in": 20}},
    "count": 1,
}


def named(name: str, address: str, phase: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """Give a flow to a destination that goes by a name."""
    counts = {key: more.pop(key) for key in ("bytes_out",) if key in more}
    names = [{"name": name, "source": "sni", "own": True, "expired": False}]
    return (
        DECODER.flow(flow(address, **counts), WHO, 0)
        | {"name": name, "names": names, "phase": phase, "unexpected": False}
        | more
    )


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    """Give what was printed; it has no escape and no control but newlines."""
    text = capsys.readouterr().out
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
    return text


def test_flows_are_plain_text_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Whole columns, nothing cut, and names as they were written, markup included."""
    rows = [
        DECODER.flow(flow(bytes_out=2048, attempts=1), WHO, 0),
        DECODER.flow(flow("2001:db8::1"), NOBODY, 0),
    ]
    flows_view.print_flows({"since": HEAD["since"], "flows": rows, "losses": {"ring_full": 3}})
    text = printed(capsys)
    assert "\\x1b[2J[red]x\\x0d\\x0a    1  " in text
    assert "203.0.113.7:443" in text
    assert "[2001:db8::1]:443" in text
    assert "2.0 KiB" in text
    assert "LOST: ring_full 3" in text


def test_flows_of_one_name_stand_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its addresses summed up, each phase apart; a narrow terminal leaves numbers, and whose a name is."""
    name = "a" * 60 + ".example"
    rows = [
        named(name, f"203.0.113.{at}", phase, bytes_out=1024)
        for at, phase in ((7, "pull"), (8, "pull"), (7, "idle"))
    ]
    answer = {"since": HEAD["since"], "flows": rows, "losses": {}}
    for width in (200, 120, 80, 60):
        out = Console(width=width, file=io.StringIO(), color_system=None)
        monkeypatch.setattr(flows_view, "console", lambda out=out: out)
        flows_view.print_flows(answer)
        text = out.file.getvalue()  # type: ignore[attr-defined]
        assert max(map(len, text.splitlines())) <= width
        assert [bool(re.search(rf"example:443 .*{size} KiB", text)) for size in ("2.0", "1.0")] == [True] * 2
        assert "3 flows in 2 lines since" in text
        assert ("pull" in text) is (width >= 90)


def test_what_was_refused_is_told_with_its_mend(capsys: pytest.CaptureFixture[str]) -> None:
    """By the command that allows it, or where it is allowed in a phase, by when."""
    refused = [
        {"name": "a.example", "command": "tattle block x --allow a.example", "when": None},
        {"name": "b.example", "command": None, "when": "only while a pull is in flight"},
    ]
    flows_view.print_flows({"since": HEAD["since"], "flows": [], "losses": {}, "refused": refused})
    assert printed(capsys).splitlines()[-2:] == [
        "refused a.example; to allow it: sudo tattle block x --allow a.example",
        "refused b.example; it is allowed only while a pull is in flight",
    ]


def test_a_purpose_stands_below_and_a_stranger_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    """Once for all lines of a name; with its address where that is asked for."""
    known = [named("a.example", f"203.0.113.{at}", "idle", purpose="news") for at in (7, 8)]
    rows = [*known, named("b.example", "203.0.113.9", "idle", unexpected=True)]
    flows_view.print_flows({"since": HEAD["since"], "flows": rows, "losses": {}}, addresses=True)
    text = printed(capsys)
    assert text.count("a.example: news") == 1
    assert re.search(r"a\.example:443 \(203\.0\.113\.8\)(?!.*UNEXPECTED)", text)
    assert re.search(r"b\.example:443 \(203\.0\.113\.9\).*UNEXPECTED", text)
    assert text.endswith("\n3 flows since 2026-01-01T00:00:00Z; nothing lost\n")


def test_an_address_of_two_names_bears_both(capsys: pytest.CaptureFixture[str]) -> None:
    """A flow is many connections: the client said the one name on some, the other on others."""
    row = named("a.example", "203.0.113.7", "idle")
    row["names"] = [row["names"][0] | {"name": name} for name in ("a.example", "b.example")]
    flows_view.print_flows({"since": HEAD["since"], "flows": [row], "losses": {}})
    assert "a.example|b.example:443" in printed(capsys)
    assert "-> a.example:443 tcp" in views.event_text(DECODER.event(event(), WHO, 0) | row)


def test_status_says_that_nothing_is_attached(capsys: pytest.CaptureFixture[str]) -> None:
    """And how to change that."""
    views.print_status({"engine": None}, "tattle")
    assert "nothing is attached" in printed(capsys)


def test_status_shows_what_is_wrong_and_the_knob(capsys: pytest.CaptureFixture[str]) -> None:
    """A detached hook, a full map, a loss with what to turn."""
    document = {
        "engine": "libbpf",
        "kernel": "6",
        "hooks": [{"hook": "egress", "program": "", "attached": False, "link_id": 0, "runs": 0, "run_ns": 0}],
        "maps": [{"map": "flows", "entries": 5, "max_entries": 5, "full": True}],
        "targets": [
            {
                "target": "ollama",
                "mode": "observe",
                "default": None,
                "rules": [],
                "keep": [],
                "state": "enforced",
                "until": None,
                "active": True,
                "cgroup_ids": [1],
                "phase": "inference",
                "requests": {"inference": 2, "idle": 1},
            }
        ],
        "losses": {"ring_full": 7, "flows_full": 0},
    }
    views.print_status(document, "tattle")
    text = printed(capsys)
    assert re.search(r"egress +- +NO", text)
    assert "FULL" in text
    assert "limits.ring_bytes" in text
    assert re.search(r"ollama .* inference, 3 requests", text)


def test_report_shows_checks_and_mends(capsys: pytest.CaptureFixture[str]) -> None:
    """A line a check, how to mend it below."""
    checks = [{"check": "bpffs", "result": "fail", "said": "none", "mend": "mount it"}]
    views.print_report({"checks": checks, "limits": ["AF_PACKET"]})
    text = printed(capsys)
    assert "FAIL bpffs: none\n      to mend it: mount it" in text
    assert "  - AF_PACKET" in text


def frame(width: int = 120, **changes: Any) -> str:  # noqa: ANN401 - fields of rows are of many kinds
    """Draw one frame of the live table on a terminal of that width."""
    out = Console(
        file=io.StringIO(), force_terminal=True, width=width, height=20, highlight=False, markup=False
    )
    rows = [views.LiveRow(DECODER.flow(flow(**changes), WHO, 0), 1024.0, 3.0)]
    out.print(views.live(HEAD, rows, "daemon", width))
    return str(out.file.getvalue())  # type: ignore[attr-defined]


def test_live_table_is_not_garbled_by_names() -> None:
    """The only escapes are the table's own colours."""
    text = frame()
    assert not re.search(r"[\x00-\x09\x0b-\x1a\x1c-\x1f\x7f]", text)
    assert set(re.findall(r"\x1b.{0,2}", re.sub(r"\x1b\[[0-9;]*m", "", text))) == set()
    assert "203.0.113.7:443" in text
    assert "1.0 KiB/s" in text


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_live_table_keeps_to_the_screen(width: int) -> None:
    """No line is longer than the terminal is wide, so that nothing wraps."""
    lines = re.sub(
        r"\x1b\[[0-9;]*m", "", frame(width, remote="2001:db8:1111:2222:3333:4444:5555:6666")
    ).splitlines()
    assert max(map(len, lines)) <= width


def test_live_table_cuts_the_destination_last() -> None:
    """On a usual terminal an address and its port are whole, whatever else has to go."""
    assert "203.0.113.7:443" in frame(60)
    assert "[2001:db8:1111:2222:3333:4444:5555:6666]:443" in frame(
        100, remote="2001:db8:1111:2222:3333:4444:5555:6666"
    )
    assert "internet" in frame(80)


@pytest.mark.parametrize("width", [80, 100, 120, 160, 200])
def test_live_table_cuts_a_name_for_the_numbers(width: int) -> None:
    """At its beginning: what was sent, what came and when stand there whole, and whose a name is."""
    one = named("a" * 60 + ".example", "203.0.113.7", "idle", bytes_out=2048, unexpected=True)
    why = named("b.example", "203.0.113.8", "idle", purpose="news " * 50)
    out = Console(file=io.StringIO(), width=width, color_system=None)
    out.print(views.live(HEAD, [views.LiveRow(why, 0.0, 3.0), views.LiveRow(one, 0.0, 3.0)], "daemon", width))
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    assert re.search(r"…\S*xample:443 unexpected .*2\.0 KiB +0 B .*3s", text)
    assert re.search(r"received .*seen", text)
    out.print(views.live(HEAD, [], "daemon", width))  # before anything was seen


def test_accepted_connections_are_summed_by_peer() -> None:
    """A server's clients are addresses; their ports would fill the screen."""
    rows = [DECODER.flow(flow(direction=1, remote_port=port, bytes_in=1), WHO, 0) for port in range(5)]
    rows += [DECODER.flow(flow(remote_port=port), WHO, 0) for port in range(2)]
    found = merged(rows)
    assert len(found) == 3
    assert (found[0]["bytes_in"], found[0]["remote_port"]) == (5, None)


def test_rates_follow_what_was_shown_before() -> None:
    """Bytes in both directions over the time between; a flow seen for the first time has none."""
    rates = views.Rates()
    first = [DECODER.flow(flow(bytes_out=0), WHO, 0)]
    second = [DECODER.flow(flow(bytes_out=4000, bytes_in=4000), WHO, 0)]
    assert rates.update(first, 1.0) == [0.0]
    assert rates.update(second, 2.0) == [4000.0]
    assert rates.update(second, 3.0) == [2000.0]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (150 * 1024, "150 KiB"),
        (5 << 30, "5.0 GiB"),
        (1 << 60, "1024 PiB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    """Binary units."""
    assert views.size(count) == text


def test_events_are_one_plain_line_each() -> None:
    """What, who, where, how far, and how it ended."""
    line = views.event_text(
        DECODER.event(event(kind=4, result=111, bytes_out=60, duration_ns=2_000_000), WHO, 0)
    )
    assert "\n" not in line
    assert "-> 203.0.113.7:443 tcp internet ECONNREFUSED out 60 B in 0 B, 2 ms" in line
    assert "<- [2001:db8::1]:443" in views.event_text(
        DECODER.event(event(kind=6, direction=1, remote=packed("2001:db8::1")), WHO, 0)
    )
    assert views.event_text(lost_json("ring_full", 4, 0)).endswith("lost        4 (ring_full)")


def test_what_a_policy_refused_is_told_with_its_mend(capsys: pytest.CaptureFixture[str]) -> None:
    """A name that no rule allows; and an address of one that is allowed, whose answer was too old."""
    bare = {
        "target": "x",
        "name": "cdn.example",
        "port": 443,
        "command": "tattle block x --allow cdn.example",
    }
    old = bare | {"name": "203.0.113.7:443/tcp", "answer": {"name": "a.example", "age_seconds": 75}}
    flows_view.print_flows({"since": HEAD["since"], "flows": [], "losses": {}, "refused": [bare, old]})
    first, second = capsys.readouterr().out.splitlines()[-2:]
    assert first == "refused cdn.example; to allow it: sudo tattle block x --allow cdn.example"
    assert "a.example is allowed" in second
    assert "75 s old" in second
    assert second.endswith("to allow it: sudo tattle block x --allow cdn.example")
