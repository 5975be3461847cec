"""`prove` on real commands: what left is said to the byte, and nothing is promised that was not seen."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import PATIENCE, ROOT, Tattle, command, run, until, works
from tests.support.network import PEER4, UNREACHABLE4
from tests.support.packet_counters import enter
from tests.support.proving import Prover

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.cgroups import Jail
    from tests.support.network import Lab

LOOPBACK = """
import socket
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
peer, _ = server.accept()
client.sendall(b"x" * 5000); client.close()
while peer.recv(9000): pass
"""
SEND = "import socket; socket.socket(2, 2).sendto(b'x' * 32, ('{host}', {port}))"
PACKET = """
import socket
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
sock.bind(("wire", 0))
sock.send(b"\\xff" * 12 + b"\\x08\\x00" + b"\\0" * 46)
"""
HOLD = """
import socket, sys
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
print(1, flush=True)
sys.stdin.read()
"""
BURST = """
import socket
for _ in range(5000):
    with socket.socket() as sock:
        sock.connect_ex(("127.0.0.1", 1))
"""
MANY = """
import socket
sock = socket.socket(2, 2)
for port in range(20000, 20100):
    sock.sendto(b"x", ("127.0.0.1", port))
"""


@pytest.fixture
def prover(lab: Lab, scratch: Path) -> Prover:
    """Give `prove` where no daemon runs."""
    return Prover(lab, scratch, f"nobody{os.getpid()}")


def python(code: str, **values: object) -> list[str]:
    """Return the command that runs this code."""
    return [sys.executable, "-c", code.format(**values) if values else code]


def test_a_download_is_egress(prover: Prover, lab: Lab) -> None:
    """To the byte, as the wire's ends counted it; the command's output and exit code are its own."""
    port = lab.peer.serve()
    words = prover.traffic("tcp.py", op="transfer", host=PEER4, port=port, up=70_000, down=30_000)
    proof = prover.run(*words)
    assert (proof.code, proof.verdict, proof.report["exit_code"]) == (1, "egress", 0)
    assert json.loads(proof.out)
    assert "egress: something left" in proof.err
    (flow,) = proof.flows(remote_port=port)
    wire = lab.wire("tcp", PEER4, port)
    assert (flow["bytes_out"], flow["bytes_in"]) == (wire.bytes_out, wire.bytes_in)
    assert proof.report["totals"]["internet"]["bytes_out"] == wire.bytes_out
    assert proof.report["timeline"]["samples"][-1][1] == wire.bytes_out
    assert [mark for mark in proof.report["timeline"]["marks"] if mark["remote_port"] == port]


def test_loopback_is_none(prover: Prover) -> None:
    """A program that talks to itself sent nothing; it is listed all the same."""
    proof = prover.run(*python(LOOPBACK))
    assert (proof.code, proof.verdict) == (0, "no-egress"), proof.report["reasons"]
    assert proof.report["totals"]["loopback"]["bytes_out"] > 5000
    assert proof.report["accepted"]["loopback"]["bytes_in"] > 5000
    assert not any(proof.report["totals"]["internet"].values())
    assert all(hook["attached"] for hook in proof.report["hooks"])
    assert {hook["hook"] for hook in proof.report["hooks"]} >= {"connect4", "egress", "ingress", "sockops"}


def test_a_proxy_on_this_host_is_said_first(
    prover: Prover, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What went through it left from another process: said before all else, and never with the password."""
    proxy = lab.start("api.py", name="proxy")
    proxy.go(json.dumps({"do": "listen", "host": "127.0.0.1"}))
    port = proxy.ready()["port"]
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:sesame@127.0.0.1:{port}")
    proof = prover.run("true")
    (told,) = proof.report["proxies"]
    assert (told["variable"], told["local"], told["server"]["pid"]) == ("HTTPS_PROXY", True, proxy.pid)
    first, last = proof.report["reasons"]
    assert first == told["note"]
    assert f"name {told['server']['selector']} as a target, too" in first
    assert last == "nothing was sent beyond this host, and nothing tried to"
    assert proof.err.splitlines()[1] == f"  - {first}"
    assert "sesame" not in json.dumps(proof.report) + proof.err
    proxy.go("")
    proxy.process.kill()


def test_a_question_to_a_loopback_resolver_is_egress(prover: Prover) -> None:
    """Names carry data out, wherever the resolver is."""
    proof = prover.run(*python(SEND, host="127.0.0.53", port=53))
    assert (proof.code, proof.verdict) == (1, "egress")
    (flow,) = proof.flows(remote_port=53)
    assert (flow["scope"], flow["bytes_out"]) == ("loopback", 60)


def test_an_attempt_without_a_route_left_nothing(prover: Prover) -> None:
    """It is told of."""
    proof = prover.run(*prover.traffic("tcp.py", op="probe", host=UNREACHABLE4, port=443))
    assert (proof.verdict, proof.report["totals"]["internet"]["attempts"]) == ("no-egress", 1)
    assert any("no route" in reason for reason in proof.report["reasons"])


def test_children_count_and_those_left_running_are_told(prover: Prover) -> None:
    """A daemon that the command leaves behind does not hide what was sent before."""
    code = SEND.format(host=PEER4, port=9)
    script = f'{sys.executable} -c "{code}"; sleep 60 >/dev/null 2>&1 & exit 7'
    proof = prover.run("sh", "-c", script)
    left = proof.report["left_running"]
    for one in left:
        os.kill(one["pid"], signal.SIGKILL)
    assert "sleep" in {one["comm"] for one in left}
    assert (proof.verdict, proof.report["exit_code"]) == ("egress", 7)


def test_what_no_hook_sees_is_incomplete(prover: Prover) -> None:
    """A packet socket that lives for a moment, of a child: the kernel tells of the call itself."""
    proof = prover.run("sh", "-c", f"{sys.executable} -c '{PACKET}'")
    assert (proof.code, proof.verdict) == (4, "incomplete")
    assert any("AF_PACKET" in one["what"] for one in proof.report["unseen"])
    assert "no-egress" not in proof.err


def test_who_leaves_the_cgroup_is_followed(prover: Prover, lab: Lab) -> None:
    """Root can move a process out of the cgroup; what it sends from there is no secret."""
    code = SEND.format(host=PEER4, port=9)
    script = f'echo 0 >{lab.cgroup_root}/cgroup.procs; {sys.executable} -c "{code}"; true'
    proof = prover.run("sh", "-c", script)
    assert (proof.code, proof.verdict) == (4, "incomplete")
    assert any("left for the control group /" in one["what"] for one in proof.report["unseen"])


def test_a_target_with_a_packet_socket_is_incomplete(prover: Prover, lab: Lab) -> None:
    """Also one that was there before, and is not ours to listen to."""
    cgroup = lab.cgroup(f"lab-{lab.token}/{lab.name('dump')}")
    holder = subprocess.Popen(python(HOLD), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdin is not None
    try:
        holder.stdout.readline()
        (cgroup / "cgroup.procs").write_text(str(holder.pid))
        proof = prover.run("true", options=("--target", f"cgroup:{lab.cgroup_path(cgroup)}"))
    finally:
        holder.stdin.close()
        holder.wait(10)
        holder.stdout.close()
    assert (proof.code, proof.verdict) == (4, "incomplete")
    assert {one["pid"] for one in proof.report["unseen"]} == {holder.pid}


def test_a_lost_event_is_incomplete(prover: Prover) -> None:
    """A ring of one page and thousands of events: never the word no-egress."""
    proof = prover.run(*python(BURST), change="witness.RING_BYTES = 4096")
    assert proof.report["losses"]["ring_full"] > 0
    assert (proof.code, proof.verdict) == (4, "incomplete")
    assert "no-egress" not in proof.err


def test_a_full_table_is_incomplete(prover: Prover) -> None:
    """Flows that found no room could be any."""
    change = "witness.own_options = functools.partial(witness.own_options, flows_max=16)"
    proof = prover.run(*python(MANY), change=change)
    assert (proof.code, proof.verdict) == (4, "incomplete")
    assert any("flows" in reason for reason in proof.report["reasons"])


def test_nothing_is_lost_by_default(prover: Prover) -> None:
    """The same burst and the same many flows."""
    assert prover.run(*python(BURST)).verdict == "no-egress"
    assert prover.run(*python(MANY)).verdict == "no-egress"


def links() -> dict[int, str]:
    """Return the cgroup links there are, by id, with what they are attached to."""
    done = subprocess.run(["bpftool", "-j", "link", "show"], check=True, capture_output=True, text=True)
    return {one["id"]: one.get("attach_type", "") for one in json.loads(done.stdout)}


def test_a_detached_hook_is_incomplete(prover: Prover, tmp_path: Path) -> None:
    """Whoever detaches a program in the window cannot make it forgotten."""
    before, ready, go = links(), tmp_path / "ready", tmp_path / "go"
    os.mkfifo(go)
    process, report = prover.start("sh", "-c", f"touch {ready}; cat {go}")
    until(lambda: [] if ready.exists() else ["not started"])
    fresh = {number: kind for number, kind in links().items() if number not in before}
    (egress,) = [number for number, kind in fresh.items() if kind.endswith("egress")]
    subprocess.run(["bpftool", "link", "detach", "id", str(egress)], check=True)
    go.write_text("")
    proof = prover.end(process, report)
    assert (proof.code, proof.verdict) == (4, "incomplete")
    assert any("egress was not attached" in reason for reason in proof.report["reasons"])


@pytest.mark.parametrize("inside", [True, False], ids=["run-inside", "watched"])
def test_a_blocked_target_sends_nothing(inside: bool, lab: Lab, scratch: Path, jail: Jail) -> None:  # noqa: FBT001
    """What a policy denied is listed, call by call, and nothing left: by TCP, by UDP and by raw packets."""
    prover = Prover(lab, scratch, jail.daemon.instance)
    before = lab.wire("tcp", PEER4, 443), lab.wire("udp", PEER4, 9), lab.wire("icmp", PEER4, None)
    words = [
        prover.traffic("tcp.py", op="probe", host=PEER4, port=443),
        prover.traffic("udp.py", op="unconnected", host=PEER4, port=9, count=3),
        prover.traffic("raw.py", op="echo", host=PEER4, count=3, size=100, reply=False),
    ]
    script = "; ".join(" ".join(f"'{word}'" for word in line) for line in words)
    if inside:
        proof = prover.run("sh", "-c", script, cgroup=jail.inside)
    else:
        enter = f"echo 0 >{jail.inside}/cgroup.procs; {script}"
        proof = prover.run("sh", "-c", f"({enter})", options=("--target", jail.selector))
    assert (proof.code, proof.verdict) == (0, "no-egress"), proof.report["reasons"]
    denied = {flow["proto"]: flow["denied"] for flow in proof.report["flows"] if flow["denied"]}
    assert denied == {"tcp": 1, "udp": 3, "icmp": 3}
    assert proof.report["totals"]["internet"]["bytes_out"] == 0
    assert proof.report["denials_from"] == jail.daemon.instance
    assert before == (lab.wire("tcp", PEER4, 443), lab.wire("udp", PEER4, 9), lab.wire("icmp", PEER4, None))


def test_beside_a_daemon(lab: Lab, scratch: Path, plain: Tattle) -> None:
    """A proof does not depend on the daemon, and the daemon does not notice: it counts the same."""
    prover = Prover(lab, scratch, plain.instance)
    port = lab.peer.serve()
    words = prover.traffic("tcp.py", op="transfer", host=PEER4, port=port, up=5000)
    proof = prover.run(*words)
    (mine,) = proof.flows(remote_port=port)
    (theirs,) = [flow for flow in plain.flows(mine["comm"]) if flow["remote_port"] == port]
    assert (mine["bytes_out"], mine["bytes_in"]) == (theirs["bytes_out"], theirs["bytes_in"])
    assert plain.process is not None
    assert plain.process.poll() is None


def test_sockets_from_before_are_listed_and_counted(prover: Prover, lab: Lab, tmp_path: Path) -> None:
    """A connection that a target had before the window sends in it: that is egress without any connect."""
    cgroup = lab.cgroup(f"lab-{lab.token}/{lab.name('kept')}")
    port = lab.peer.serve()
    target = f"cgroup:{lab.cgroup_path(cgroup)}"
    held = lab.start("tcp.py", op="held", host=PEER4, port=port, up=3000, cgroup=cgroup)
    held.ready()
    ready, go = tmp_path / "ready", tmp_path / "go"
    os.mkfifo(go)
    process, report = prover.start("sh", "-c", f"touch {ready}; cat {go}", options=("--target", target))
    until(lambda: [] if ready.exists() else ["not started"])
    held.go()
    held.result()
    go.write_text("")
    proof = prover.end(process, report)
    assert (proof.code, proof.verdict) == (1, "egress"), proof.report["reasons"]
    (flow,) = proof.flows(remote_port=port)
    assert (flow["attempts"], flow["direction"]) == (0, "out")
    assert flow["bytes_out"] > 3000
    (before,) = [one for one in proof.report["preexisting_sockets"] if one["remote_port"] == port]
    assert (before["pid"], before["state"], before["foreign"]) == (held.pid, "connected", False)


def test_a_signal_is_passed_on_and_still_reports(prover: Prover, tmp_path: Path) -> None:
    """What somebody sends to us alone ends the command; the report says how it ended."""
    ready = tmp_path / "ready"
    process, report = prover.start("sh", "-c", f"touch {ready}; exec sleep 60")
    until(lambda: [] if ready.exists() else ["not started"])
    os.kill(process.pid, signal.SIGTERM)
    proof = prover.end(process, report)
    assert (proof.code, proof.report["exit_code"]) == (0, 128 + signal.SIGTERM)


COUNTING = """
import signal, sys, time
count = 0
def note(*_):
    global count
    count += 1
signal.signal(signal.SIGINT, note)
open(sys.argv[1], "w").close()
while not count:
    signal.sigtimedwait([], 0.05)
sys.exit(count)
"""


def test_an_interrupt_of_the_terminal_comes_once(prover: Prover, tmp_path: Path) -> None:
    """Ctrl-C reaches the command by its terminal: it is not told a second time by us."""
    ready, report = tmp_path / "ready", tmp_path / "proof.json"
    words = [*python(COUNTING), str(ready)]
    line = command("prove", "--instance", prover.instance, "--report", str(report), "--", *words)
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execv(line[0], line)  # noqa: S606 - the command under test, on a terminal of its own
    try:
        until(lambda: [] if ready.exists() else ["not started"])
        os.write(terminal, b"\x03")
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0
    assert json.loads(report.read_text())["exit_code"] == 1


def test_a_target_is_watched_for_a_time(prover: Prover, lab: Lab) -> None:
    """Without a command; an interrupt ends it early, and it still reports."""
    cgroup = lab.cgroup(f"lab-{lab.token}/{lab.name('quiet')}")
    target = ("--target", f"cgroup:{lab.cgroup_path(cgroup)}")
    proof = prover.run(options=(*target, "--for", "0.2"))
    assert (proof.code, proof.verdict, proof.report["command"]) == (0, "no-egress", None)
    assert any("no process" in limit for limit in proof.report["limits"])
    assert "no-egress" in proof.out


def test_a_command_that_does_not_exist(prover: Prover) -> None:
    """Code 3, two lines, no report, no cgroup left."""
    process, report = prover.start("/nonexistent/program")
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 3
    assert re.match(r"tattle: cannot start /nonexistent/program: .*\ntattle: to mend it: .*\n\Z", err)
    assert not report.exists()
    assert not list(prover.lab.cgroup_root.rglob(f"tattle-prove-{process.pid}"))


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (("prove",), 2, "no command and no target"),
        (("prove", "--target", "cgroup:/no/such"), 3, "/no/such"),
        (("prove", "--for", "1", "--", "true"), 2, "--for"),
        (("prove", "--report", "/nonexistent/x.json", "--", "true"), 3, "/nonexistent/x.json"),
        (("prove", "--key", "/nonexistent/key", "--", "true"), 2, "/nonexistent/key"),
        (("prove", "curl", "x"), 2, "curl"),
    ],
)
def test_what_is_asked_wrongly_is_quoted(words: tuple[str, ...], code: int, named: str) -> None:
    """Before anything is attached or started."""
    done = run(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert named in done.stderr.splitlines()[0]


def test_an_inherited_connection_is_incomplete(prover: Prover, lab: Lab, tmp_path: Path) -> None:
    """Standard output may be a connection that somebody else opened: it is counted as theirs."""
    port = lab.peer.serve()
    code = (
        "import os, socket, sys; s = socket.create_connection(('{host}', {port})); os.dup2(s.fileno(), 1);"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    report = tmp_path / "inherited.json"
    line = command("prove", "--instance", prover.instance, "--report", str(report), "--", "true")[1:]
    done = subprocess.run(
        [sys.executable, "-c", code.format(host=PEER4, port=port), *line],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        preexec_fn=lambda: enter(lab.client.fd),
    )
    assert done.returncode == 4, done.stderr
    (one,) = json.loads(report.read_text())["preexisting_sockets"]
    assert (one["descriptor"], one["foreign"], one["remote_port"]) == (1, True, port)


def test_the_report_goes_where_it_was_asked_for(prover: Prover, tmp_path: Path) -> None:
    """JSON on standard output, a page, a signature that verifies."""
    key, page = tmp_path / "key", tmp_path / "proof.html"
    works("prove", "--make-key", str(key))
    proof = prover.run("true", options=("--json", "--report", str(page), "--key", str(key)))
    assert json.loads(proof.out) == proof.report
    assert proof.report["signature"]["algorithm"] == "ed25519"
    assert page.read_text().startswith("<!doctype html>")
    assert proof.err == ""
