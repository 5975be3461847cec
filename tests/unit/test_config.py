"""The configuration: defaults, every key, and errors that quote what is wrong and what was meant."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tracer.config import Config, History, address, load, parse_config
from tracer.daemon.options import RunOptions
from tracer.errors import ConfigError, UsageError
from tracer.session.session import engine_options

WHOLE = b"""
listen = "[::1]:9000"
log_file = "/var/log/x"
targets = ["ollama", "cgroup:/a"]
engine = "libbpf"
program_stats = true
[observe]
loopback = true
[labels]
pid = true
[metrics]
max_destinations = 7
[limits]
flows = 1000
processes = 1000
cgroups = 1000
ring_bytes = 65536
[history]
enabled = false
days = 7
max_mb = 64
"""


def test_every_key_is_read() -> None:
    """And reaches what it is for."""
    config = parse_config(WHOLE, "x")
    assert (config.listen, config.targets, config.metrics.max_destinations) == (
        "[::1]:9000",
        ("ollama", "cgroup:/a"),
        7,
    )
    assert config.history == History(enabled=False, days=7, max_mb=64)
    options = engine_options("tattle", config)
    assert (options.flows_max, options.ring_bytes, options.loopback, options.statistics) == (
        1000,
        65536,
        True,
        True,
    )


def test_an_empty_file_is_the_default() -> None:
    """So is an absent one, as long as nobody asked for it."""
    assert parse_config(b"", "x") == Config()


def test_the_example_shows_the_defaults() -> None:
    """With all its keys taken out of their comments it is valid, and names every key there is."""
    text = (Path(__file__).parents[2] / "deploy" / "tattle.toml").read_text()
    shown = re.sub(r"^# (?=\w+ = |\[\[)", "", text, flags=re.MULTILINE)
    config = parse_config(shown.encode(), "example")
    assert (config.listen, config.limits, config.metrics) == (
        Config().listen,
        Config().limits,
        Config().metrics,
    )


@pytest.mark.parametrize(
    ("text", "words", "mend"),
    [
        ("lissten = 'x'", "unknown key 'lissten'", "'listen'"),
        ("[observe]\nloopbak = true", "unknown key 'observe.loopbak'", "'observe.loopback'"),
        ("[metric]\nmax_destinations = 1", "unknown key 'metric'", "metrics"),
        ("zzzzzzzz = 1", "unknown key 'zzzzzzzz'", "known keys: listen"),
        ("listen = 3", "listen: Expected `str`", ""),
        ("[metrics]\nmax_destinations = 0", "metrics.max_destinations: Expected `int` >= 1", ""),
        ("engine = 'x'", "engine: Invalid", ""),
        ("listen = [", "no TOML", ""),
        ("\xff", "no TOML", ""),
        ("listen = 'nowhere'", "'nowhere' is no address", "HOST:PORT"),
        ("listen = '::1:80'", "'::1:80' is no address", "HOST:PORT"),
        ("targets = ['cgroup:x']", "'cgroup:x' is no target", "cgroup:/PATH"),
        ("[limits]\nring_bytes = 5000", "limits.ring_bytes = 5000", "4194304"),
    ],
)
def test_what_is_wrong_is_quoted(text: str, words: str, mend: str) -> None:
    """With the file's name, and the nearest key that exists where one was mistyped."""
    with pytest.raises(ConfigError) as error:
        parse_config(text.encode("latin-1"), "/etc/tattle/tattle.toml")
    assert words in error.value.message
    assert "/etc/tattle/tattle.toml" in error.value.message
    assert mend in error.value.hint
    assert error.value.hint


def test_a_file_that_was_asked_for_must_exist(tmp_path: Path) -> None:
    """The default one need not."""
    with pytest.raises(ConfigError, match="no such configuration file"):
        load(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path)


def test_the_command_line_wins(tmp_path: Path) -> None:
    """Targets add up, all else replaces."""
    file = tmp_path / "tattle.toml"
    file.write_bytes(WHOLE)
    found = RunOptions(
        config_file=file, listen="127.0.0.1:1", log_file="-", targets=("vllm", "ollama")
    ).effective()
    assert (found.listen, found.log_file) == ("127.0.0.1:1", "-")
    assert found.targets == ("ollama", "cgroup:/a", "vllm")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("127.0.0.1:9753", ("127.0.0.1", 9753)), ("[::]:1", ("::", 1)), ("localhost:0", ("localhost", 0))],
)
def test_addresses_are_taken_apart(text: str, expected: tuple[str, int]) -> None:
    """IPv6 without its brackets."""
    assert address(text) == expected


@pytest.mark.parametrize("text", ["", ":80", "a", "a:", "a:b", "a:65536", "[::1]", "a:-1"])
def test_what_is_no_address_is_a_usage_error(text: str) -> None:
    """That quotes it."""
    with pytest.raises(UsageError, match=re.escape(f"'{text}'")):
        address(text)
