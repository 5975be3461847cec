"""The table of scenarios, walked: real traffic, two daemons, and the wire's own counters as the judge."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.kernel.scenarios import attribution as rows_who  # noqa: F401 - fills the table
from tests.kernel.scenarios import calls as rows_calls  # noqa: F401 - fills the table
from tests.kernel.scenarios import lifetimes as rows_time  # noqa: F401 - fills the table
from tests.kernel.scenarios import spec as rows_benchmark  # noqa: F401 - fills the table
from tests.kernel.scenarios.scenario import ROWS, Expectation, complaints
from tests.support.daemon import Tattle, until

if TYPE_CHECKING:
    from tests.support.network import Lab


@pytest.mark.parametrize("name", ROWS)
def test_a_report_agrees_with_the_wire(name: str, lab: Lab, plain: Tattle, thorough: Tattle) -> None:
    """A report has every flow of a scenario, no other, and its bytes to the byte."""
    for tattle in (plain, thorough):
        tattle.mark()
    expected = ROWS[name](lab)
    for tattle, loopback in ((plain, False), (thorough, True)):
        until(partial(disagreement, lab, tattle, expected, loopback=loopback))
        until(partial(missing_events, tattle, expected))


def disagreement(lab: Lab, tattle: Tattle, expected: Expectation, *, loopback: bool) -> list[str]:
    """Compare the newest flows, and all of them only where those do not do: a busy host has many."""
    flows = tattle.flows(*expected.comms, newest=4096)
    found = complaints(lab, expected, flows, loopback=loopback)
    if found:
        return complaints(lab, expected, tattle.flows(*expected.comms), loopback=loopback)
    return found


def missing_events(tattle: Tattle, expected: Expectation) -> list[str]:
    """Return which of the row's events the log does not have."""
    if not expected.events:
        return []
    log = tattle.events(*expected.comms)
    return [
        f"no event {wanted} in {[(e['event'], e['remote_port'], e['result']) for e in log]}"
        for wanted in expected.events
        if not any(wanted.items() <= event.items() for event in log)
    ]
