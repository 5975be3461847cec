"""`tattle block -- COMMAND`: confined from the first instruction to the last process, and nothing is left."""

from __future__ import annotations

import json
import os
import pty
import select
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import PATIENCE, ROOT, Tattle, command, run, until
from tests.support.network import PEER4

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.cgroups import Judge
    from tests.support.network import Lab

NOBODY = 65534
"""The user who calls sudo here."""
SUDO = {"SUDO_UID": str(NOBODY), "SUDO_GID": str(NOBODY), "SUDO_USER": "nobody"}
SEND = f"import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('{PEER4}', 9))"
LEAVE = "echo $$ >/sys/fs/cgroup/cgroup.procs"


def confined(tattle: Tattle, *words: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run a command under `tattle block`, as a user does through sudo."""
    return run(
        "block", *options, "--instance", tattle.instance, "--", *words, env={**os.environ, **SUDO}, cwd="/"
    )


def left(tattle: Tattle) -> list[str]:
    """Return what is left of an instance without a daemon: pins, policies, cgroups."""
    pins = [str(path) for path in Path("/sys/fs/bpf", tattle.instance).glob("*")]
    file = Path("/var/lib", tattle.instance, "policies.json")
    policies = json.loads(file.read_text()) if file.exists() else []
    own = [one for one in policies if one["source"] == "run"]
    words = ["find", "/sys/fs/cgroup", "-type", "d", "-name", "tattle-run-*"]  # others come and go
    found = subprocess.run(words, capture_output=True, text=True, check=False).stdout.split()
    places = [path for path in found if _is_ours(Path(path))]
    return [*pins, *map(str, own), *places]


def _is_ours(path: Path) -> bool:
    """Others on this host may run commands, too: a cgroup is in use while its runner locks it."""
    return subprocess.run(["flock", "--nonblock", str(path), "true"], check=False).returncode == 0


@pytest.fixture
def alone(scratch: Path) -> Iterator[Tattle]:
    """An instance without a daemon; nothing may be left of it."""
    made = Tattle(scratch)
    try:
        yield made
        assert left(made) == []
    finally:
        made.remove()


def state_of(pid: str) -> str:
    """Return the state of a process as ps shows it; Z: it is dead, and its parent has yet to hear of it."""
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


def test_it_runs_as_the_user_who_called_sudo(alone: Tattle) -> None:
    """With that user's rights, groups and home, and no way to more rights."""
    done = confined(
        alone,
        "sh",
        "-c",
        "id -u; id -g; id -G; echo $HOME $USER $SUDO_UID; grep NoNewPrivs /proc/self/status",
    )
    assert done.returncode == 0, done.stderr
    home = Path("/etc/passwd").read_text().partition("\nnobody:")[2].split(":")[4]
    assert done.stdout.split() == ["65534", "65534", "65534", home, "nobody", "NoNewPrivs:", "1"]
    assert "runs as nobody, blocked" in done.stderr


@pytest.mark.parametrize(("script", "code"), [("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137)])
def test_the_exit_code_is_passed(script: str, code: int, alone: Tattle) -> None:
    """As a shell tells it."""
    assert confined(alone, "sh", "-c", script).returncode == code


def test_a_command_that_cannot_be_started_leaves_nothing(alone: Tattle) -> None:
    """One line that names it, and one with a hint."""
    done = confined(alone, "/no/such/program")
    assert (done.returncode, done.stdout) == (3, "")
    assert "cannot start /no/such/program" in done.stderr
    assert "to mend it:" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("block",), "no target and no command"),
        (("block", "ollama", "--", "true"), "a target and a command"),
        (("block", "--keep", "pull", "--", "true"), "--keep pull"),
        (("block", "ollama", "--keep", "lunch"), "no purpose 'lunch'"),
        (("block", "ollama", "--deny", "a.example+pull"), "'a.example+pull' is no rule"),
        (("block", "ollama", "--allow", "a.example+lunch"), "'+lunch' means nothing"),
        (("unblock", "ollama", "--for", "soon"), "'soon' is no length of time"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(words: tuple[str, ...], said: str, alone: Tattle) -> None:
    """As a usage error that names it."""
    at = words.index("--") if "--" in words else len(words)
    done = run(*words[:at], "--instance", alone.instance, *words[at:])
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "to mend it:" in done.stderr


def test_nothing_of_it_gets_out(lab: Lab, judge: Judge, alone: Tattle) -> None:
    """Neither the command nor a child, nor one in a session of its own, nor one that runs on."""
    before = judge.arrived()
    inside = f"ip netns exec {lab.client.name}"
    tries = f"python3 -c {shlex.quote(SEND)}; setsid python3 -c {shlex.quote(SEND)}"
    lasting = f"(while :; do python3 -c {shlex.quote(SEND)}; done) 2>/dev/null &"
    done = run(
        *("block", "--instance", alone.instance, "--"),
        *shlex.split(f"{inside} sh -c"),
        f"{lasting} {tries}; {tries}; exit 0",
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("PermissionError") >= 4
    assert judge.arrived() == before


def test_no_process_of_the_user_leaves_its_cgroup(alone: Tattle) -> None:
    """Root's cgroups are not the user's to write to."""
    done = confined(alone, "sh", "-c", f"{LEAVE} || echo stays; cat /proc/self/cgroup")
    assert "stays" in done.stdout
    assert "tattle-run-" in done.stdout


def test_what_it_leaves_running_is_ended(alone: Tattle) -> None:
    """Also one that ignores SIGTERM."""
    done = confined(alone, "sh", "-c", "(trap '' TERM; while :; do sleep 1; done) >/dev/null 2>&1 & echo $!")
    assert done.returncode == 0
    until(lambda: [state] if (state := state_of(done.stdout.strip())) not in {"", "Z"} else [])


def test_a_signal_is_passed(alone: Tattle) -> None:
    """One that is sent to tattle alone reaches the command, whose answer is the exit code."""
    script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done"
    words = command("block", "--instance", alone.instance, "--", "sh", "-c", script)
    child = subprocess.Popen(words, cwd=ROOT, env={**os.environ, **SUDO}, stdout=subprocess.PIPE, text=True)
    assert child.stdout
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGTERM)
    assert child.wait(PATIENCE) == 9


class Shell:
    """An interactive shell with job control, on a terminal."""

    def __init__(self) -> None:
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.chdir(ROOT)
            words = ["bash", "--norc", "--noprofile", "-i"]
            os.execvpe("bash", words, {**os.environ, **SUDO, "PS1": "$ "})  # noqa: S606 - no shell around it

    def say(self, text: str) -> None:
        """Type something."""
        os.write(self.fd, text.encode())

    def hear(self, word: str) -> str:
        """Wait until a word is on the terminal; returns all up to there."""
        seen, deadline = "", time.monotonic() + PATIENCE
        while word not in seen:
            assert select.select([self.fd], [], [], deadline - time.monotonic())[0], (
                f"no {word!r} in {seen!r}"
            )
            seen += os.read(self.fd, 4096).decode(errors="replace")
        return seen

    def close(self) -> None:
        """Hang up."""
        os.close(self.fd)
        os.waitpid(self.pid, 0)


@pytest.mark.parametrize("how", ["key", "itself"])
def test_job_control_works(how: str, alone: Tattle) -> None:
    """It stops by a key or by itself, the shell has the terminal back, it goes on, and ends by Ctrl-C."""
    stop = "kill -STOP $$" if how == "itself" else "read -r line"
    script = f"trap 'exit 5' INT; echo rea''dy; {stop}; echo go''ing; while :; do sleep 0.1; done"
    words = shlex.join(command("block", "--instance", alone.instance, "--", "sh", "-c", script))
    shell = Shell()
    try:
        shell.say(f"{words}\n")
        shell.hear("ready")
        if how == "key":
            shell.say("\x1a")
        shell.hear("Stopped")
        shell.say("echo here''again\n")
        shell.hear("hereagain")
        shell.say("fg\n")
        if how == "key":
            shell.hear("fg")
            shell.say("\n")
        shell.hear("going")
        shell.say("\x03")
        shell.say("echo code=$?\n")
        shell.hear("code=5")
        until(lambda: left(alone))
    finally:
        shell.close()


def test_a_runtime_is_known_by_its_command(tattle: Tattle, tmp_path: Path) -> None:
    """With a daemon: its purposes are kept, it stands in `status` while it runs, and no longer."""
    tattle.start()
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\necho ready; read -r line\n")
    program.chmod(0o755)
    words = command(
        "block", "--keep", "pull", "--instance", tattle.instance, "--", str(program), "-hf", "a/b"
    )
    child = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout
    assert child.stdout.readline() == "ready\n"
    (state,) = tattle.ask("status")["targets"]
    assert (state["active"], state["keep"], state["phase"]) == (True, ["pull"], "startup")
    assert any(rule.startswith("allow huggingface.co+") for rule in state["rules"])
    child.communicate("\n", timeout=PATIENCE)
    assert child.returncode == 0
    assert tattle.ask("status")["targets"] == []


def test_a_killed_runner_leaves_its_command_confined(alone: Tattle) -> None:
    """And the next one takes its place when it has ended."""
    words = command("block", "--instance", alone.instance, "--", "sh", "-c", "echo $$; exec sleep 1000")
    child = subprocess.Popen(words, cwd=ROOT, env={**os.environ, **SUDO}, stdout=subprocess.PIPE, text=True)
    assert child.stdout
    pid = int(child.stdout.readline())
    child.kill()
    child.wait(PATIENCE)
    (state,) = alone.ask("status")["targets"]
    assert state["active"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: [str(pid)] if Path(f"/proc/{pid}").exists() else [])
    assert confined(alone, "true").returncode == 0
