"""The dashboard of many hosts, to see which of them needs a look."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from frame import alerts, fill, finish, frame, variable
from panels import (
    BAD,
    BYTES,
    BYTES_A_SECOND,
    ENFORCED,
    GREEN,
    ODD,
    PLAIN,
    RED,
    SECONDS,
    SHARE,
    Column,
    Query,
    State,
    Words,
    big_number,
    counts,
    graph,
    lanes,
    link_column,
    rows,
)
from queries import (
    ATTEMPTS,
    DATA,
    EGRESS,
    INFERENCE,
    LOSSES,
    LOST,
    RANGE,
    RECEIVED,
    SENT,
    STEP,
    per_second,
    total,
)

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders import dashboard as build
    from grafana_foundation_sdk.models import dashboard as models

HERE: Final = 'job=~"$job", instance=~"$instance"'
OURS: Final = f'{HERE}, target=~"$target"'
POLICIES: Final = f'tattle_target_enforced{{{OURS}, mode="enforce"}}'
UP: Final = (State(1, "up", GREEN), State(0, "DOWN", RED))
ONE_HOST: Final = (
    "/d/tattle-host/tattle-one-host?var-datasource=${datasource}&var-instance=${__value.raw}"
    "&${__url_time_range}"
)


def model() -> models.Dashboard:
    """Give the dashboard."""
    made = frame(
        "tattle: fleet",
        "tattle-fleet",
        "Many hosts that run tattle: which of them needs a look? A click on a host opens its own dashboard.",
    )
    for name, label, query in (
        ("job", "Job", "label_values(tattle_build_info, job)"),
        ("instance", "Host", 'label_values(up{job=~"$job"}, instance)'),
        (
            "target",
            "Target",
            'label_values(tattle_target_processes{job=~"$job", instance=~"$instance"}, target)',
        ),
    ):
        made.with_variable(variable(name, label, query, many=True, everything=".*"))
    alerts(made, HERE)
    _verdicts(made)
    _hosts(made)
    _traffic(made)
    _evidence(made)
    return finish(made)


def _verdicts(made: build.Dashboard) -> None:
    size = (3, 4)
    fill(
        made,
        "",
        big_number(
            Words("Hosts", "Hosts whose metrics are scraped.", *size), f"count(up{{{HERE}}})", steps=PLAIN
        ),
        big_number(
            Words(
                "Down", "Hosts that do not answer: their policies stay in force, but nobody sees it.", *size
            ),
            f"sum(1 - up{{{HERE}}})",
        ),
        big_number(
            Words(
                "Policies not enforced", "Blocked targets whose kernel says that not all is in force.", *size
            ),
            f"sum(1 - {POLICIES})",
        ),
        big_number(
            Words(
                "Unexpected destinations",
                "Internet destinations, since each tattle started, that no profile names.",
                *size,
            ),
            f"sum(tattle_unexpected_destinations{{{OURS}}})",
        ),
        big_number(
            Words("Sent during inference", "Bytes beyond a host while a target answered a prompt.", *size),
            total(DATA, f"{OURS}, {INFERENCE}"),
            unit=BYTES,
        ),
        big_number(
            Words("Denied", "Connects and datagrams that a policy denied in the time range.", *size),
            total(ATTEMPTS, f'{OURS}, verdict="denied"'),
            steps=ODD,
        ),
        big_number(
            Words("Lost", "What had no room, on all hosts, in the time range: gaps in the evidence.", *size),
            total(LOSSES, f"{HERE}, {LOST}"),
        ),
        big_number(
            Words("Hooks missing", "Hooks that are not attached, on all hosts.", *size),
            f"sum(1 - tattle_hook_attached{{{HERE}}})",
        ),
    )


def _hosts(made: build.Dashboard) -> None:
    by = "instance"
    hosts = rows(
        Words("Each host", "One row for each host; a click on its name opens its own dashboard.", 24, 11),
        {"instance": "Host"},
        (
            Column("Up", f"min by (instance) (up{{{HERE}}})", states=UP),
            Column("Policy", f"min by (instance) ({POLICIES})", states=ENFORCED),
            Column("Targets", f"count by (instance) (tattle_target_enforced{{{OURS}}})"),
            Column("Unexpected", f"sum by (instance) (tattle_unexpected_destinations{{{OURS}}})", steps=BAD),
            Column("Denied", total(ATTEMPTS, f'{OURS}, verdict="denied"', RANGE, by), steps=ODD),
            Column("Sent", total(SENT, f"{OURS}, {EGRESS}", RANGE, by), BYTES),
            Column("Sent during inference", total(DATA, f"{OURS}, {INFERENCE}", RANGE, by), BYTES),
            Column("Lost", total(LOSSES, f"{HERE}, {LOST}", RANGE, by), steps=ODD),
            Column("Hooks missing", f"sum by (instance) (1 - tattle_hook_attached{{{HERE}}})", steps=BAD),
        ),
        "Sent",
    )
    link_column(hosts, "Host", "Open the dashboard of this host", ONE_HOST)
    fill(
        made,
        "Hosts",
        hosts,
        lanes(
            Words(
                "Policies over time", "A lane for each blocked target of each host. Red: not enforced.", 24, 8
            ),
            Query(f"min by (instance, target) ({POLICIES})", "{{instance}} {{target}}"),
            ENFORCED,
        ),
    )


def _traffic(made: build.Dashboard) -> None:
    keys = {"destination": "Destination", "scope": "Scope"}
    by = ", ".join(keys)
    inner = f"{by}, instance"
    fill(
        made,
        "Where they go",
        graph(
            Words("Egress by host", "Bytes a second beyond each host: the ten largest."),
            Query(f"topk(10, {per_second(SENT, f'{OURS}, {EGRESS}', 'instance')})", "{{instance}}"),
            unit=BYTES_A_SECOND,
            stacked=True,
        ),
        graph(
            Words(
                "Egress during inference, by host",
                "Bytes a second while prompts were answered. Zero is the promise.",
            ),
            Query(per_second(DATA, f"{OURS}, {INFERENCE}", "instance"), "{{instance}}"),
            unit=BYTES_A_SECOND,
            stacked=True,
        ),
        rows(
            Words(
                "Destinations of all hosts",
                "What few hosts talk to is worth a look; what all talk to is worth knowing.",
                width=24,
                height=10,
            ),
            keys,
            (
                Column("Hosts", f"count by ({by}) ({total(SENT, f'{OURS}, {EGRESS}', RANGE, inner)} > 0)"),
                Column("Sent", total(SENT, f"{OURS}, {EGRESS}", RANGE, by), BYTES),
                Column("Received", total(RECEIVED, f"{OURS}, {EGRESS}", RANGE, by), BYTES),
            ),
            "Hosts",
        ),
        counts(
            Words("Denied, by host", "Connects and datagrams that a policy denied."),
            Query(total(ATTEMPTS, f'{OURS}, verdict="denied"', STEP, "instance"), "{{instance}}"),
        ),
        graph(
            Words(
                "Unexpected destinations, by host",
                "Internet destinations that the profile of their runtime does not name.",
            ),
            Query(f"sum by (instance) (tattle_unexpected_destinations{{{OURS}}})", "{{instance}}"),
            unit="short",
        ),
    )


def _evidence(made: build.Dashboard) -> None:
    fill(
        made,
        "Is the evidence whole?",
        counts(
            Words("Lost, by host", "What had no room. The host's own dashboard tells the reasons.", 8),
            Query(total(LOSSES, f"{HERE}, {LOST}", STEP, "instance"), "{{instance}}"),
        ),
        graph(
            Words(
                "Fullest map, by host", "At 100 % new entries are folded into sums, and counted as lost.", 8
            ),
            Query(
                f"max by (instance) (tattle_map_entries{{{HERE}}} / tattle_map_max_entries{{{HERE}}})",
                "{{instance}}",
            ),
            unit=SHARE,
        ),
        graph(
            Words("Time of one scrape, by host", "What Prometheus waited for the answer.", 8),
            Query(f"scrape_duration_seconds{{{HERE}}}", "{{instance}}"),
            unit=SECONDS,
        ),
        rows(
            Words("Versions", "Versions of tattle and of the kernel, and how many hosts run each.", 24, 6),
            {"version": "tattle", "kernel": "Kernel"},
            (Column("Hosts", f"count by (version, kernel) (tattle_build_info{{{HERE}}})"),),
            "Hosts",
        ),
    )
