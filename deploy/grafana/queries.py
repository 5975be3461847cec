"""PromQL for the dashboards: what to select, and how much of it there was.

A program that phones home once makes a series that is born with its final value. `increase()` and `rate()`
look at differences between samples, and see nothing of it: hence `grown`, which gives a newborn series its
whole value.
"""

from __future__ import annotations

from typing import Final

SENT: Final = "tattle_transmit_bytes_total"
DATA: Final = "tattle_transmit_payload_bytes_total"
"""Without headers: a keep-alive is no prompt."""
RECEIVED: Final = "tattle_receive_bytes_total"
ATTEMPTS: Final = "tattle_connection_attempts_total"
LOSSES: Final = "tattle_events_lost_total"
HERE: Final = 'instance=~"$instance"'
OURS: Final = f'{HERE}, target=~"$target"'
EGRESS: Final = 'direction="out", scope!~"loopback|host"'
"""What this side started and what left the host."""
INFERENCE: Final = f'{EGRESS}, phase="inference"'
RANGE: Final = "$__range"
STEP: Final = "$__interval"
"""One point of a graph: for counts, where each event shall be counted in one point only."""
SMOOTH: Final = "$__rate_interval"
"""At least four scrapes: for rates."""
LOST: Final = 'reason!~"watcher_slow|history_full|openings_full|notices_full"'
"""A `tattle watch` whose terminal is too slow loses lines of its own; no evidence is missing for it. Nor is a
byte missing from a history of too many destinations, which share a sum."""


def grown(metric: str, matchers: str, window: str) -> str:
    """Give by how much each series of a counter grew in the window, newborn ones from zero.

    A series counts as newborn only if its exporter was scraped a window ago without it: not when Prometheus
    itself is new, and all that ever happened would seem to happen now.
    """
    series = f"{metric}{{{matchers}}}"
    newborn = f"({series} unless {series} offset {window}) and on (job, instance) (up offset {window} == 1)"
    return f"({newborn} or increase({series}[{window}]))"


def total(metric: str, matchers: str, window: str = RANGE, by: str = "") -> str:
    """Give the sum of what grew in the window, for each value of the labels `by`."""
    return f"sum {_by(by)}({grown(metric, matchers, window)})"


def per_second(metric: str, matchers: str, by: str = "") -> str:
    """Give the same as a rate for a graph: units a second."""
    return f"{total(metric, matchers, SMOOTH, by)} * 1000 / $__rate_interval_ms"


def _by(labels: str) -> str:
    return f"by ({labels}) " if labels else ""
