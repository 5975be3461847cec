"""The command line: options anywhere, help that helps, errors in two lines, codes by contract."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tracer.__main__ import main
from tracer.cli import parser as cli
from tracer.cli.status import status
from tracer.daemon import control
from tracer.errors import DaemonAbsent, TattleError

COMMANDS = cli.COMMANDS


def parsed(*arguments: str) -> dict[str, object]:
    """Parse without running."""
    return vars(cli.build().parse_args(list(arguments)))


@pytest.mark.parametrize(
    "arguments",
    [
        ("watch", "--json", "ollama", "--for", "3", "unit:x", "--instance", "i"),
        ("watch", "ollama", "unit:x", "--instance", "i", "--for", "3", "--json"),
        ("--instance", "i", "watch", "--json", "--for", "3", "ollama", "unit:x"),
    ],
)
def test_options_stand_anywhere(arguments: tuple[str, ...]) -> None:
    """Before, between and after the operands."""
    found = parsed(*arguments)
    assert (found["json"], found["targets"], found["seconds"], found["instance"]) == (
        True,
        ["ollama", "unit:x"],
        3.0,
        "i",
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With a description, an example and the exit codes."""
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "examples:" in text
    assert "exit codes:" in text
    assert f"tattle {command}" in text


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """And where things are."""
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(re.search(rf"^ +{command} +\w", text, re.MULTILINE) for command in COMMANDS)
    assert "/etc/tattle/tattle.toml" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["wtch"], "wtch"),
        (["watch", "--for", "-1"], "-1"),
        (["watch", "--for", "x"], "x"),
        (["watch", "--what"], "--what"),
        (["status", "operand"], "operand"),
        (["flows", "--instance", "../x"], "../x"),
    ],
)
def test_a_usage_error_quotes_it(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two lines on standard error, code 2."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert not out
    assert len(err.splitlines()) == 2
    assert words in err.splitlines()[0]
    assert err.splitlines()[1].startswith("tattle: to mend it: ")


def test_flows_without_a_daemon_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """Code 3, naming the instance, with the command that starts one."""
    assert main(["flows", "--instance", "no-such-instance"]) == 3
    first, second = capsys.readouterr().err.splitlines()
    assert first == "tattle: no tattle daemon 'no-such-instance' is running"
    assert "tattle run --instance no-such-instance" in second


def test_debug_shows_where_it_went_wrong() -> None:
    """Only then."""
    with pytest.raises(DaemonAbsent):
        main(["flows", "--instance", "no-such-instance", "--debug"])


def test_hostile_bytes_in_an_error_are_escaped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error may quote anything."""

    def fail(*_: object) -> None:
        raise TattleError("\x1b[2J", "a\nb")

    monkeypatch.setattr(control, "flows", fail)
    assert main(["flows"]) == 3
    assert capsys.readouterr().err == "tattle: \\x1b[2J\ntattle: to mend it: a; b\n"


def test_status_of_nothing_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing attached is a fact, not a failure: empty lists, no engine."""

    def absent(_: str) -> None:
        raise DaemonAbsent("nothing", "")

    monkeypatch.setattr("tracer.cli.status.Engine.attach_readonly", absent)
    found = status("x")
    assert list(found) == ["engine", "kernel", "hooks", "maps", "targets", "losses"]
    assert (found["engine"], found["hooks"], found["maps"], found["targets"], found["losses"]) == (
        None,
        [],
        [],
        [],
        {},
    )


def test_the_daemon_stays_small() -> None:
    """Neither parsing nor the daemon's own modules load what only printing needs."""
    code = (
        "import sys; import tracer.log, tracer.daemon.start\n"
        "from tracer.cli.parser import parse; parse(['run'])\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('rich', 'argcomplete')])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """One line."""
    with pytest.raises(SystemExit):
        main(["--version"])
    assert re.fullmatch(r"tattle \d+\.\d+\.\d+\n", capsys.readouterr().out)
