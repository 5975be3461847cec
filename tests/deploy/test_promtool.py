"""The files of deploy/prometheus, as Prometheus' own checker sees them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy.expressions import DEPLOY, rules

CASES = Path(__file__).parent / "alerts.test.yml"
ALERTS = [rule for rule in rules() if "alert" in rule]


def promtool(*words: str | Path) -> str:
    """Run promtool; it must be content. Returns what it printed."""
    done = subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_rules_are_well_formed() -> None:
    """Expressions, templates and names pass, and no rule stands there twice."""
    files = [DEPLOY / "prometheus" / name for name in ("recording.yml", "alerts.yml")]
    said = promtool("check", "rules", *files)
    assert "duplicate" not in said


def test_the_configuration_is_one() -> None:
    """The example is a whole configuration: it loads, with the rule files that it names."""
    assert promtool("check", "config", DEPLOY / "prometheus" / "scrape.yml").count("rule files found") == 1


def test_alerts_fire_when_they_should() -> None:
    """Series that must fire an alert do, with its texts filled in; series that must not do not."""
    promtool("test", "rules", CASES)


@pytest.mark.parametrize("alert", sorted({rule["alert"] for rule in ALERTS}))
def test_each_alert_is_shown_firing_and_silent(alert: str) -> None:
    """No alert is written without both kinds of series."""
    shown = set()
    for group in yaml.safe_load(CASES.read_text())["tests"]:
        for case in group.get("promql_expr_test", ()):
            if f'alertname="{alert}"' in case["expr"]:
                shown.add(bool(case["exp_samples"]))
        for case in group.get("alert_rule_test", ()):
            if case["alertname"] == alert:
                shown.add(bool(case["exp_alerts"]))
    assert shown == {True, False}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_each_alert_says_what_to_do(rule: dict[str, dict[str, str]]) -> None:
    """Whoever is woken reads what happened, what it means and what to type."""
    assert rule["annotations"].keys() == {"summary", "description", "action"}
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
