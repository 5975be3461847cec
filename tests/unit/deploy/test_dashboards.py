"""The dashboards in deploy/grafana: fresh, whole, and of the kinds that Grafana's own SDK knows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "deploy" / "grafana"
FILES = sorted(FOLDER.glob("*.json"))
EXPORTER = (ROOT / "exporters" / "prometheus" / "collector.py").read_text()
PROMETHEUS_OWN = {"up", "ALERTS", "scrape_duration_seconds", "scrape_samples_post_metric_relabeling"}
COLUMNS = 24


def read(path: Path) -> dict[str, Any]:
    """Read a dashboard."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def expressions(path: Path) -> str:
    """Give all that a dashboard asks, one expression a line."""
    asked = (target["expr"] for panel in read(path)["panels"] for target in panel.get("targets") or ())
    return "\n".join(asked)


def test_committed_dashboards_are_fresh() -> None:
    """What is committed is what the code makes; `make dashboards` mends it."""
    words = [sys.executable, FOLDER / "generate.py", "--check"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_sdk_reads_what_it_wrote(path: Path) -> None:
    """The JSON is a dashboard of the SDK's types, and nothing in it is unknown to them."""
    register_default_plugins()
    again = JSONEncoder(sort_keys=True).encode(Dashboard.from_json(read(path)))
    assert json.loads(again) == read(path)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_panel_explains_itself(path: Path) -> None:
    """Each has a title of its own, a description that is a sentence, a unit and the chosen source."""
    panels = [panel for panel in read(path)["panels"] if panel["type"] != "row"]
    titles = [panel["title"] for panel in panels]
    assert sorted(set(titles)) == sorted(titles)
    for panel in panels:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["targets"]
        if panel["type"] in {"timeseries", "stat", "bargauge"}:
            assert panel["fieldConfig"]["defaults"]["unit"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_panels_fill_the_grid(path: Path) -> None:
    """No panel covers another, none sticks out, and no line has a hole."""
    taken: dict[tuple[int, int], str] = {}
    for panel in read(path)["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} covers {taken[x, y]}"
                assert x < COLUMNS, panel["title"]
                taken[x, y] = panel["title"]
    assert len(taken) == COLUMNS * (1 + max(y for _, y in taken))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_only_exported_metrics_are_asked_for(path: Path) -> None:
    """Each metric of an expression is one that the exporter makes, or Prometheus itself."""
    asked = set(re.findall(r"\b(tattle_\w+|scrape_\w+|ALERTS|up)\b(?= *(?:[{)]| offset))", expressions(path)))
    assert {"up", "tattle_transmit_bytes_total"} <= asked
    stems = {name.removeprefix("tattle_").removesuffix("_total") for name in asked - PROMETHEUS_OWN}
    assert not {stem for stem in stems if not re.search(rf'"(?:tattle_)?{stem}"', EXPORTER)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_all_variables_are_used_and_made(path: Path) -> None:
    """Data source, host and target can be chosen; no expression speaks of a variable that is not there."""
    made = {variable["name"] for variable in read(path)["templating"]["list"]}
    assert {"datasource", "instance", "target"} <= made
    own = {"__range", "__interval", "__rate_interval", "__rate_interval_ms"}
    assert set(re.findall(r"\$(\w+)", expressions(path))) - own == made - {"datasource"}


def test_dashboards_lead_to_each_other() -> None:
    """A host in the fleet's table opens the dashboard of that host; both carry the tag that links them."""
    fleet, host = read(FOLDER / "fleet.json"), read(FOLDER / "host.json")
    links = re.findall(r'"url": "(/d/[^"]+)"', json.dumps(fleet))
    assert links
    assert all(link.startswith(f"/d/{host['uid']}/") and "var-instance=" in link for link in links)
    assert fleet["tags"] == host["tags"] == fleet["links"][0]["tags"]
