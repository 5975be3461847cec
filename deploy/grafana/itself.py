"""The row on tattle itself, of the dashboard of one host: what it costs, and what it lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from frame import fill
from panels import ATTACHED, SECONDS, SHARE, Column, Query, Words, counts, graph, lanes, rows
from queries import HERE, LOSSES, STEP, total

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders import dashboard as build


def add(made: build.Dashboard) -> None:
    """Add the row."""
    runs = f"tattle_bpf_program_runs_total{{{HERE}}}"
    spent = f"tattle_bpf_program_run_seconds_total{{{HERE}}}"
    window = "[$__rate_interval]"
    fill(
        made,
        "tattle itself",
        graph(
            Words(
                "Processor time of the programs",
                "Share of one core that the hooks cost all programs of this host together. "
                "Zero unless `program_stats = true`: measuring costs, too.",
                8,
            ),
            Query(f"sum by (program) (rate({spent}{window}))", "{{program}}"),
            unit=SHARE,
            stacked=True,
        ),
        graph(
            Words(
                "Time of one run", "What a packet or call pays at each hook. Needs `program_stats = true`.", 8
            ),
            Query(
                f"sum by (program) (rate({spent}{window})) / sum by (program) (rate({runs}{window}) > 0)",
                "{{program}}",
            ),
            unit=SECONDS,
        ),
        graph(
            Words(
                "Time of one scrape",
                "What Prometheus waited for the answer, and how many samples it holds.",
                8,
            ),
            Query(f"scrape_duration_seconds{{{HERE}}}", "{{instance}}"),
            unit=SECONDS,
        ),
        counts(
            Words(
                "Lost, by reason",
                "The same words as in `tattle status`, which says what to turn. `ring_full` and `log_*` are "
                "lines of the log only; counters are exact.",
                8,
            ),
            Query(total(LOSSES, HERE, STEP, "reason"), "{{reason}}"),
        ),
        graph(
            Words(
                "How full the maps are", "At 100 % new entries are folded into sums, and counted as lost.", 8
            ),
            Query(
                f"max by (map) (tattle_map_entries{{{HERE}}} / tattle_map_max_entries{{{HERE}}})", "{{map}}"
            ),
            unit=SHARE,
        ),
        lanes(
            Words(
                "Hooks over time", "Red: the hook was not attached, and what it should see was not seen.", 8
            ),
            Query(f"min by (hook) (tattle_hook_attached{{{HERE}}})", "{{hook}}"),
            ATTACHED,
        ),
        rows(
            Words(
                "What runs here",
                "Version of tattle and of the kernel, and the number of series it exports.",
                24,
                4,
            ),
            {"instance": "Host", "version": "tattle", "kernel": "Kernel"},
            (
                Column(
                    "Series",
                    f"max by (instance, version, kernel) (tattle_build_info{{{HERE}}} * on (job, instance) "
                    f"group_left () scrape_samples_post_metric_relabeling{{{HERE}}})",
                ),
            ),
            "Series",
        ),
    )
