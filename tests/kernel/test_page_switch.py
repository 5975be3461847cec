"""The page's switch: what it does is real, and who has not been given it cannot flip it. All tried."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.support.cgroups import Jail, tattle
from tests.support.daemon import Tattle, run, until
from tests.support.network import PEER4
from tracer.host.capabilities import HELPING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.network import Lab

ALICE, RUNTIME = 1234, 65534
GUESSES = 30
INSIDE = 'echo $$ >"$0" && exec setpriv --reuid "$1" --regid "$1" --clear-groups "${@:2}"'
"""A command inside of a cgroup, as another user."""


class Said(NamedTuple):
    """What the page's port answered."""

    status: int
    body: Any
    cookie: str


class Page:
    """A daemon with a jail that nobody has blocked yet, and clients of several users."""

    def __init__(self, lab: Lab, daemon: Tattle) -> None:
        self.jail = Jail(lab, daemon)
        self.daemon = daemon
        self.origin = f"http://127.0.0.1:{daemon.port}"
        self.lock = {"do": "lock", "target": self.jail.selector}

    def post(self, path: str, body: object, *headers: str, uid: int = ALICE) -> Said:
        """Ask as this user, from inside of the jail, as a program that knows how; by curl."""
        words = ["curl", "-sS", "-i", "--max-time", "60", "-H", "Content-Type: application/json"]
        words += ["-H", f"Origin: {self.origin}", *(word for one in headers for word in ("-H", one))]
        words += ["-d", json.dumps(body), f"{self.origin}/switch/{path}"]
        done = subprocess.run(
            ["bash", "-c", INSIDE, str(self.jail.inside / "cgroup.procs"), str(uid), *words],
            capture_output=True,
            text=True,
            check=True,
        )
        head, _, raw = done.stdout.replace("\r\n", "\n").partition("\n\n")
        lines = head.split("\n")
        cookie = next((line[12:].split(";")[0] for line in lines if line.startswith("Set-Cookie: ")), "")
        return Said(int(lines[0].split()[1]), json.loads(raw), cookie)

    def link(self, uid: int | None = ALICE) -> str:
        """Return the code of a new link, as root gets it who is this user's sudo."""
        environment = {**os.environ, **({"SUDO_UID": str(uid)} if uid is not None else {})}
        done = run("open", "--instance", self.daemon.instance, env=environment)
        assert done.returncode == 0, done.stderr
        page, _, code = done.stdout.strip().partition("#switch=")
        assert page == f"{self.origin}/"
        return code

    def enter(self) -> tuple[str, str]:
        """Return the headers that carry alice's right."""
        said = self.post("right", {"code": self.link()})
        assert said.status == 200
        return f"Cookie: {said.cookie}", f"X-Tattle-Switch: {said.body['secret']}"

    def locked(self) -> bool:
        """Say whether the jail has a policy, asked of the kernel."""
        return any(one["mode"] == "enforce" for one in self.daemon.ask("status")["targets"])

    def helper(self) -> int:
        """Return the process id of the daemon's helper, the one process beside it."""
        assert self.daemon.process
        pid = self.daemon.process.pid
        (helper,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(helper)


@pytest.fixture
def page(lab: Lab, scratch: Path) -> Iterator[Page]:
    """Start a daemon whose page may switch."""
    daemon = Tattle(scratch)
    try:
        yield Page(lab, daemon.start())
    finally:
        daemon.remove()


def test_what_is_pressed_is_done(page: Page, lab: Lab) -> None:
    """Blocked by the page, a connection that is open is cut, and none can be made; unblocked, one can."""
    port = lab.peer.serve()
    program = lab.start("tcp.py", op="held", host=PEER4, port=port, early=1000, up=1, cgroup=page.jail.inside)
    program.ready()
    lab.drained(port, 1024)
    transfer = {"op": "transfer", "host": PEER4, "port": port, "up": 10, "cgroup": page.jail.inside}
    right = page.enter()
    said = page.post("change", page.lock, *right)
    assert (said.status, said.body["error"]) == (200, None)
    assert "1 open connection cut" in said.body["text"]
    until(lambda: [] if lab.peer.stats(port).get("broken") else ["the peer was not told"])
    assert page.jail.state()["active"]
    assert lab.run("tcp.py", **transfer)[1]["errno"] == "EPERM"
    said = page.post("change", {"do": "unlock", "target": page.jail.selector}, *right)
    assert (said.status, page.locked()) == (200, False)
    assert lab.run("tcp.py", **transfer)[1]["errno"] is None


def test_the_trail_says_who_when_and_what(page: Page) -> None:
    """Each change is in the log, also one that failed, with the user whose link it was."""
    right = page.enter()
    page.post("change", page.lock, *right)
    page.post("change", {"do": "lock", "target": "no such thing"}, *right)
    log = page.daemon.errors.read_text()
    who = 'who="user 1234, from 127.0.0.1"'
    assert f'changed by the page {who} what="block {page.jail.selector}"' in log
    assert f'not changed, though the page asked for it {who} what="block no such thing"' in log


def test_the_runtime_cannot_flip_it(page: Page) -> None:
    """A program that talks to the port, with all the right headers, changes nothing without the secrets."""
    page.enter()
    tries = [
        page.post("change", page.lock, uid=RUNTIME),
        page.post("change", page.lock, "Cookie: tattle-switch=", "X-Tattle-Switch: ", uid=RUNTIME),
        page.post("right", {}, uid=RUNTIME),
        page.post("right", {"code": ""}, uid=RUNTIME),
        page.post("leave", {}, uid=RUNTIME),
    ]
    assert {one.status for one in tries} == {401}
    assert not page.locked()


def test_the_runtime_cannot_use_a_link_it_has_seen(page: Page) -> None:
    """A link is read from a browser's command line in /proc by whom it is not for: it is alice's alone."""
    code = page.link()
    assert page.post("right", {"code": code}, uid=RUNTIME).status == 401
    assert page.post("right", {"code": code}).status == 200
    assert page.post("right", {"code": code}).status == 401


def test_the_runtime_cannot_use_secrets_it_has_seen(page: Page) -> None:
    """A browser sends cookies of 127.0.0.1 to each port: what a runtime gets so opens nothing for it."""
    cookie, secret = page.enter()
    assert page.post("change", page.lock, cookie, secret, uid=RUNTIME).status == 401
    assert page.post("change", page.lock, cookie).status == 401
    assert not page.locked()
    assert page.post("change", page.lock, cookie, secret).status == 200


def test_the_control_socket_gives_no_link_to_users(page: Page) -> None:
    """Only root's processes may ask for a link, by the kernel's word; others do not even get in."""
    code = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])"
    path = f"/run/{page.daemon.instance}/control.sock"
    ask = code + '; s.sendall(b\'{"ask":"open","owner":"x","uid":0}\\n\'); print(s.recv(4096).decode())'
    words = ["python3", "-c", ask, path]
    refused = subprocess.run(words, user=RUNTIME, capture_output=True, text=True, check=False)
    assert "PermissionError" in refused.stderr
    Path(path).chmod(0o666)  # as if somebody had
    let_in = subprocess.run(words, user=RUNTIME, capture_output=True, text=True, check=True)
    assert "only root" in json.loads(let_in.stdout)["error"]
    assert "link" not in let_in.stdout


def test_guessing_gets_nowhere(page: Page) -> None:
    """Most guesses are turned away unread, whoever guesses, and meanwhile alice's link works."""
    code = page.link()
    found = [page.post("right", {"code": f"{code[:-1]}{one}"}, uid=RUNTIME).status for one in "-_" * GUESSES]
    assert set(found) <= {401, 429}
    assert found.count(401) <= 20
    assert page.post("right", {"code": code}).status == 200


def test_without_sudo_the_first_browser_has_it(page: Page) -> None:
    """A root that logged in as root has no user to bind the link to: whoever opens it first, once."""
    said = run("open", "--instance", page.daemon.instance)
    code = said.stdout.strip().partition("#switch=")[2]
    assert "the browser that opens it first" in said.stderr or "a browser of" in said.stderr
    assert page.post("right", {"code": code}).status in {200, 401}


def test_the_helper_has_few_privileges_and_no_port(page: Page) -> None:
    """What is beside the daemon can block and cut, and no more: no ownership, no module, no port, no lock."""
    helper = page.helper()
    status = dict(
        line.split(":\t") for line in Path(f"/proc/{helper}/status").read_text().splitlines() if ":\t" in line
    )
    held = {number for number in range(64) if int(status["CapEff"], 16) >> number & 1}
    assert held <= {int(one) for one in HELPING}
    assert status["CapPrm"] == status["CapEff"] == status["CapBnd"]
    links = [str(one.readlink()) for one in Path(f"/proc/{helper}/fd").iterdir()]
    assert not [link for link in links if link.endswith("/lock")]
    listening = [line.split()[9] for line in Path("/proc/net/tcp").read_text().splitlines() if " 0A " in line]
    assert listening
    assert not {f"socket:[{inode}]" for inode in listening} & set(links)
    assert page.daemon.process
    daemon = Path(f"/proc/{page.daemon.process.pid}/status").read_text()
    assert "CapEff:\t0000008000000000" in daemon  # CAP_BPF alone


def test_without_its_helper_the_daemon_goes_on(page: Page) -> None:
    """A helper that is killed: the page says so, with the command that does it; nothing else is lost."""
    right = page.enter()
    os.kill(page.helper(), signal.SIGKILL)
    said = page.post("change", page.lock, *right)
    assert said.status == 503
    assert "sudo tattle block" in said.body["hint"]
    assert page.post("change", page.lock, *right).status == 503
    page.jail.block()
    assert page.jail.state()["active"]


def test_the_helper_ends_with_the_daemon(page: Page) -> None:
    """Killed, the daemon leaves no process with privileges behind."""
    helper = page.helper()
    page.daemon.kill()
    until(lambda: [f"{helper} lives"] if Path(f"/proc/{helper}/fd").exists() and _lives(helper) else [])


def _lives(pid: int) -> bool:
    try:
        return " Z" not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_it_can_be_taken_away(lab: Lab, scratch: Path) -> None:
    """`control = false`: no link, no path that takes a POST, and a helper that knows of no request."""
    settings = scratch / "off.toml"
    settings.write_text("[web]\ncontrol = false\n")
    daemon = Tattle(scratch, "--config", str(settings))
    try:
        page = Page(lab, daemon.start())
        said = tattle(daemon.instance, "open", code=2)
        assert "does not switch" in said
        assert "[web] control" in said
        assert page.helper()
        with pytest.raises(json.JSONDecodeError):
            page.post("right", {"code": "x"})
    finally:
        daemon.remove()
