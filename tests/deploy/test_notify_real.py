"""`tattle notify` of a real daemon: runtimes in a miniature internet, on a real notification server."""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.deploy.stage import EVIL_HOST, WATCHED, Stage, put_up
from tests.support.daemon import PATIENCE, until
from tests.support.desktop import ADM, USER, Session

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Put up runtimes that talk."""
    with put_up(tmp_path_factory.mktemp("stage")) as made:
        yield made


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    """Log the user in."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    os.chown(tmp_path, USER.pw_uid, USER.pw_gid)
    with ExitStack() as stack:
        yield Session(stack, tmp_path)


def heard(stage: Stage) -> list[str]:
    """Complain while no desktop is connected to the daemon."""
    text = Path("/proc/net/unix").read_text()
    path = f"/run/{stage.tattle.instance}/notices.sock"
    connected = [line for line in text.splitlines() if line.endswith(path) and line.split()[5] == "03"]
    return [] if connected else ["no desktop is connected"]


def watch(stage: Stage, session: Session) -> subprocess.Popen[bytes]:
    """Start `tattle notify` as a member of adm, and wait until it hears the daemon."""
    process = session.notify(stage.tattle.instance, ADM)
    until(lambda: heard(stage))
    return process


PHONING = [["telemetry.example", 2_000, 100], [EVIL_HOST, 10, 10], ["ollama.com", 6_000, 400]]


def test_a_desktop_is_told_what_a_model_should_not_do(stage: Stage, session: Session) -> None:
    """New unexpected destinations come as one notice, data during a prompt with its purpose; names are text.

    Each comes with the command that acts. It takes no root.
    """
    watch(stage, session)
    stage.answer("/api/chat", hosts=PHONING)
    text = session.shows("NORMAL ", "2 unexpected destinations")
    assert "telemetry.example: not in its profile during a prompt" in text
    assert EVIL_HOST in text.replace("&lt;", "<").replace("&gt;", ">")
    assert f"Stop it: sudo tattle block {WATCHED} --instance {stage.tattle.instance}" in text
    text = session.shows("sent data while it answered a prompt", "ollama.com: ")
    assert "ollama.com: prompts for a cloud model" in text


def test_it_lives_through_restarts(stage: Stage, session: Session) -> None:
    """Of the daemon and of the notification server; what was told of is not told of again."""
    process = watch(stage, session)
    stage.answer("/api/chat", hosts=PHONING[:1])
    session.shows("an unexpected destination")
    session.server.terminate()
    session.server.wait(PATIENCE)
    assert stage.tattle.stop() == 0
    stage.tattle.start()
    until(lambda: heard(stage))
    session.serve()
    stage.answer("/api/chat", hosts=[PHONING[0], PHONING[2]])
    session.shows("sent data while it answered a prompt", "ollama.com: ")
    assert not [text for text in session.seen() if "telemetry" in text]
    assert process.poll() is None


def test_a_block_that_is_not_in_force_is_told(stage: Stage, session: Session) -> None:
    """As a critical notice that names it, with the command that mends it; also where it was so before."""
    link = next(hook["link_id"] for hook in stage.tattle.ask("status")["hooks"] if hook["hook"] == "egress")
    subprocess.run(["bpftool", "link", "detach", "id", str(link)], check=True)
    watch(stage, session)
    text = session.shows("CRITICAL A block is not in force", "hook egress is not attached")
    assert f"sudo tattle restore --instance {stage.tattle.instance}" in text
