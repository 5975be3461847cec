"""The systemd unit: systemd takes it, and the daemon lives with what it leaves it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import PATIENCE, ROOT, Tattle, command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

UNIT = ROOT / "deploy" / "systemd" / "tattle.service"


def setting(key: str) -> list[str]:
    """Give the words of one setting of the unit, all its lines together."""
    found = re.findall(rf"^{key}=(.*)$", UNIT.read_text(), re.MULTILINE)
    assert found
    return [word for line in found for word in line.split()]


def verify(unit: Path) -> tuple[int, str]:
    """Have systemd read a unit; give its exit code and what it found."""
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], check=False, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("unit", ["tattle.service", "tattle-restore.service"])
def test_systemd_accepts_the_unit(unit: str, tmp_path: Path) -> None:
    """Every setting is one that systemd knows, every value one that it takes."""
    for name in ("tattle.service", "tattle-restore.service"):
        text = (UNIT.parent / name).read_text()
        (tmp_path / name).write_text(text.replace("/opt/tattle/bin/tattle", sys.executable))
    assert verify(tmp_path / unit) == (0, "")


def test_systemd_accepts_the_drop_in_for_ollama(tmp_path: Path) -> None:
    """Laid over a unit such as ollama's, it is read without a complaint; a misspelt key would be one."""
    (tmp_path / "ollama.service.d").mkdir()
    (tmp_path / "ollama.service").write_text("[Service]\nExecStart=/bin/true\n")
    drop_in = UNIT.parent / "ollama.service.d" / "tattle.conf"
    (tmp_path / "ollama.service.d" / "tattle.conf").write_text(drop_in.read_text())
    (tmp_path / "tattle.service").write_text("[Service]\nType=oneshot\nExecStart=/bin/true\n")
    assert verify(tmp_path / "ollama.service") == (0, "")


def test_its_exposure_gets_no_worse() -> None:
    """`systemd-analyze security` gives the score that deploy/README.md tells, or a better one."""
    shown = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", UNIT],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = re.search(r"Overall exposure level for tattle\.service: ([\d.]+)", shown)
    told = re.search(r"says \*\*([\d.]+)\*\*", (ROOT / "deploy" / "README.md").read_text())
    assert found is not None
    assert told is not None
    assert float(found[1]) <= float(told[1])


def expand(group: str) -> set[str]:
    """Give the system calls of a group of systemd's, groups in it included."""
    listed = subprocess.run(
        ["systemd-analyze", "syscall-filter", group], check=True, capture_output=True, text=True
    ).stdout
    calls: set[str] = set()
    for line in (line.strip() for line in listed.splitlines()[1:]):
        if line.startswith("@"):
            calls |= expand(line)
        elif line and not line.startswith("#"):
            calls.add(line)
    return calls


def limits() -> list[str]:
    """Give what runs a command with the unit's capabilities and no others."""
    kept = ["-all", *(f"+{name.removeprefix('CAP_').lower()}" for name in setting("CapabilityBoundingSet"))]
    return ["setpriv", "--no-new-privs", "--inh-caps=-all", f"--bounding-set={','.join(kept)}"]


def tattle_run(tattle: Tattle) -> list[str]:
    """Give the command line of the daemon."""
    words = ["run", "--instance", tattle.instance, "--listen", f"127.0.0.1:{tattle.port}"]
    return command(*words, "--log-file", str(tattle.log))


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Run the daemon with the unit's capabilities and no others; give its system calls, a line each.

    It starts, is scraped and asked, reads its configuration again, and ends.
    """
    scratch = tmp_path_factory.mktemp("service")
    tattle = Tattle(scratch)
    calls = scratch / "calls"
    traced = [*limits(), "strace", "-f", "-qq", "-o", str(calls), *tattle_run(tattle)]
    with tattle.errors.open("wb") as errors:
        strace = subprocess.Popen(traced, cwd=ROOT, stdout=errors, stderr=errors, start_new_session=True)
    try:
        await_line(strace, tattle.errors, "hooks attached")
        for path in ("metrics", "healthz"):
            fetch(f"http://127.0.0.1:{tattle.port}/{path}")
        tattle.ask("flows")
        os.killpg(strace.pid, signal.SIGHUP)
        await_line(strace, tattle.errors, "configuration read again")
        os.killpg(strace.pid, signal.SIGINT)
        assert strace.wait(PATIENCE) == 0, tattle.errors.read_text()
        yield calls.read_text().splitlines()
    finally:
        if strace.poll() is None:
            os.killpg(strace.pid, signal.SIGKILL)
            strace.wait()
        tattle.remove()


def fetch(url: str) -> None:
    """Have curl read a page, which must be there."""
    done = subprocess.run(["curl", "-sSf", "-m", "20", url], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def await_line(process: subprocess.Popen[bytes], log: Path, words: str) -> None:
    """Wait until the daemon has said WORDS; tracing makes it slow, hence a long bound."""
    deadline = time.monotonic() + 6 * PATIENCE
    while words not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def test_the_filter_lets_every_call_through(trace: list[str]) -> None:
    """With the unit's SystemCallFilter nothing that the daemon does is refused."""
    made = {found[1] for line in trace if (found := re.match(r"\d+ +([a-z]\w*)\(", line))}
    words = setting("SystemCallFilter")
    allowed = {word for word in words if word[0] not in "@~"}
    for group in [word for word in words if word.startswith("@")]:
        allowed |= expand(group)
    for group in [word[1:] for word in words if word.startswith("~")]:
        allowed -= expand(group)
    assert {"bpf", "socket", "capset"} <= made
    assert made <= allowed


def test_it_opens_no_other_kind_of_socket(trace: list[str]) -> None:
    """With the unit's RestrictAddressFamilies nothing is refused, and nothing ever connects out."""
    families = {found[1] for line in trace if (found := re.search(r"socket\((AF_\w+)", line))}
    assert families
    assert families <= set(setting("RestrictAddressFamilies"))
    connected = [line for line in trace if re.search(r" connect\(", line) and "AF_UNIX" not in line]
    assert connected == []


def test_it_goes_on_after_it_was_killed(tmp_path: Path) -> None:
    """With the unit's capabilities the next daemon takes over what a killed one left (Restart=on-failure)."""
    tattle = Tattle(tmp_path)
    try:
        for end in (signal.SIGKILL, signal.SIGINT):
            with tattle.errors.open("wb") as errors:
                daemon = subprocess.Popen(
                    [*limits(), *tattle_run(tattle)], cwd=ROOT, stdout=errors, stderr=errors
                )
            await_line(daemon, tattle.errors, "hooks attached")
            daemon.send_signal(end)
            code = daemon.wait(PATIENCE)
        assert code == 0, tattle.errors.read_text()
    finally:
        tattle.remove()
