"""What `tattle report` says: sums that are the cells', honest heads, and cells that harm no reader."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from typing import TYPE_CHECKING, Any, Self

import pytest
from rich.console import Console

from exporters.terminal.history import print_csv, print_history, print_suggestion
from tests.support.past import HOUR, MIDNIGHT, OLLAMA, cell, past
from tracer.__main__ import main
from tracer.errors import UsageError
from tracer.history import query as past_module
from tracer.history.query import look_back
from tracer.history.reader import Gap
from tracer.history.report import document
from tracer.history.suggest import document as suggested
from tracer.model.totals import KEYS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tracer.history.reader import Seen

NIGHT = [
    cell(name="ollama.com", name_source="sni", phase="idle", bytes_out=4000, hour=1),
    cell(name="ollama.com", name_source="sni", phase="idle", bytes_out=8000, hour=4),
    cell("203.0.113.9", name="ollama.com", name_source="sni", phase="inference", bytes_out=500, hour=4),
    cell("203.0.113.66", bytes_out=100, hour=3),
    cell("198.51.100.53", proto="udp", remote_port=53, established=0, hour=1),
    cell("203.0.113.77", denied=2, attempts=2, established=0, bytes_out=0, packets_out=0, hour=5),
    cell("192.168.1.4", direction="in", remote_port=None, attempts=0, bytes_out=70),
    cell("127.0.0.1", bytes_out=12345),
]


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put this host where local time is easy to tell from UTC."""
    monkeypatch.setenv("TZ", "XST-5:30")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def page(capsys: pytest.CaptureFixture[str], cells: list[Seen], **changes: Any) -> str:  # noqa: ANN401 - of a past
    """Give the page of a history; it has no escape and no control but newlines."""
    print_history(document(past(cells, **changes)))
    text = capsys.readouterr().out
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)
    return text


def test_a_flow_has_the_written_keys() -> None:
    """All of them, always, in UTC; what was denied as `tattle flows` counts it."""
    found = document(past([cell(None, remote_port=None, denied_packets=3)]))
    (flow,) = found["flows"]
    assert tuple(flow) == KEYS
    assert (flow["hour"], flow["denied"], flow["remote_addr"]) == ("2026-11-29T00:00:00.000000Z", 3, None)
    json.dumps(found)


def test_sums_are_those_of_the_cells() -> None:
    """By scope, what was started here apart from replies."""
    found = document(past(NIGHT))
    sums = {"attempts": 7, "denied": 2, "bytes_out": 13600, "bytes_in": 12000, "payload_out": 4200}
    assert found["totals"]["internet"] == sums
    assert found["totals"]["loopback"]["bytes_out"] == 12345
    assert found["totals"]["lan"]["bytes_out"] == 0
    assert found["accepted"]["lan"]["bytes_out"] == 70
    assert sum(flow["bytes_out"] for flow in found["flows"]) == sum(one.bytes_out for one in NIGHT)


def test_purposes_are_those_of_the_profile() -> None:
    """By name and phase; what it does not name is unexpected; without a profile nobody can say."""
    by_hour = [(flow["purpose"], flow["unexpected"]) for flow in document(past(NIGHT))["flows"]]
    assert by_hour[0][0] is not None
    assert "cloud model list" in by_hour[0][0]
    assert by_hour[2][0] is not None
    assert "prompts for a cloud model" in by_hour[2][0]
    assert [one for _, one in by_hour] == [False, False, False, True, False, True, False, False]
    assert {flow["unexpected"] for flow in document(past(NIGHT, runtimes={}))["flows"]} == {None}


def test_a_report_of_everything_explains_each_target() -> None:
    """What is in no target is nobody's."""
    cells = [NIGHT[0], NIGHT[0]._replace(target=None), NIGHT[3]]
    found = document(past(cells, target=None))
    assert [flow["unexpected"] for flow in found["flows"]] == [False, None, True]


def test_a_cell_is_explained_by_its_own_target() -> None:
    """Else by the one that was asked for: it was not watched as that yet."""
    cells = [NIGHT[0], NIGHT[0]._replace(target=None)]
    for target, explained in (("ollama", [False, False]), ("cgroup:/system.slice", [False, None])):
        assert [one["unexpected"] for one in document(past(cells, target=target))["flows"]] == explained


@pytest.mark.parametrize(
    ("changes", "whole"),
    [
        ({}, True),
        ({"losses": {"ring_full": 5, "log_blocked": 1, "journal_full": 2, "history_unwritten": 1}}, True),
        ({"losses": {"openings_full": 3, "notices_full": 1}}, True),
        ({"losses": {"flows_full": 1}}, False),
        ({"losses": {"history_reset": 1}}, False),
        ({"gaps": [Gap(MIDNIGHT, MIDNIGHT + HOUR, "before")]}, False),
    ],
)
def test_complete_means_that_all_was_seen(changes: dict[str, Any], whole: bool) -> None:  # noqa: FBT001 - a parameter
    """A line that a log or a watcher has missed does not make the history less."""
    assert document(past([], **changes))["complete"] is whole


def test_the_page_answers_in_its_first_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Of whom and when, in local time with its zone; how much to how many, what was odd or denied."""
    lines = page(capsys, NIGHT).splitlines()
    assert lines[0] == "ollama, Sun 29 Nov 05:30 - Mon 30 Nov 05:30 XST, by whole hours"
    assert lines[1] == "  all of it was seen; the last look was Mon 30 Nov 05:30:00"
    assert lines[3] == "sent 13.3 KiB to 3 places on the internet; 1 not expected; 2 denials"
    assert lines[4] == "05:30 ·▅·▁█··················· 05:30"
    assert "the most, 8.3 KiB, Sun 29 Nov 09:30" in lines[5]


def test_hours_are_columns(capsys: pytest.CaptureFixture[str]) -> None:
    """The fullest is highest, one without traffic is a dot, one that was not all seen a question mark."""
    cells = [
        cell(bytes_out=1, hour=0),
        cell(bytes_out=800, hour=1),
        cell(bytes_out=400, hour=2),
        cell(bytes_out=9999, hour=3, direction="in"),
    ]
    long = Gap(MIDNIGHT + 4 * HOUR - 10, MIDNIGHT + 5 * HOUR + HOUR // 30, "stopped")
    short = Gap(MIDNIGHT + 6 * HOUR, MIDNIGHT + 6 * HOUR + HOUR // 100, "stopped")
    text = page(capsys, cells, gaps=[long, short], until_ns=MIDNIGHT + 7 * HOUR)
    assert "05:30 ▁█▅·??· 12:30\n" in text
    assert "an hour a column; the most, 800 B, Sun 29 Nov 06:30; ? not all was seen" in text


def test_a_month_fits_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Several hours are one column then; none is left out."""
    cells = [cell(bytes_out=100, hour=hour) for hour in range(720)]
    text = page(capsys, cells, until_ns=MIDNIGHT + 720 * HOUR)
    (bars,) = re.findall(r"05:30 (\S+) 05:30", text)
    assert (len(bars), set(bars)) == (48, {"█"})
    assert "15 hours a column; the most, 1.5 KiB" in text


def test_gaps_and_losses_stand_above_all(capsys: pytest.CaptureFixture[str]) -> None:
    """With what they mean, and the knob."""
    gaps = [Gap(MIDNIGHT, MIDNIGHT + HOUR, reason) for reason in ("stopped", "killed", "pruned", "before")]
    gaps.append(Gap(MIDNIGHT + 2 * HOUR, MIDNIGHT + 3 * HOUR, "killed", counted=True))
    text = page(capsys, NIGHT, gaps=gaps, losses={"flows_full": 7, "ring_full": 8})
    assert "ring_full" not in text
    assert "tattle was off Sun 29 Nov 05:30 - 06:30: nothing is known of that time" in text
    assert "killed, or could not write, Sun 29 Nov 05:30 - 06:30: nothing is known" in text
    assert "killed, or could not write, Sun 29 Nov 07:30 - 08:30: the kernel went on" in text
    assert "hours before Sun 29 Nov 06:30 are not kept any more" in text
    assert "history begins Sun 29 Nov 06:30" in text
    assert "lost: flows_full 7: limits.flows" in text
    assert "all of it was seen" not in text


@pytest.mark.parametrize(
    ("hours", "said"),
    [((20, 24), "off from Mon 30 Nov 01:30 on"), ((18, 20), "off Sun 29 Nov 23:30 - Mon 30 Nov 01:30")],
)
def test_a_gap_has_its_days(hours: tuple[int, int], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """And no end where the window has none either."""
    start, end = (MIDNIGHT + hour * HOUR for hour in hours)
    assert f"tattle was {said}: nothing is known" in page(capsys, NIGHT, gaps=[Gap(start, end, "stopped")])


def test_the_table_has_the_odd_first_then_the_most(capsys: pytest.CaptureFixture[str]) -> None:
    """Summed up over hours and addresses of one name; a column that would say nothing is left out."""
    text = page(capsys, NIGHT)
    rows = text.splitlines()[text.splitlines().index("") :]
    table = [line for line in rows if "->" in line or "<-" in line]
    assert [re.split(r"  +", line)[2] for line in table] == [
        "203.0.113.66:443",
        "203.0.113.77:443",
        "ollama.com:443",
        "198.51.100.53:53/udp",
        "ollama.com:443",
        "192.168.1.4 tcp",
    ]
    assert [line.endswith("UNEXPECTED") for line in table] == [True, True, False, False, False, False]
    assert re.search(r"idle +Sun 06:31 - 09:32 +2 +0 +11.7 KiB +3.9 KiB *$", table[2])
    assert "\nollama.com: cloud model list" in text
    assert "would deny" not in text
    assert "in target/unit" not in text
    assert "on this host itself: 12.1 KiB" in text


def test_a_name_is_cut_where_it_says_least(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a narrow terminal all numbers stand there, and whose a name is."""
    for width, shown in ((200, "a{40}.example:443"), (80, "…a+.example:443"), (60, "…a+.example:443")):
        out = Console(width=width, file=io.StringIO(), color_system=None)
        monkeypatch.setattr("exporters.terminal.history.console", lambda out=out: out)
        print_history(document(past([cell(name="a" * 40 + ".example", bytes_out=54321)])))
        text = out.file.getvalue()  # type: ignore[attr-defined]
        assert max(map(len, text.splitlines())) <= width
        assert re.search(rf"{shown} .*53.0 KiB", text)


def test_a_page_stays_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    """With the sum of what it leaves out."""
    cells = [cell(f"203.0.113.{at}", bytes_out=1000 - at) for at in range(45)]
    text = page(capsys, cells)
    assert text.count("->") == 40
    assert f"and 5 more with {(1000 * 5 - 40 - 41 - 42 - 43 - 44) / 1024:.1f} KiB out" in text


def test_nothing_is_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    """Not an empty table."""
    assert "nothing was sent or received" in page(capsys, [])
    assert "by whole hours" in page(capsys, [cell("127.0.0.1")], target=None)


def test_nothing_is_said_for_the_time_in_which_the_target_was_known(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before that, and where no daemon knows it, absence is no answer; what the same program did is named."""
    assert "known" not in page(capsys, [])
    noon = "2026-11-29T12:00:00.000000Z"
    late = page(capsys, [], known_since=noon, same=(cell(target=None),))
    assert "nothing was sent or received that is known of" in late
    assert "it is known since 2026-11-29T12:00:00Z" in late
    assert "the same program, while it was in no target: 1 try, 1000 B out, last 2026-11-29T00:02:00Z" in late
    assert "all of it was seen" not in late
    assert "it is no target of the daemon" in page(capsys, [], known_since=None)
    assert "known" not in page(capsys, [], target=None, known_since=None)


HOSTILE = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", 'a"b,c', "x\ny", "\x1b[2J", "\u202eevil")


@pytest.mark.parametrize("text", HOSTILE)
def test_csv_is_harmless(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """No cell is a formula to a spreadsheet or an escape to a terminal, and no row is cut in two."""
    print_csv(document(past([cell(comm=text, exe=text, name=text), cell()])))
    raw = capsys.readouterr().out
    rows = list(csv.reader(io.StringIO(raw, newline="")))
    assert rows[0] == list(KEYS)
    assert len(rows) == raw.count("\r\n") == 3
    assert {len(row) for row in rows} == {len(KEYS)}
    for value in rows[1]:
        assert value.isprintable()
        assert not value.startswith(("=", "+", "-", "@"))


def test_csv_has_every_cell(capsys: pytest.CaptureFixture[str]) -> None:
    """In UTC, numbers as numbers, and what is unknown empty."""
    print_csv(document(past(NIGHT)))
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out, newline="")))
    assert sum(int(row["bytes_out"]) for row in rows) == sum(one.bytes_out for one in NIGHT)
    assert (rows[0]["hour"], rows[0]["container"]) == ("2026-11-29T01:00:00.000000Z", "")


def test_hostile_names_do_no_harm_on_the_pages(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither of the two pages passes on what moves a cursor, and markup is text."""
    evil = cell(comm="[red]x", name="[b]x", name_source="sni")
    assert "[red]x" in page(capsys, [evil])
    print_suggestion(suggested(past([evil], target="cgroup:/\x1b[2J", runtimes={}), frozenset()))
    text = capsys.readouterr().out
    assert "\x1b" not in text


def test_a_suggestion_is_a_way_to_a_policy(capsys: pytest.CaptureFixture[str]) -> None:
    """The rules with their purposes, what is left out, and three commands: audit, look, enforce."""
    print_suggestion(suggested(past(NIGHT), frozenset()))
    text = capsys.readouterr().out
    assert (
        "  ollama.com:443  3 tries, 12.2 KiB out, 5.9 KiB in, last Sun 29 Nov 09:32\n      cloud model"
        in text
    )
    left = text[text.index("left out, UNEXPECTED: the profile of ollama does not name it") :]
    assert "203.0.113.66:443/tcp" in left
    assert "left out: asking for names" in left
    assert "left out: it was denied; --allow RULE" in left
    commands = re.findall(r"^   (sudo .*)$", text, re.MULTILINE)
    assert commands == [
        "sudo tattle block ollama --allow ollama.com:443 --audit",
        "sudo tattle report ollama",
        "sudo tattle block ollama --allow ollama.com:443",
    ]
    assert "is in flight: sudo tattle block ollama --keep cloud --keep catalog\n" in text


def test_nothing_to_allow_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """And the command without a rule is given."""
    print_suggestion(suggested(past([]), frozenset()))
    text = capsys.readouterr().out
    assert "it can be blocked whole" in text
    assert "sudo tattle block ollama --audit\n" in text


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["report", "--since", "yesterday"], 2, "'yesterday' is no time"),
        (["report", "--json", "--csv"], 2, "exclude each other"),
        (["report", "nonsuch"], 2, "no runtime is known"),
        (["report", "--instance", "no-such-instance"], 3, "there is no history yet"),
        (["suggest", "ollama", "--instance", "no-such-instance"], 3, "there is no history yet"),
        (["suggest"], 2, "TARGET"),
    ],
)
def test_what_cannot_be_told_has_its_mend(
    words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two lines, the second one how to mend it."""
    assert main(words) == code
    first, second = capsys.readouterr().err.splitlines()
    assert said in first
    assert second.startswith("tattle: to mend it: ")
    if code == 3:
        assert "tattle run" in second
        assert "[history]" in second


class Kept:
    """A history that has these cells."""

    def __init__(self, cells: list[Seen]) -> None:
        self._cells = cells

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def seen(self, since_ns: int, until_ns: int) -> list[Seen]:
        """Give those of these hours."""
        return [one for one in self._cells if since_ns <= one.hour_ns < until_ns]

    def gaps(self, since_ns: int, until_ns: int) -> list[Gap]:
        """Give the window, to be seen that it was asked for."""
        return [Gap(since_ns, until_ns, "before")]

    def losses(self, *_: int) -> dict[str, int]:
        """Give none."""
        return {}

    def last_look_ns(self) -> None:
        """Give none."""


MIXED = {
    "watched": cell(comm="watched"),
    "by-unit": cell(comm="by-unit", target=None),
    "elsewhere": cell(comm="elsewhere", target=None, unit="x.service", cgroup="/system.slice/x.service"),
    "inner": cell(comm="inner", target=None, unit="x.service", cgroup="/system.slice/x.service/below"),
    "boxed": cell(
        comm="boxed", target=None, unit=None, container="0123456789ab", cgroup="/docker/" + "0" * 64
    ),
    "like": cell(comm="like", target=None, unit="x.service2", cgroup="/system.slice/x.service2"),
}


@pytest.mark.parametrize(
    ("target", "comms"),
    [
        (None, set(MIXED)),
        ("ollama", {"watched", "by-unit"}),
        ("unit:x", {"elsewhere", "inner"}),
        ("cgroup:/system.slice/x.service", {"elsewhere", "inner"}),
        ("container:0123456789ab", {"boxed"}),
    ],
)
def test_a_target_is_what_was_counted_or_named_so(
    target: str | None, comms: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for the time before it was a target: by unit, container or cgroup."""
    kept = Kept(list(MIXED.values()))
    monkeypatch.setattr(past_module, "open_history", lambda _: kept)
    monkeypatch.setattr(time, "time_ns", lambda: MIDNIGHT + 24 * HOUR)
    found = look_back("tattle", target, "24h", None)
    assert {one.comm for one in found.cells} == comms
    assert found.gaps == [Gap(MIDNIGHT, MIDNIGHT + 24 * HOUR, "before")]
    assert found.runtimes.get("ollama") == (OLLAMA if target in (None, "ollama") else None)
    with pytest.raises(UsageError):
        look_back("tattle", target, "1h", "2h")


@pytest.mark.parametrize("target", ["exe:ollama", "ollama"])
def test_the_same_program_is_told_apart(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ran in a terminal before it was a target: not the target's, and not hidden either."""
    terminal = cell(target=None, unit=None, cgroup="/user.slice/x.scope")
    kept = Kept([terminal, cell(target=target), terminal._replace(exe="/usr/bin/curl")])
    monkeypatch.setattr(past_module, "open_history", lambda _: kept)
    monkeypatch.setattr(time, "time_ns", lambda: MIDNIGHT + 24 * HOUR)
    found = look_back("tattle", target, "24h", None)
    assert ([one.target for one in found.cells], found.same) == ([target], (terminal,))
    assert found.known_since is None
    assert look_back("tattle", "unit:x.service", "24h", None).known_since == "2026-11-29T00:00:00.000000Z"


def test_a_process_id_is_no_target_of_the_past(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless it was watched as one: the number may be another process's by now."""
    monkeypatch.setattr(past_module, "open_history", lambda _: Kept([cell(target="pid:1")]))
    monkeypatch.setattr(time, "time_ns", lambda: MIDNIGHT + 24 * HOUR)
    assert len(look_back("tattle", "pid:1", "24h", None).cells) == 1
    with pytest.raises(UsageError, match="keeps no ids") as error:
        look_back("tattle", "pid:2", "24h", None)
    assert "unit:NAME" in error.value.hint
