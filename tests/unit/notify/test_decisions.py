"""What is worth a notice on a desktop, what it says, and how many there are."""

from __future__ import annotations

from typing import Any

import pytest

from tracer.model.jsonlines import encode
from tracer.notify.decisions import (
    BURST,
    GATHER_S,
    SHOWN,
    SPACING_S,
    WAITING_MAX,
    Decisions,
    Kind,
    Notice,
    concerns,
)

LATER = GATHER_S + 1


def event(name: str = "telemetry.example", **more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """Return an event of a target that contacted something its profile does not name."""
    usual = {"event": "connect", "target": "ollama", "direction": "out", "scope": "internet", "name": name}
    return {**usual, "unexpected": True, "phase": "idle", "verdict": "allowed", "purpose": None, **more}


def prompt(name: str = "ollama.com", **more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """Return an event of data that a target sent while it answered a prompt."""
    purpose = {"unexpected": False, "purpose": "runs cloud models", "phase": "inference"}
    return event(name, **{"event": "established", **purpose, **more})


def told(*events: dict[str, Any], at: float = 0.0) -> list[Notice]:
    """Return what is shown of events that come together."""
    decisions = Decisions()
    for one in events:
        decisions.take(one, at)
    return decisions.due(at + LATER)


def test_an_unexpected_destination_is_told_with_the_command_that_acts() -> None:
    """Who, whither, why it is odd, and what to type."""
    (notice,) = told(event())
    assert notice.summary == "ollama contacted an unexpected destination"
    assert notice.body == "telemetry.example: not in its profile\nStop it: sudo tattle block ollama"
    assert not notice.urgent


def test_what_was_stopped_is_told_as_that() -> None:
    """Of a destination that a block denied nothing is left to stop."""
    (notice,) = told(event(verdict="denied"), event(event="deny", verdict="denied"))
    assert notice.summary == "ollama was kept from an unexpected destination"
    assert notice.body.splitlines() == [
        "telemetry.example: not in its profile, stopped",
        "See all of it: sudo tattle flows ollama",
    ]


def test_one_try_that_got_through_is_not_called_stopped() -> None:
    """Denied first, allowed later: it was contacted."""
    (notice,) = told(event(verdict="denied"), event(verdict="would-deny"))
    assert notice.summary == "ollama contacted an unexpected destination"


def test_data_during_a_prompt_is_told_with_its_purpose() -> None:
    """Also where the destination is one that the profile names."""
    (notice,) = told(prompt())
    assert notice.summary == "ollama sent data while it answered a prompt"
    assert notice.body.splitlines()[0] == "ollama.com: runs cloud models"


@pytest.mark.parametrize(
    "more",
    [
        {"event": "connect"},
        {"verdict": "denied"},
        {"scope": "loopback"},
        {"scope": "host"},
        {"direction": "in"},
        {"target": None},
        {"phase": "pull"},
        {"event": "close"},
    ],
)
def test_what_is_no_egress_during_a_prompt_is_no_news(more: dict[str, Any]) -> None:
    """A try, what was denied, what stays here, what others started, and other phases."""
    assert told(prompt(**more)) == []


def test_what_comes_together_is_one_notice() -> None:
    """With a few names, and how many more there are."""
    (notice,) = told(*(event(f"host{number}.example") for number in range(9)))
    assert notice.summary == "ollama contacted 9 unexpected destinations"
    assert f"and {9 - SHOWN} more" in notice.body


def test_targets_are_told_apart() -> None:
    """One notice each."""
    assert {one.key.about for one in told(event(), event(target="vllm"))} == {"ollama", "vllm"}


def test_a_flood_is_a_notice_a_minute_that_counts_all() -> None:
    """A hundred thousand names take bounded memory, and the number is right."""
    (notice,) = told(*(event(f"h{number}.example") for number in range(3 * WAITING_MAX)))
    assert notice.summary == f"ollama contacted {3 * WAITING_MAX} unexpected destinations"


def test_a_destination_is_told_of_once() -> None:
    """However often it is contacted."""
    decisions = Decisions()
    for at in range(0, 3600, 10):
        decisions.take(event(), float(at))
        assert (at == 0) == (decisions.wait(float(at)) is not None)
        decisions.due(at + LATER)


def test_notices_of_one_target_are_spaced() -> None:
    """What comes meanwhile waits for the next one."""
    decisions = Decisions()
    decisions.take(event("a.example"), 0.0)
    assert len(decisions.due(LATER)) == 1
    decisions.take(event("b.example"), LATER)
    decisions.take(event("c.example"), LATER + 1)
    assert decisions.due(LATER + SPACING_S / 2) == []
    assert decisions.wait(LATER) == SPACING_S
    (notice,) = decisions.due(LATER + SPACING_S)
    assert "2 unexpected" in notice.summary


def test_many_targets_together_are_spaced_too() -> None:
    """No more than a burst at once; none is lost."""
    decisions = Decisions()
    for number in range(3 * BURST):
        decisions.take(event(target=f"exe:{number}"), 0.0)
    shown = [len(decisions.due(LATER + at)) for at in range(0, 16 * int(SPACING_S), 10)]
    assert shown[0] == BURST
    assert sum(shown) == 3 * BURST


def test_a_block_that_is_not_in_force_is_urgent_and_its_return_is_told() -> None:
    """Once, not with each look; a daemon that starts and is well says nothing."""
    decisions = Decisions("second")
    decisions.take({"event": "ill", "ill": []}, 0.0)
    assert decisions.due(LATER) == []
    for at in (10.0, 40.0, 70.0):
        decisions.take({"event": "ill", "ill": ["the policy of ollama is not in force"]}, at)
    (notice,) = decisions.due(80.0)
    assert (notice.urgent, notice.key.kind) == (True, Kind.ILL)
    assert notice.body.splitlines()[-1] == "Put it in force: sudo tattle restore --instance second"
    decisions.take({"event": "ill", "ill": []}, 90.0)
    assert decisions.due(100.0) == []
    (notice,) = decisions.due(80.0 + SPACING_S)
    assert (notice.urgent, notice.summary) == (False, "All blocks are in force again")


def test_strangers_names_are_printable_bounded_and_no_words_of_the_command() -> None:
    """A name cannot move the cursor, fill the screen, or add a command to the one that is shown."""
    (notice,) = told(event("x\x1b[2J\n" + "y" * 999, target="exe:a; rm -rf ~"))
    assert notice.body.isprintable() or notice.body.replace("\n", "").isprintable()
    lines = notice.body.splitlines()
    assert len(lines) == 2
    assert len(lines[0]) < 120
    assert lines[1] == "Stop it: sudo tattle block 'exe:a; rm -rf ~'"


def test_the_daemon_sends_what_may_matter_and_no_more() -> None:
    """A stranger's name that looks like the words which are looked for is none of them."""
    assert concerns(encode(event()))
    assert concerns(encode(prompt()))
    assert not concerns(encode(event(unexpected=False)))
    assert not concerns(encode(prompt(direction="in")))
    assert not concerns(encode(event('"unexpected":true', unexpected=None)))
