"""Verdicts: what counts as egress, what makes evidence incomplete, and what contradicts itself."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.reports import flow, hook, nothing, observed
from tracer.bpf.hooks import HOOKS
from tracer.proof import evidence

Json = dict[str, Any]

VERDICTS: dict[str, tuple[Json, str]] = {
    "internet": (flow(), "egress"),
    "lan": (flow(scope="lan"), "egress"),
    "multicast": (flow(scope="multicast", proto="udp", established=0), "egress"),
    "of no known address": (flow(scope="unknown", remote_addr=None, remote_port=None), "egress"),
    "one SYN": (nothing(bytes_out=60, packets_out=1), "egress"),
    "loopback": (flow(scope="loopback", remote_addr="127.0.0.1", remote_port=11434), "no-egress"),
    "an own address": (flow(scope="host"), "no-egress"),
    "DNS to a loopback resolver": (flow(scope="loopback", remote_port=53, proto="udp"), "egress"),
    "DNS over TLS to one": (flow(scope="loopback", remote_port=853), "egress"),
    "DNS to an own address": (flow(scope="host", remote_port=53, proto="udp"), "egress"),
    "replies on an accepted connection": (flow(direction="in", attempts=0), "no-egress"),
    "a resolver's answers": (flow(direction="in", scope="loopback", remote_port=53), "no-egress"),
    "denied": (nothing(denied=1), "no-egress"),
    "no route": (nothing(), "no-egress"),
    "DNS denied": (nothing(scope="loopback", remote_port=53, denied=1), "no-egress"),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_what_is_egress(name: str) -> None:
    """Anything to the LAN, the internet or a group, and DNS even to this host; replies and loopback not."""
    one, verdict = VERDICTS[name]
    assert observed(one)["verdict"] == verdict


def test_nothing_is_no_egress() -> None:
    """And says so; a denial and a lack of route are spoken of."""
    assert observed()["verdict"] == "no-egress"
    (denied,) = observed(nothing(denied=3, attempts=3))["reasons"]
    assert "3 attempts denied" in denied
    (stuck,) = observed(nothing())["reasons"]
    assert "no route" in stuck


GAPS: dict[str, tuple[Json, str]] = {
    "a loss": ({"losses": {"ring_full": 1}}, "ring_full"),
    "a detached hook": ({"hooks": [hook("egress", attached=False)]}, "egress"),
    "a hook that came later": ({"hooks": [hook("egress", link_id_before=0)]}, "egress"),
    "another link": ({"hooks": [hook("egress", link_id=4)]}, "egress"),
    "another program": ({"hooks": [hook("egress", program_id=4)]}, "egress"),
    "a full table": (
        {"maps": [{"map": "flows", "entries": 16, "max_entries": 16, "full": True}]},
        "flows",
    ),
    "a packet socket": ({"unseen": [{"pid": 7, "comm": "dump", "what": "AF_PACKET"}]}, "AF_PACKET"),
    "a foreign connection": (
        {
            "preexisting_sockets": [
                {"pid": 7, "comm": "x", "remote_addr": "203.0.113.9", "remote_port": 1, "foreign": True}
            ]
        },
        "203.0.113.9",
    ),
}


@pytest.mark.parametrize("flows", [(), (flow(),)], ids=["silent", "talking"])
@pytest.mark.parametrize("name", GAPS)
def test_no_promise_on_incomplete_evidence(name: str, flows: tuple[Json, ...]) -> None:
    """Whatever left or did not: the verdict is incomplete, and the reason names what is missing."""
    changes, word = GAPS[name]
    report = observed(*flows, **changes)
    assert report["verdict"] == "incomplete"
    assert any(word in reason for reason in report["reasons"])


def test_a_forgotten_name_is_no_lost_byte() -> None:
    """Many names elsewhere on the host: ours goes by its address, the verdict stands, the loss is listed."""
    report = observed(losses={"names_full": 9, "ring_full": 0})
    assert (report["verdict"], report["losses"]["names_full"]) == ("no-egress", 9)


def test_totals_list_replies_apart() -> None:
    """What it started and what it answered are never one sum."""
    report = observed(flow(), flow(direction="in", bytes_out=7), flow(scope="lan", bytes_out=30))
    assert report["totals"]["internet"]["bytes_out"] == 500
    assert report["totals"]["lan"]["bytes_out"] == 30
    assert report["accepted"]["internet"]["bytes_out"] == 7
    assert set(report["totals"]) >= {"internet", "lan", "multicast", "host", "loopback"}


def test_egress_is_summed_by_phase() -> None:
    """A cloud model's prompt shows in phase inference; a local one's, on loopback, does not."""
    cloud = flow(phase="inference")
    local = flow(phase="inference", scope="loopback", remote_port=8080, bytes_out=9999)
    phases = observed(cloud, local, flow(phase="startup", bytes_out=40))["phases"]
    assert {name: sums["bytes_out"] for name, sums in phases.items()} == {"inference": 500, "startup": 40}


def test_denials_come_from_whoever_denied() -> None:
    """Of a flow with denials no more left than the enforcing instance let pass; others stay as they were."""
    mine = [flow(comm="raw", bytes_out=300, packets_out=3), flow(comm="other")]
    theirs = [nothing(comm="raw", denied=3, phase="idle"), nothing(comm="gone", denied=2)]
    merged = evidence.with_denials(mine, theirs)
    found = {one["comm"]: (one["denied"], one["bytes_out"], one["packets_out"]) for one in merged}
    assert found == {"raw": (3, 0, 0), "other": (0, 500, 5), "gone": (2, 0, 0)}
    assert mine[0]["bytes_out"] == 300


def test_a_bound_is_shared_by_the_phases_of_a_flow() -> None:
    """What was let pass is not counted once for each phase."""
    mine = [flow(phase="idle", bytes_out=300), flow(phase="inference", bytes_out=300)]
    merged = evidence.with_denials(mine, [flow(denied=1, bytes_out=400)])
    assert [one["bytes_out"] for one in merged] == [300, 100]


def test_only_new_denials_count() -> None:
    """What an instance had denied before the window is not of the window."""
    before = [nothing(denied=5, attempts=5), nothing(comm="quiet", denied=4)]
    after = [nothing(denied=8, attempts=9), nothing(comm="quiet", denied=4), nothing(comm="new", denied=1)]
    gained = evidence.since(before, after)
    assert [(one["comm"], one["denied"], one["attempts"]) for one in gained] == [
        ("curl", 3, 4),
        ("new", 1, 1),
    ]


CONTRADICTIONS: dict[str, Json] = {
    "verdict": {"verdict": "no-egress"},
    "totals": {"totals": {}},
    "window": {"window": {"start": "2026-01-02T00:00:00.000000Z", "end": "2026-01-01T00:00:00.000000Z"}},
    "not listed": {"hooks": [hook(spec.hook) for spec in HOOKS[1:]]},
    "twice": {"hooks": [hook(spec.hook) for spec in (HOOKS[0], *HOOKS)]},
    "called full": {"maps": [{"map": "flows", "entries": 16, "max_entries": 16, "full": False}]},
    "negative": {"flows": [flow(bytes_in=-1)]},
    "reasons": {"losses": {"ring_full": 2}},
}


@pytest.mark.parametrize("words", CONTRADICTIONS)
def test_contradictions_are_named(words: str) -> None:
    """A report that does not follow from itself is told by what does not."""
    hooks = [spec.hook for spec in HOOKS]
    assert evidence.contradictions(observed(flow()), hooks) == []
    found = evidence.contradictions(observed(flow()) | CONTRADICTIONS[words], hooks)
    assert any(words in one for one in found), found
