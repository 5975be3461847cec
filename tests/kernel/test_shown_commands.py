"""Every command that our pages show is run: as it stands, or in a form that spares this host."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.documented import PAGES, ROOT, arguments, is_tattle, name, shown
from tests.support.daemon import PATIENCE, Tattle, free_port, works

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.network import Lab

# What a test may not do to the host that it runs on, and who looks at it instead.
ELSEWHERE = {
    "systemctl": "test_service.py asks systemd about the unit",
    "journalctl": "needs the service",
    "apt-get": "deploy/packages.sh calls it",
    "docker": "tests/deploy/test_compose.py asks compose about the file",
    "git": "this is a clone",
    "python3": "the make target of the same page calls it",
    "pytest": "it is what runs now",
}

NEED_OPERANDS = ("block", "unblock", "prove", "suggest", "verify")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tattle]:
    """Run a daemon with every option that the README shows for it."""
    scratch = tmp_path_factory.mktemp("readme")
    options = ("--config", str(ROOT / "deploy" / "tattle.toml"), "--target", "ollama", "--loopback")
    tattle = Tattle(scratch, *options, "--allow-missing", "sock_create")
    try:
        yield tattle.start()
        assert tattle.stop() == 0
    finally:
        tattle.remove()


def asked_of_the_daemon() -> list[tuple[str, ...]]:
    """Give the commands of tattle's that read; `run` is what the fixture does.

    Those that need an operand are only spoken of when they stand without one. `prove` and `verify` have a
    test of their own: test_shown_proofs.py; so has `notify`: tests/deploy/test_notify.py.
    """
    spoken_of = {("tattle", name) for name in NEED_OPERANDS}
    known = [words for words in shown() if is_tattle(words) and words[1:2] != ("run",)]
    mine = [words for words in known if words[1:2] not in (("prove",), ("verify",), ("notify",))]
    whole = [words for words in mine if len(words) > 1 and words not in spoken_of]
    return sorted(whole, key=lambda words: (words[1], "--for" not in words, words))  # a lift, then its end


@pytest.mark.parametrize("words", asked_of_the_daemon(), ids=" ".join)
def test_tattle_commands_work(daemon: Tattle, lab: Lab, tmp_path: Path, words: tuple[str, ...]) -> None:
    """Each does what it says and exits with 0; the container that a page calls NAME is one of the lab's."""
    line = arguments(words)
    confined: list[str] = []
    if "--" in line:  # the program that a page names: by its name, it does nothing
        program = tmp_path / Path(line[line.index("--") + 1]).name
        shutil.copy2("/usr/bin/true", program)
        line, confined = line[: line.index("--")], ["--", str(program)]
    if "container:NAME" in line:
        line[line.index("container:NAME")] = f"container:{lab.container().short_id}"
    if line[0] != "unblock":
        line = [word for word in line if not word.startswith("--for") and not word.isdecimal()]
    bounded = ["--for", "0.5"] if line[0] == "watch" else []
    works(*line, *bounded, "--instance", daemon.instance, *confined)


def test_metrics_and_health_are_where_the_readme_says(daemon: Tattle) -> None:
    """Both URLs of the README answer, on the port that was asked for."""
    paths = set(re.findall(r"http://127\.0\.0\.1:9753(/\w+)", (ROOT / "README.md").read_text()))
    assert "/metrics" in paths
    for path in paths | {"/healthz"}:
        with urllib.request.urlopen(f"http://127.0.0.1:{daemon.port}{path}", timeout=PATIENCE) as answer:
            assert answer.status == 200


def test_make_run_starts_and_ends(tmp_path: Path) -> None:
    """`make run` serves the metrics in the foreground until Ctrl-C, and then leaves nothing attached."""
    instance, port = f"readme{os.getpid()}", free_port()
    words = f"--instance {instance} --listen 127.0.0.1:{port} --config {ROOT}/deploy/tattle.toml"
    log = tmp_path / "output"
    with log.open("wb") as out:
        run = subprocess.Popen(
            ["make", "run", f"ARGS={words}"], cwd=ROOT, stdout=out, stderr=out, start_new_session=True
        )
    try:
        wait_for_health(port, run)
        os.killpg(run.pid, signal.SIGINT)
        run.wait(PATIENCE)
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
    said_by_it = log.read_text()
    assert "Traceback" not in said_by_it
    assert f"http://127.0.0.1:{port}/" in said_by_it
    assert not Path("/sys/fs/bpf", instance).exists()


def make(*words: str) -> None:
    """Run make, which must succeed."""
    done = subprocess.run(["make", *words], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def wait_for_health(port: int, run: subprocess.Popen[bytes]) -> None:
    """Wait until the daemon answers; a bound of minutes, as `make run` may have to build first."""
    deadline = time.monotonic() + 300
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=PATIENCE).close()
        except OSError:
            assert run.poll() is None, "make run ended"
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return


def test_make_install_and_uninstall(tmp_path: Path) -> None:
    """`make install` gives a command that works, a unit that calls it, a configuration; then all is gone."""
    places = {"PREFIX": "opt", "BINDIR": "bin", "UNITDIR": "units", "ETCDIR": "etc", "SHAREDIR": "share"}
    where = [f"{key}={tmp_path / folder}" for key, folder in places.items()]
    make("install", *where)
    tattle = tmp_path / "bin" / "tattle"
    version = subprocess.run([tattle, "--version"], cwd="/", check=True, capture_output=True, text=True)
    assert version.stdout.startswith("tattle ")
    assert f"ExecStart={tmp_path}/opt/bin/tattle run" in (tmp_path / "units" / "tattle.service").read_text()
    assert (tmp_path / "etc" / "tattle.toml").exists()
    make("uninstall", *where)
    assert not tattle.exists()
    assert not (tmp_path / "opt").exists()
    assert (tmp_path / "etc" / "tattle.toml").exists(), "the user's own file"


@pytest.mark.parametrize("words", [words for words in shown() if words[0] == "make"], ids=" ".join)
def test_make_knows_its_targets(words: tuple[str, ...]) -> None:
    """Every other `make ...` is planned to its end: what make would run, it finds."""
    make("-n", *arguments(words))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_command_is_left_out(page: Path) -> None:
    """A shell block shows nothing that no test looks at."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    for line in "".join(blocks).splitlines():
        word = line.removeprefix("sudo ").split()[0] if line.strip() else "make"
        assert word in {"make", "tattle", "curl", "#", *ELSEWHERE}, line
