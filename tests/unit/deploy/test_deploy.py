"""What stands in deploy/ works as it stands there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from tracer.cli.parser import build
from tracer.cli.status import require_enforced
from tracer.config import Config, PolicyTable, parse_config
from tracer.errors import NotEnforced

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "deploy" / "tattle.toml"
UNIT = ROOT / "deploy" / "systemd" / "tattle.service"


def uncommented() -> str:
    """Give the example with every key switched on."""
    return re.sub(r"^# (?=\w+ = |\[\[)", "", EXAMPLE.read_text(), flags=re.MULTILINE)


def test_example_changes_nothing() -> None:
    """As it stands, the example is the defaults: installing it is safe."""
    assert parse_config(EXAMPLE.read_bytes(), str(EXAMPLE)) == Config()


def test_example_names_every_key_with_its_default() -> None:
    """Who reads the example has read all there is; values that have a default show that one."""
    shown, known = tomllib.loads(uncommented()), msgspec.json.decode(msgspec.json.encode(Config()))
    assert flat(shown).keys() == flat(known).keys()
    no_default = {
        "log_file",
        "targets",
        "policy",
        "web.token_file",
        "web.certificate",
        "web.key",
        "web.control",
    }
    assert {key: value for key, value in flat(shown).items() if key not in no_default} == {
        key: value for key, value in flat(known).items() if key not in no_default
    }
    (policy,) = parse_config(uncommented().encode(), str(EXAMPLE)).policies()
    assert policy.target == "ollama"
    assert shown["policy"][0].keys() == {field.name for field in msgspec.structs.fields(PolicyTable)}


def flat(table: dict[str, object], head: str = "") -> dict[str, object]:
    """Give nested tables as dotted keys."""
    keys: dict[str, object] = {}
    for key, value in table.items():
        keys |= flat(value, f"{head}{key}.") if isinstance(value, dict) else {head + key: value}
    return keys


def unit() -> dict[str, list[str]]:
    """Give the unit's [Unit] and [Service] settings; a key may stand several times."""
    text = UNIT.read_text()
    settings: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE):
        settings.setdefault(key, []).append(value)
    return settings


def test_service_is_ready_before_the_runtimes_start() -> None:
    """Ordering alone, no dependency: a host whose tattle is broken still starts its programs."""
    before = {name for line in unit()["Before"] for name in line.split()}
    profiles = "".join(path.read_text() for path in (ROOT / "tracer" / "profiles").glob("*.toml"))
    known = set(
        re.findall(r'"([^"]+\.service)"', "".join(re.findall(r"^units = .*", profiles, re.MULTILINE)))
    )
    assert "ollama.service" in known
    assert known <= before
    assert {"docker.service", "containerd.service"} <= before
    assert unit()["Type"] == ["notify"]
    assert unit()["WatchdogSec"] == ["30s"]
    assert not {"RequiredBy", "Requires", "Wants"} & unit().keys()


def test_what_was_blocked_is_so_before_ordinary_units_start() -> None:
    """The early unit is ordered before basic.target, for which all units with default dependencies wait."""
    text = (UNIT.parent / "tattle-restore.service").read_text()
    settings = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    assert settings["DefaultDependencies"] == "no"
    assert {"basic.target", "network-pre.target"} <= set(settings["Before"].split())
    assert settings["Type"] == "oneshot"
    assert build().parse_args(settings["ExecStart"].split()[1:]).command == "restore"
    assert "tattle-restore.service" in unit()["After"][0].split()


def test_a_refused_configuration_fails_the_reload() -> None:
    """`systemctl reload` runs a command that ends with the daemon's own error."""
    assert build().parse_args(unit()["ExecReload"][0].split()[1:]).command == "reload"


def test_service_keeps_what_the_next_start_needs() -> None:
    """The paths that the unit makes are those of the default instance."""
    assert unit()["StateDirectory"] == unit()["RuntimeDirectory"] == ["tattle"]
    assert unit()["ExecStart"][0].split()[1] == "run"


def test_ollama_waits_for_the_block_and_not_for_the_daemon() -> None:
    """The drop-in asks the kernel; a restart of tattle does not restart ollama."""
    text = (ROOT / "deploy" / "systemd" / "ollama.service.d" / "tattle.conf").read_text()
    settings = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    assert settings["After"] == settings["Wants"] == "tattle.service"
    assert not {"Requires", "BindsTo", "PartOf"} & settings.keys()
    *_, last = settings["ExecStartPre"].partition("tattle ")
    assert build().parse_args(last.split()).enforced == ["ollama"]


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ([], "no policy"),
        ([{"target": "ollama", "mode": "observe", "active": True}], "no policy"),
        ([{"target": "ollama", "mode": "audit", "active": True}], "only audits"),
        ([{"target": "ollama", "mode": "enforce", "active": False}], "not in force"),
    ],
)
def test_enforced_is_what_the_kernel_holds(targets: list[dict[str, object]], words: str) -> None:
    """`tattle status --enforced` is a finding for all but a policy in force, and says which it is."""
    with pytest.raises(NotEnforced, match=words) as error:
        require_enforced({"targets": targets}, ["ollama"])
    assert error.value.exit_code == 1
    require_enforced({"targets": [{"target": "ollama", "mode": "enforce", "active": True}]}, ["ollama"])
