"""Every expression of deploy/ is answered, and rightly, by a real Prometheus that scrapes a real tattle."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from tests.deploy.expressions import (
    DASHBOARDS,
    Expression,
    of_marks,
    of_panels,
    of_rules,
    of_variables,
    rules,
)
from tests.deploy.recorded import BURST, NEWBORN
from tests.deploy.scene import CLOUD
from tests.support.prometheus import ask

if TYPE_CHECKING:
    from tests.deploy.scene import Scene

PANELS = of_panels()
NEEDS_NOBODY = 'absent(up{job="tattle"})'
"""Fires when there is nothing to ask at all; tests/deploy/alerts.test.yml shows it."""


def place(one: Expression) -> str:
    """Name a test by the place of its expression."""
    return one.place


def number_of(scene: Scene, title: str, instance: str, target: str = ".*") -> float:
    """Return the one number that a panel of the dashboard `host` shows."""
    (asked,) = (one for one in PANELS if one.place == f"host/{title}/A")
    (value,) = scene.answer(asked, instance, target)
    return value


def test_the_expressions_are_found() -> None:
    """The checks below would pass on an empty list."""
    assert {path.stem for path in DASHBOARDS} == {"host", "fleet"}
    assert len(PANELS) > 40
    assert len(of_rules()) > 10
    assert len(of_variables()) == 5
    assert len(of_marks()) == 2


@pytest.mark.parametrize("one", PANELS, ids=place)
def test_panels_show_what_tattle_exports(one: Expression, scene: Scene) -> None:
    """On a real host every panel has data, without exception."""
    values = scene.answer(one, scene.real)
    assert values
    assert not all(map(math.isnan, values))


@pytest.mark.parametrize("one", PANELS, ids=place)
def test_panels_show_a_host_in_trouble(one: Expression, scene: Scene) -> None:
    """So it has on the recorded host."""
    values = scene.answer(one, scene.recorded)
    assert values
    assert not all(map(math.isnan, values))


@pytest.mark.parametrize("one", [*of_variables(), *of_marks()], ids=place)
def test_variables_have_choices_and_alerts_their_marks(one: Expression, scene: Scene) -> None:
    """There is a host, a job and a target to choose, and an alert to be seen."""
    assert scene.answer(one, ".*")


@pytest.mark.parametrize("one", of_rules(), ids=place)
def test_rules_find_what_is_wrong(one: Expression, scene: Scene) -> None:
    """Asked now, each rule has something to say of the recorded host or of the one that is down."""
    assert bool(scene.answer(one, "")) == (one.text.strip() != NEEDS_NOBODY)


def test_prometheus_evaluates_the_rules_without_an_error(scene: Scene) -> None:
    """Each rule is healthy, and each alert but one is on its way."""
    groups = ask(scene.api, "rules")["groups"]
    found = [rule for group in groups for rule in group["rules"]]
    assert len(found) == len(rules())
    assert {(rule["health"], rule.get("lastError", "")) for rule in found} == {("ok", "")}
    silent = {rule["query"] for rule in found if rule["type"] == "alerting" and rule["state"] == "inactive"}
    assert silent == {NEEDS_NOBODY}


def test_what_was_sent_once_is_shown_whole(scene: Scene) -> None:
    """The panel says what the wire saw, to the byte, though the series was born with its final value."""
    assert number_of(scene, "Sent beyond this host", scene.real, scene.free) == scene.wire.bytes_out
    (table,) = (one for one in PANELS if one.place == "host/Destinations/A")
    assert scene.answer(table, scene.real, scene.free) == [scene.wire.bytes_out]
    newborn = f'group by (destination) ({{destination="{NEWBORN}"}})'
    row = Expression("", f"{table.text} and on (destination) {newborn}")
    assert scene.answer(row, scene.recorded) == [BURST]


def test_what_leaves_during_inference_is_shown_whole(scene: Scene) -> None:
    """A server that passed on a prompt is shown with what its receiver got, to whom nobody expects.

    Headers and ACKs, which the wire saw as well, are no prompt.
    """
    assert number_of(scene, "Sent during inference", scene.real, scene.model) == CLOUD
    assert scene.betrayal.bytes_out > CLOUD
    assert number_of(scene, "Unexpected destinations", scene.real, scene.model) == 1


def test_the_top_row_tells_the_targets_apart(scene: Scene) -> None:
    """Blocked and enforced, with denials; audited, without; the recorded one is not enforced."""
    assert number_of(scene, "Policy", scene.real, scene.blocked) == 1
    assert number_of(scene, "Policy", scene.recorded) == 0
    assert number_of(scene, "Denied", scene.real, scene.blocked) >= 2
    assert number_of(scene, "Sent beyond this host", scene.real, scene.audited) > 0
    assert number_of(scene, "Hooks", scene.real) == 1
    assert number_of(scene, "Hooks", scene.recorded) == 0
    assert number_of(scene, "Alerts", scene.recorded) >= 1


def test_a_host_that_is_down_is_counted(scene: Scene) -> None:
    """The fleet has three hosts, one of them down."""
    shown = {one.place: one for one in PANELS}
    assert scene.answer(shown["fleet/Hosts/A"], ".*") == [3]
    assert scene.answer(shown["fleet/Down/A"], ".*") == [1]
    assert scene.answer(shown["fleet/Down/A"], scene.down) == [1]
