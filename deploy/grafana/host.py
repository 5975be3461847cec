"""The dashboard of one host, to see what its model talks to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import itself
from frame import alerts, fill, finish, frame, variable
from panels import (
    ATTACHED,
    BYTES,
    BYTES_A_SECOND,
    ENFORCED,
    ODD,
    ORANGE,
    PHASES,
    PLAIN,
    RED,
    Column,
    Query,
    State,
    Words,
    below_zero,
    big_number,
    color_of,
    counts,
    graph,
    lanes,
    on_the_right,
    ranking,
    rows,
)
from queries import (
    ATTEMPTS,
    DATA,
    EGRESS,
    HERE,
    INFERENCE,
    LOSSES,
    LOST,
    OURS,
    RANGE,
    RECEIVED,
    SENT,
    STEP,
    grown,
    per_second,
    total,
)

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders import dashboard as build
    from grafana_foundation_sdk.models import dashboard as models

DENIED: Final = f'{OURS}, verdict="denied"'
FIRING: Final = 'ALERTS{alertname=~"Tattle.*", alertstate="firing", instance=~"$instance"}'


def model() -> models.Dashboard:
    """Give the dashboard."""
    made = frame(
        "tattle: one host",
        "tattle-host",
        "What a host's programs, first of all its language models, talk to: counted in the kernel by tattle.",
    )
    made.with_variable(variable("instance", "Host", "label_values(tattle_build_info, instance)", many=False))
    targets = 'label_values(tattle_target_processes{instance=~"$instance"}, target)'
    made.with_variable(variable("target", "Target", targets, many=True, everything=".*"))
    alerts(made, HERE)
    _verdicts(made)
    _destinations(made)
    _phases(made)
    _denials(made)
    _tables(made)
    itself.add(made)
    return finish(made)


def _verdicts(made: build.Dashboard) -> None:
    fill(
        made,
        "",
        big_number(
            Words(
                "Policy",
                "Whether the kernel enforces every policy of the chosen targets, asked of it at each scrape. "
                "'none': no target is blocked here (`tattle block TARGET`).",
                width=3,
                height=4,
            ),
            f'min(tattle_target_enforced{{{OURS}, mode="enforce"}})',
            states=ENFORCED,
        ),
        big_number(
            Words(
                "Unexpected destinations",
                "Internet destinations, since tattle started, that the profile of the runtime does not name.",
                width=3,
                height=4,
            ),
            f"sum(tattle_unexpected_destinations{{{OURS}}})",
        ),
        big_number(
            Words(
                "Sent during inference",
                "Bytes that left this host on connections which a target started while it answered a prompt. "
                "A model that is local sends nothing.",
                width=3,
                height=4,
            ),
            total(DATA, f"{OURS}, {INFERENCE}"),
            unit=BYTES,
        ),
        big_number(
            Words("Denied", "Connects and datagrams that a policy denied in the time range.", 3, 4),
            total(ATTEMPTS, DENIED),
            steps=ODD,
        ),
        big_number(
            Words(
                "Sent beyond this host",
                "Bytes of IP packets to LAN, internet and multicast, in the time range, "
                "on what this side started.",
                width=3,
                height=4,
            ),
            total(SENT, f"{OURS}, {EGRESS}"),
            unit=BYTES,
            steps=PLAIN,
        ),
        big_number(
            Words(
                "Lost",
                "What tattle had no room for, in the time range. More than 0: the evidence has a gap; "
                "'Lost, by reason' below and `tattle status` say which.",
                width=3,
                height=4,
            ),
            total(LOSSES, f"{HERE}, {LOST}"),
        ),
        big_number(
            Words("Hooks", "Whether every hook is attached, as the kernel says at each scrape.", 3, 4),
            f"min(tattle_hook_attached{{{HERE}}})",
            states=ATTACHED,
        ),
        big_number(
            Words("Alerts", "Alerts of deploy/prometheus/alerts.yml that fire for this host.", 3, 4),
            f"count({FIRING}) or vector(0)",
        ),
    )


def _destinations(made: build.Dashboard) -> None:
    phases = graph(
        Words(
            "Egress by phase",
            "The same bytes by what the runtime was doing. Red is traffic while it answered a prompt.",
            height=9,
        ),
        Query(per_second(SENT, f"{OURS}, {EGRESS}", "phase"), "{{phase}}"),
        unit=BYTES_A_SECOND,
        stacked=True,
    )
    for phase, color in PHASES.items():
        color_of(phases, phase, color)
    fill(
        made,
        "Where it goes",
        graph(
            Words(
                "Egress by destination",
                "Bytes a second that left this host, by name where one is known, else by address: the ten "
                "largest. A destination that was met once shows too: its first value counts in full.",
                height=9,
            ),
            Query(f"topk(10, {per_second(SENT, f'{OURS}, {EGRESS}', 'destination')})", "{{destination}}"),
            unit=BYTES_A_SECOND,
            stacked=True,
        ),
        phases,
    )


def _phases(made: build.Dashboard) -> None:
    windows = lanes(
        Words(
            "What the runtime was doing",
            "A lane for each target and phase, filled while requests of that kind are in flight, "
            "of startup and idle while it is that.",
            width=24,
            height=6,
        ),
        Query(
            f"clamp_max(sum by (target, phase) (tattle_phase_active{{{OURS}}}), 1)", "{{target}}: {{phase}}"
        ),
        (State(1, "active", "blue"), State(0, "no", "transparent")),
    )
    beside = graph(
        Words(
            "Inference windows beside bytes",
            "Steps: prompts in flight (right axis). Lines: bytes beyond this host, received below zero. "
            "What does not rest while steps are up left during inference.",
            width=24,
            height=9,
        ),
        Query(per_second(SENT, f"{OURS}, {EGRESS}"), "sent"),
        Query(per_second(RECEIVED, f"{OURS}, {EGRESS}"), "received"),
        Query(f'sum(tattle_phase_active{{{OURS}, phase="inference"}})', "prompts in flight"),
        unit=BYTES_A_SECOND,
    )
    color_of(beside, "sent", ORANGE)
    color_of(beside, "received", "blue")
    below_zero(beside, "received")
    on_the_right(beside, "prompts in flight", RED)
    fill(made, "Inference and bytes", windows, beside)


def _denials(made: build.Dashboard) -> None:
    fill(
        made,
        "Denials",
        counts(
            Words(
                "Denied, by destination",
                "Connects and datagrams that failed at once with EPERM, the ten most wanted destinations.",
            ),
            Query(f"topk(10, {total(ATTEMPTS, DENIED, STEP, 'destination')})", "{{destination}}"),
        ),
        counts(
            Words(
                "Dropped packets, and what an audit would deny",
                "Packets that no call could catch (raw ones, those of sockets that were open before), and "
                "attempts under `tattle block --audit`, which changes nothing.",
            ),
            Query(f"sum({grown('tattle_denied_packets_total', OURS, STEP)})", "packets dropped"),
            Query(total(ATTEMPTS, f'{OURS}, verdict="would-deny"', STEP), "would be denied"),
        ),
    )


def _tables(made: build.Dashboard) -> None:
    keys = {
        "target": "Target",
        "process": "Process",
        "direction": "Started",
        "destination": "Destination",
        "scope": "Scope",
    }
    by = ", ".join(keys)
    beyond = f'{OURS}, scope!~"loopback|host"'
    fill(
        made,
        "Who and where, in the time range",
        rows(
            Words(
                "Destinations",
                "Every peer beyond this host: who talked to it, and how much. `other` is the sum of those "
                "beyond `metrics.max_destinations`; no byte is missing.",
                width=24,
                height=11,
            ),
            keys,
            (
                Column("Sent", total(SENT, beyond, RANGE, by), BYTES),
                Column("Received", total(RECEIVED, beyond, RANGE, by), BYTES),
                Column("Attempts", total(ATTEMPTS, beyond, RANGE, by)),
                Column("Denied", total(ATTEMPTS, f'{beyond}, verdict="denied"', RANGE, by), steps=ODD),
            ),
            "Sent",
        ),
        rows(
            Words("Targets", "What is watched or blocked on this host, as it is now."),
            {"target": "Target"},
            (
                Column(
                    "Policy",
                    f'min by (target) (tattle_target_enforced{{{OURS}, mode="enforce"}})',
                    states=ENFORCED,
                ),
                Column("Processes", f"sum by (target) (tattle_target_processes{{{OURS}}})"),
                Column(
                    "Unexpected destinations",
                    f"sum by (target) (tattle_unexpected_destinations{{{OURS}}})",
                    steps=ODD,
                ),
                Column(
                    "Sent during inference",
                    total(DATA, f"{OURS}, {INFERENCE}", RANGE, "target"),
                    BYTES,
                ),
            ),
            "Processes",
        ),
        ranking(
            Words(
                "Top processes",
                "Bytes sent beyond this host in the time range, by name of the process.",
            ),
            Query(f"topk(10, {total(SENT, f'{OURS}, {EGRESS}', RANGE, 'process')})", "{{process}}"),
            unit=BYTES,
        ),
    )
