"""What the live table does with keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.live_table import Source
from tracer.cli import perform
from tracer.cli.live import Table
from tracer.errors import HostError
from tracer.policy.rules import Mode, Policy

if TYPE_CHECKING:
    import pytest


class Daemon(Source):
    """Flows of a daemon."""

    name = "daemon"


def selected(monkeypatch: pytest.MonkeyPatch) -> Table:
    """Return a table of root's, its line of ollama selected, and the question asked."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    table = Table(Daemon(), "second", None, addresses=False)
    table.look()
    table.press("/")
    for key in "llama":
        table.press(key)
    for key in ("enter", "j", "b"):  # typed at once: no picture is drawn between them
        table.press(key)
    assert "block ollama: " in table.choice.line()
    return table


def test_a_yes_blocks_with_the_rules_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """An audited policy is enforced, whole; what `block` says is shown, its first line."""
    old = Policy("ollama", allow=("192.0.2.7",), mode=Mode.AUDIT, keep=("pull",))
    asked: list[object] = []

    def block(*words: object) -> int:
        asked.extend(words)
        print("ollama: blocked\nmore")
        return 0

    monkeypatch.setattr(perform, "_policy", lambda *_: old)
    monkeypatch.setattr("tracer.cli.block.block", block)
    table = selected(monkeypatch)
    assert table.press("y")
    assert asked == [
        "second",
        Policy("ollama", allow=("192.0.2.7",), mode=Mode.ENFORCE, keep=("pull",)),
        None,
    ]
    assert table.choice.line() == "ollama: blocked"


def test_a_block_that_fails_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its hint; the table goes on."""

    def block(*_: object) -> str:
        raise HostError("it cannot be", "do so")

    monkeypatch.setattr(perform, "block_target", block)
    table = selected(monkeypatch)
    assert table.press("y")
    assert table.choice.line() == "it cannot be; hint: do so"


def test_without_a_daemon_or_root_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last line says what it takes."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    table = Table(Source(), "second", None, addresses=False)
    table.look()
    table.press("b")
    assert "takes root and a daemon" in table.choice.line()


def test_a_pause_keeps_what_is_to_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon is not asked again until it ends."""
    source = Source()
    table = Table(source, "second", None, addresses=False)
    table.look()
    table.press(" ")
    monkeypatch.setattr(source, "snapshot", None)
    table.look()
    assert table.is_filled
