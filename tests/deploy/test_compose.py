"""deploy/compose, as far as a machine without a Docker engine can tell."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from tests.deploy.expressions import DEPLOY, dashboard
from tests.support.prometheus import TOP
from tracer.config import Config

FOLDER = DEPLOY / "compose"
FILE = FOLDER / "compose.yml"
PLUGIN = "/usr/libexec/docker/cli-plugins/docker-compose"  # where Debian 13 has it


def resolved() -> dict[str, Any]:
    """Give the file as compose itself understands it: checked by its schema, variables and paths resolved."""
    program = shutil.which("docker-compose") or PLUGIN
    done = subprocess.run([program, "-f", FILE, "config"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = yaml.safe_load(done.stdout)
    return found


@pytest.fixture(scope="module", name="services")
def the_services() -> dict[str, dict[str, Any]]:
    """Resolve the file once."""
    found: dict[str, dict[str, Any]] = resolved()["services"]
    return found


def mounts(service: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    """Give {path in the container: (source, is it read-only)}, of compose's short form and its long one."""
    found = {}
    for volume in service["volumes"]:
        if isinstance(volume, str):
            source, target, *mode = volume.split(":")
            found[target] = (source, mode == ["ro"])
        else:
            found[volume["target"]] = (volume["source"], volume.get("read_only", False))
    return found


def outside(service: dict[str, Any], path: str) -> Path:
    """Give the file on this machine that the container sees at a path."""
    for target, (source, _) in mounts(service).items():
        if PurePosixPath(path).is_relative_to(target):
            return Path(source) / PurePosixPath(path).relative_to(target)
    raise AssertionError(f"nothing is mounted at {path}")


def test_there_is_what_is_mounted(services: dict[str, dict[str, Any]]) -> None:
    """Each folder of ours that is mounted is there, and read-only."""
    found = [mount for service in services.values() for mount in mounts(service).values()]
    ours = [(Path(source), read_only) for source, read_only in found if source.startswith("/")]
    assert len(ours) == 4
    assert all(source.is_dir() and source.is_relative_to(TOP) and read_only for source, read_only in ours)


def test_prometheus_finds_its_configuration(services: dict[str, dict[str, Any]]) -> None:
    """The file that it is told to read is the example, and promtool loads it from where it stands."""
    options = dict(word.split("=", 1) for word in services["prometheus"]["command"])
    file = outside(services["prometheus"], options["--config.file"])
    assert file == DEPLOY / "prometheus" / "scrape.yml"
    subprocess.run(["promtool", "check", "config", file], check=True, capture_output=True)


def test_prometheus_takes_its_options(services: dict[str, dict[str, Any]]) -> None:
    """The real program knows every option; it stops at the one file that is not there."""
    options = [word for word in services["prometheus"]["command"] if not word.startswith("--config.file")]
    done = subprocess.run(
        ["prometheus", *options, "--config.file=/nonexistent"], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "/nonexistent" in done.stderr
    assert "parsing" not in done.stderr


def test_grafana_finds_dashboards_and_source(services: dict[str, dict[str, Any]]) -> None:
    """Provisioning files lead to the committed dashboards and to that Prometheus, at tattle's own address."""
    grafana, here = services["grafana"], "/etc/grafana/provisioning"
    provider = yaml.safe_load(outside(grafana, f"{here}/dashboards/tattle.yml").read_text())
    (folder,) = (one["options"]["path"] for one in provider["providers"])
    assert {file.name for file in outside(grafana, folder).glob("*.json")} == {"host.json", "fleet.json"}
    home = outside(grafana, grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert dashboard(home)["uid"] == "tattle-host"
    source = yaml.safe_load(outside(grafana, f"{here}/datasources/prometheus.yml").read_text())
    (only,) = source["datasources"]
    listen = next(word for word in services["prometheus"]["command"] if "listen-address" in word)
    assert only["url"] == f"http://{listen.partition('=')[2]}"
    scrape = yaml.safe_load((DEPLOY / "prometheus" / "scrape.yml").read_text())
    assert only["jsonData"]["timeInterval"] == scrape["global"]["scrape_interval"]
    assert scrape["scrape_configs"][0]["static_configs"] == [{"targets": [Config().listen]}]


def test_nothing_listens_beyond_loopback(services: dict[str, dict[str, Any]]) -> None:
    """Both are on the host's network, for tattle is on loopback, and stay there themselves."""
    assert {service["network_mode"] for service in services.values()} == {"host"}
    assert services["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    assert "--web.listen-address=127.0.0.1:9090" in services["prometheus"]["command"]


def test_grafana_phones_nobody(services: dict[str, dict[str, Any]]) -> None:
    """What Grafana does by itself on the internet is off: beside tattle, of all programs."""
    settings = services["grafana"]["environment"]
    off = {name for name, value in settings.items() if value == "false"}
    assert off >= {
        f"GF_{name}"
        for name in (
            "ANALYTICS_REPORTING_ENABLED",
            "ANALYTICS_CHECK_FOR_UPDATES",
            "ANALYTICS_CHECK_FOR_PLUGIN_UPDATES",
            "NEWS_NEWS_FEED_ENABLED",
            "SNAPSHOTS_EXTERNAL_ENABLED",
        )
    }
    assert settings["GF_PLUGINS_PREINSTALL_DISABLED"] == settings["GF_SECURITY_DISABLE_GRAVATAR"] == "true"


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_containers_have_no_rights_to_spare(name: str, services: dict[str, dict[str, Any]]) -> None:
    """No capability, no new privileges, an image of one version."""
    service = services[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert ":latest" not in service["image"]
    assert service["image"].count(":") == 1
