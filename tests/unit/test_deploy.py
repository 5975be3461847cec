"""What stands in deploy/ works as it stands there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec

from tracer.config import Config, PolicyTable, parse_config

ROOT = Path(__file__).resolve().parents[2]
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
    shown, known = tomllib.loads(uncommented()), msgspec.to_builtins(Config())
    assert flat(shown).keys() == flat(known).keys()
    no_default = {"log_file", "targets", "policy"}
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
    assert {"ollama.service", "docker.service"} <= set(unit()["Before"][0].split())
    assert unit()["Type"] == ["notify"]
    assert not {"RequiredBy", "Requires", "Wants"} & unit().keys()


def test_service_keeps_what_the_next_start_needs() -> None:
    """The paths that the unit makes are those of the default instance."""
    assert unit()["StateDirectory"] == unit()["RuntimeDirectory"] == ["tattle"]
    assert unit()["ExecStart"][0].split()[1] == "run"
