"""Every PromQL expression that stands in deploy/: of panels, variables, marks and rules."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
DASHBOARDS = sorted(DEPLOY.glob("grafana/*.json"))


class Expression(NamedTuple):
    """An expression, where it stands, and whether it is for now (not for a range)."""

    place: str
    text: str
    instant: bool = True


def dashboard(path: Path) -> dict[str, Any]:
    """Read a dashboard."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def panels(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the panels of a dashboard, those in collapsed rows too, rows themselves not."""
    for panel in dashboard(path)["panels"]:
        yield from panel.get("panels") or []
        if panel["type"] != "row":
            yield panel


def of_panels() -> list[Expression]:
    """Give what all panels ask."""
    return [
        Expression(f"{path.stem}/{panel['title']}/{one['refId']}", one["expr"], bool(one.get("instant")))
        for path in DASHBOARDS
        for panel in panels(path)
        for one in panel["targets"]
    ]


def of_marks() -> list[Expression]:
    """Give what the marks in all panels ask."""
    return [
        Expression(f"{path.stem}/{mark['name']}", mark["expr"])
        for path in DASHBOARDS
        for mark in dashboard(path)["annotations"]["list"]
    ]


def of_variables() -> list[Expression]:
    """Give `label_values(SELECTOR, LABEL)` of all variables as the query of one series for each value."""
    found = []
    for path in DASHBOARDS:
        for variable in dashboard(path)["templating"]["list"]:
            if variable["type"] == "query":
                asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"])
                assert asked, variable
                text = f'group by ({asked[2]}) ({asked[1]}) unless group ({{__name__="none"}})'
                found.append(Expression(f"{path.stem}/${variable['name']}", text))
    return found


def of_rules() -> list[Expression]:
    """Give what alerts and recording rules ask."""
    return [Expression(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules()]


def rules() -> list[dict[str, Any]]:
    """Read all rules."""
    names = ("recording.yml", "alerts.yml")
    files = [yaml.safe_load((DEPLOY / "prometheus" / name).read_text()) for name in names]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def fill_in(text: str, window_s: int, **variables: str) -> str:
    """Replace variables as Grafana does, all of its windows being one window; none may be left over."""
    values = {
        "__rate_interval_ms": str(window_s * 1000),
        "__rate_interval": f"{window_s}s",
        "__interval": f"{window_s}s",
        "__range": f"{window_s}s",
        **variables,
    }
    filled = re.sub(r"\$(\w+)", lambda match: values[match[1]], text)
    assert "$" not in filled, filled
    return filled
