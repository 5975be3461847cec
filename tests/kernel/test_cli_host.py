"""Bad input and bad days: each ends in one line that says what failed and one that says how to mend it."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.daemon import PATIENCE, ROOT, Tattle, command, free_port, run, until, watching
from tests.support.network import cgroup2_root

if TYPE_CHECKING:
    from collections.abc import Iterator

CAP_BPF = 39  # include/uapi/linux/capability.h
MANY = """
import socket
for _ in range({count}):
    with socket.socket() as sock:
        sock.connect_ex(("127.0.0.1", {port}))
"""


def refused(done: subprocess.CompletedProcess[str], code: int, words: str) -> None:
    """Check an error: its code, its two lines, what it names; and that nothing else was said."""
    assert done.returncode == code, done.stderr
    first, second = [line for line in done.stderr.splitlines() if "WARNING" not in line]
    assert words in first
    assert second.startswith("tattle: to mend it: ")
    assert done.stdout == ""


def connects(count: int, port: int | None = None) -> None:
    """Have a short-lived program try to connect to a closed port of loopback."""
    code = MANY.format(count=count, port=port or free_port())
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def attached(instance: str) -> dict[str, bool]:
    """Ask the kernel which hooks of an instance are attached."""
    document = json.loads(run("status", "--instance", instance, "--json").stdout)
    return {hook["hook"]: hook["attached"] for hook in document["hooks"]}


@pytest.fixture
def tattle(tmp_path: Path) -> Iterator[Tattle]:
    """Give a daemon, not started; whatever it leaves is removed."""
    made = Tattle(tmp_path, "--loopback")
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """Give the path of a cgroup that does not exist yet; removed at the end."""
    path = cgroup2_root() / f"tattle-test-{os.getpid()}-{time.monotonic_ns()}"
    yield path
    with contextlib.suppress(FileNotFoundError):
        path.rmdir()


AS_NOBODY = """
import os, sys
import tracer.__main__, tracer.cli.run, tracer.cli.watch, tracer.cli.status, tracer.cli.doctor
import exporters.http.server, exporters.terminal.views
import encodings.ascii, encodings.idna, encodings.latin_1
os.setgroups([]); os.setgid(65534); os.setuid(65534)
sys.exit(tracer.__main__.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("words", [("run",), ("watch", "--for", "1"), ("watch", "--json", "--for", "1")])
def test_not_root_is_told(words: tuple[str, ...]) -> None:
    """Loading needs privileges; without them nothing is attached and nobody sees a traceback."""
    line = [sys.executable, "-c", AS_NOBODY, *words, "--instance", "nobodys"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE)
    refused(done, 3, "root")
    assert "sudo" in done.stderr


def test_doctor_tells_who_is_not_root() -> None:
    """It reports, it does not break off; code 3."""
    line = [sys.executable, "-c", AS_NOBODY, "doctor", "--json"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 3, done.stderr
    checks = {check["check"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["privileges"]["result"] == "fail"
    assert "sudo" in checks["privileges"]["mend"]


def test_doctor_finds_this_host_able() -> None:
    """Every hook is really loaded and attached, and gone again; what cannot be seen is said."""
    done = run("doctor", "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 0, document
    hooks = {check["check"] for check in document["checks"] if check["check"].startswith("hook ")}
    assert {"hook connect4", "hook egress", "hook sockops", "hook cgroup_mkdir"} <= hooks
    assert document["able"]
    assert any("AF_PACKET" in limit for limit in document["limits"])
    assert "ok" in run("doctor").stdout


def test_doctor_names_who_could_send_unseen() -> None:
    """A process that holds a packet socket is named."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM):
        checks = {check["check"]: check for check in json.loads(run("doctor", "--json").stdout)["checks"]}
    assert checks["AF_PACKET"]["result"] == "warn"
    assert f"({os.getpid()})" in checks["AF_PACKET"]["said"]


def test_a_port_in_use_is_named(tattle: Tattle) -> None:
    """Nothing is attached then, and no pin is left."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("run", "--instance", tattle.instance, "--listen", f"127.0.0.1:{port}")
    refused(done, 3, f"127.0.0.1:{port}")
    assert not Path("/sys/fs/bpf", tattle.instance).exists()


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (("run", "--target", "no-such-runtime"), 2, "no-such-runtime"),
        (("run", "--target", "cgroup:relative"), 2, "cgroup:relative"),
        (("run", "--target", "pid:999999999"), 3, "999999999"),
        (("run", "--target", "cgroup:/"), 3, "root cgroup"),
        (("run", "--listen", "nowhere"), 2, "nowhere"),
        (("run", "--config", "/nonexistent.toml"), 2, "/nonexistent.toml"),
        (("run", "--object", "/nonexistent.o"), 3, "/nonexistent.o"),
        (("run", "--log-file", "/nonexistent/log"), 3, "/nonexistent/log"),
        (("run", "--instance", "a/b"), 2, "a/b"),
        (("watch", "cgroup:/no/such", "--for", "1"), 3, "/no/such"),
        (("flows",), 3, "is running"),
    ],
)
def test_what_is_asked_wrongly_is_quoted(
    tattle: Tattle, words: tuple[str, ...], code: int, named: str
) -> None:
    """Usage errors are 2, what is not there is 3."""
    extra = () if "--instance" in words else ("--instance", tattle.instance)
    extra += ("--listen", f"127.0.0.1:{tattle.port}") if words[0] == "run" and "--listen" not in words else ()
    refused(run(*words, *extra), code, named)
    assert not Path("/sys/fs/bpf", tattle.instance).exists()


def test_a_broken_configuration_is_quoted(tattle: Tattle, tmp_path: Path) -> None:
    """With the file, the key and the nearest one that exists."""
    file = tmp_path / "tattle.toml"
    file.write_text("[metrics]\nmax_destination = 5\n")
    done = run("run", "--config", str(file), "--instance", tattle.instance)
    refused(done, 2, f"{file}: unknown key 'metrics.max_destination'")
    assert "metrics.max_destinations" in done.stderr


def test_two_daemons_of_one_instance_do_not_meet(tattle: Tattle) -> None:
    """The second one names the first and leaves everything as it was; another instance runs beside it."""
    tattle.start()
    assert tattle.process is not None
    done = run("run", "--instance", tattle.instance, "--listen", f"127.0.0.1:{tattle.port}")
    refused(done, 3, f"pid {tattle.process.pid}")
    assert all(attached(tattle.instance).values())
    connects(3)
    assert tattle.read()["flows"]


def test_stopping_leaves_nothing(tattle: Tattle) -> None:
    """No pin, no link, no socket; the code is 0, by SIGTERM and by SIGINT."""
    for number in (signal.SIGTERM, signal.SIGINT):
        tattle.start()
        assert len(attached(tattle.instance)) > 10
        links = link_ids(tattle.instance)
        assert tattle.process is not None
        tattle.process.send_signal(number)
        assert tattle.process.wait(PATIENCE) == 0
        assert not Path("/sys/fs/bpf", tattle.instance).exists()
        assert not Path("/run", tattle.instance, "control.sock").exists()
        assert attached(tattle.instance) == {}
        assert not links & all_links()


def link_ids(instance: str) -> set[int]:
    """Give the ids of an instance's links."""
    return {
        hook["link_id"]
        for hook in json.loads(run("status", "--instance", instance, "--json").stdout)["hooks"]
    }


def all_links() -> set[int]:
    """Give the ids of all links on this host, by bpftool."""
    done = subprocess.run(["bpftool", "-j", "link", "show"], capture_output=True, text=True, check=True)
    return {link["id"] for link in json.loads(done.stdout or "[]")}


def test_capabilities_are_given_back(tattle: Tattle) -> None:
    """Every thread keeps CAP_BPF and no other, and there is no way back."""
    tattle.start()
    assert tattle.process is not None
    for status in Path("/proc", str(tattle.process.pid), "task").glob("*/status"):
        sets = dict(line.split(":\t") for line in status.read_text().splitlines() if line.startswith("Cap"))
        assert {name: int(sets[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == dict.fromkeys(
            ("CapEff", "CapPrm", "CapBnd"), 1 << CAP_BPF
        )
        assert int(sets["CapInh"], 16) == int(sets["CapAmb"], 16) == 0


def test_a_full_disk_costs_log_lines_only(tattle: Tattle, tmp_path: Path) -> None:
    """The daemon lives, counts exactly, says how many lines are missing, and writes again when it can."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], check=True)
    try:
        tattle.log = disk / "events.jsonl"
        with mute(tattle, tmp_path):
            tattle.start()
        connects(3000, port := free_port())
        until(lambda: [] if tattle.losses().get("log_full") else ["nothing is counted as lost"], PATIENCE)
        assert sum(flow["attempts"] for flow in tattle.read()["flows"] if flow["remote_port"] == port) == 3000
        subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
        until(lambda: [] if b'"lost"' in tattle.log.read_bytes() else ["the log does not go on"], PATIENCE)
        for line in tattle.log.read_bytes().splitlines():
            json.loads(line)
        assert tattle.stop() == 0
    finally:
        tattle.kill()
        subprocess.run(["umount", "-l", disk], check=True)


@contextlib.contextmanager
def mute(tattle: Tattle, tmp_path: Path) -> Iterator[None]:
    """Keep the readiness socket, which is made beside the log, off the small disk."""
    log = tattle.log
    tattle.options = (*tattle.options, "--log-file", str(log))
    tattle.log = tmp_path / "ready"
    yield
    tattle.log = log


def test_a_log_reader_that_stops_reading_costs_lines_only(tattle: Tattle) -> None:
    """The daemon neither blocks nor grows; what was lost is counted."""
    door = f"/tmp/{tattle.instance}.notify"  # noqa: S108 - removed below
    words = [
        "run",
        "--instance",
        tattle.instance,
        "--listen",
        f"127.0.0.1:{tattle.port}",
        "--log-file",
        "-",
        "--loopback",
    ]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(door)
        notify.settimeout(PATIENCE)
        tattle.process = subprocess.Popen(
            command(*words), cwd=ROOT, stdout=subprocess.PIPE, env={**os.environ, "NOTIFY_SOCKET": door}
        )
        assert b"READY=1" in notify.recv(4096)
        connects(3000)
        until(lambda: [] if tattle.losses().get("log_blocked") else ["nothing is counted as lost"], PATIENCE)
        tattle.process.send_signal(signal.SIGTERM)
        assert b"STOPPING=1" in notify.recv(4096)
    Path(door).unlink()
    assert tattle.process.wait(PATIENCE) == 0


def test_reload_takes_what_is_valid_and_keeps_the_old_else(
    tattle: Tattle, tmp_path: Path, cgroup: Path
) -> None:
    """By SIGHUP and by command: a broken file is told and changes nothing; a valid one adds its target."""
    file = tmp_path / "tattle.toml"
    file.write_text("")
    tattle.options = (*tattle.options, "--config", str(file))
    tattle.start()
    assert tattle.process is not None
    file.write_text("nonsense = 1\n")
    tattle.process.send_signal(signal.SIGHUP)
    until(
        lambda: [] if "the old configuration stays" in tattle.errors.read_text() else ["no error logged"],
        PATIENCE,
    )
    assert "unknown key 'nonsense'" in tattle.errors.read_text()
    refused = run("reload", "--instance", tattle.instance)
    assert refused.returncode == 2
    assert "unknown key 'nonsense'" in refused.stderr
    file.write_text("")
    assert run("reload", "--instance", tattle.instance).stdout == "configuration read again\n"
    file.write_text(f'targets = ["cgroup:/{cgroup.name}"]\n')
    tattle.process.send_signal(signal.SIGHUP)
    until(lambda: [] if tattle.errors.read_text().count("read again") > 1 else ["not read again"], PATIENCE)
    cgroup.mkdir()
    port = connect_inside(cgroup)
    until(
        lambda: (
            []
            if [flow for flow in tattle.read()["flows"] if flow["remote_port"] == port and flow["target"]]
            else ["the flow is in no target"]
        ),
        PATIENCE,
    )
    (found,) = [flow for flow in tattle.read()["flows"] if flow["remote_port"] == port]
    assert found["target"] == f"cgroup:/{cgroup.name}"
    assert tattle.ask("flows", f"cgroup:/{cgroup.name}")["flows"] == [found]


def connect_inside(cgroup: Path) -> int:
    """Have a program inside a cgroup try to connect; returns the port."""
    port = free_port()
    code = f"import os; open({str(cgroup / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
    subprocess.run([sys.executable, "-c", code + MANY.format(count=1, port=port)], check=True, timeout=60)
    return port


def test_an_absent_target_is_awaited(tattle: Tattle, cgroup: Path) -> None:
    """Named in a warning; covered from its first packet on when it appears, and still named when gone."""
    tattle.options = ("--target", f"cgroup:/{cgroup.name}")
    tattle.start()
    assert "no such cgroup" in tattle.errors.read_text()
    cgroup.mkdir()
    port = connect_inside(cgroup)
    cgroup.rmdir()
    (found,) = [flow for flow in tattle.read()["flows"] if flow["remote_port"] == port]
    assert (found["target"], found["cgroup"]) == (f"cgroup:/{cgroup.name}", f"/{cgroup.name}")


def test_health_is_asked_of_the_kernel(tattle: Tattle) -> None:
    """When somebody detaches a hook, health, status and metrics say so."""
    tattle.start()
    assert get(tattle, "/healthz") == (200, "ok\n")
    hooks = json.loads(run("status", "--instance", tattle.instance, "--json").stdout)["hooks"]
    egress = next(hook["link_id"] for hook in hooks if hook["hook"] == "egress")
    subprocess.run(["bpftool", "link", "detach", "id", str(egress)], check=True)
    code, text = get(tattle, "/healthz")
    assert (code, text) == (503, "hook egress is not attached\n")
    assert attached(tattle.instance)["egress"] is False
    assert 'tattle_hook_attached{hook="egress"} 0.0' in get(tattle, "/metrics")[1]


def get(tattle: Tattle, path: str) -> tuple[int, str]:
    """Ask the daemon's HTTP server."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{tattle.port}{path}", timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize("daemon", [False, True])
def test_watch_gives_an_event_a_line(tattle: Tattle, cgroup: Path, *, daemon: bool) -> None:
    """With and without a daemon: of the wanted target only, and gone without a trace."""
    cgroup.mkdir()
    if daemon:
        tattle.start()
    process = watching("--json", f"cgroup:/{cgroup.name}", "--instance", tattle.instance)
    assert process.stdout is not None
    connects(5)
    port = connect_inside(cgroup)
    event = json.loads(process.stdout.readline())
    assert (event["event"], event["remote_port"], event["cgroup"]) == ("connect", port, f"/{cgroup.name}")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert {json.loads(line)["remote_port"] for line in out.splitlines()} <= {port}
    assert bool(attached(tattle.instance)) is daemon


def test_watch_ends_in_time_and_with_its_reader(tattle: Tattle, cgroup: Path) -> None:
    """--for ends it with 0; so does a reader that leaves, as `head` does."""
    cgroup.mkdir()
    process = watching("--json", "--for", "0.5", "--instance", tattle.instance)
    assert process.wait(PATIENCE) == 0
    process = watching(f"cgroup:/{cgroup.name}", "--instance", tattle.instance)
    assert process.stdout is not None
    process.stdout.close()
    connect_inside(cgroup)
    assert process.wait(PATIENCE) == 0
    assert process.stderr is not None
    assert process.stderr.read() == b""


def test_watch_draws_a_table_on_a_terminal(tattle: Tattle, cgroup: Path) -> None:
    """With who and where; Ctrl-C ends it with 0 and the cursor comes back."""
    cgroup.mkdir()
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        command("watch", f"cgroup:/{cgroup.name}", "--instance", tattle.instance),
        cwd=ROOT,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "140", "LINES": "30"},
    )
    os.close(terminal)
    text = read_until(controller, rb"tattle watch")
    port = connect_inside(cgroup)
    text += read_until(controller, rb"127\.0\.0\.1:%d" % port)
    process.send_signal(signal.SIGINT)
    text += read_until(controller, rb"\x1b\[\?25h")
    assert process.wait(PATIENCE) == 0
    os.close(controller)
    assert b"Traceback" not in text


def read_until(controller: int, pattern: bytes) -> bytes:
    """Read a terminal until something is on it."""
    text, deadline = b"", time.monotonic() + PATIENCE
    while not re.search(pattern, re.sub(rb"\x1b\[[0-9;]*m", b"", text)):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([controller], [], [], left)[0]:
            raise AssertionError(f"{pattern!r} is not in {text[-2000:]!r}")
        text += os.read(controller, 1 << 16)
    return text


def test_a_slow_watcher_loses_lines_and_is_told(tattle: Tattle) -> None:
    """The daemon goes on; once the watcher reads again, a `lost` line says how many are missing."""
    tattle.start()
    with socket.socket(socket.AF_UNIX) as door:
        door.settimeout(PATIENCE)
        door.connect(f"/run/{tattle.instance}/control.sock")
        door.sendall(b'{"ask": "watch"}\n')
        until(lambda: flooded(tattle))
        lines = door.makefile("rb")
        lost = next(event for event in map(json.loads, lines) if event.get("event") == "lost")
    assert (lost["result"], lost["packets_out"] > 0) == ("watcher_slow", True)


def flooded(tattle: Tattle) -> list[str]:
    """Make events until a watcher's buffer is full."""
    connects(3000)
    return [] if tattle.losses().get("watcher_slow") else ["nothing is counted as lost"]


def test_the_control_socket_takes_no_nonsense(tattle: Tattle) -> None:
    """Broken questions are answered by an error; hang-ups and floods leave the daemon as it was."""
    tattle.start()
    for question, words in (
        (b"{\n", "no question"),
        (b'{"ask":"x"}\n', "nobody answers"),
        (b"[1]\n", "no question"),
    ):
        assert words in ask(tattle, question)["error"]
    assert "cgroup" in ask(tattle, b'{"ask":"flows","targets":["cgroup:/no/such"]}\n')["error"]
    with socket.socket(socket.AF_UNIX) as door:
        door.connect(f"/run/{tattle.instance}/control.sock")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            door.sendall(b"x" * (4 << 20))
    assert Path("/run", tattle.instance, "control.sock").stat().st_mode & 0o077 == 0
    assert "flows" in tattle.ask("flows")


def ask(tattle: Tattle, question: bytes) -> dict[str, Any]:
    """Put a question to the control socket and return the first line of its answer."""
    with socket.socket(socket.AF_UNIX) as door:
        door.settimeout(PATIENCE)
        door.connect(f"/run/{tattle.instance}/control.sock")
        door.sendall(question)
        found: dict[str, Any] = json.loads(door.makefile("rb").readline())
        return found
