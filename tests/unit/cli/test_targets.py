"""Runtimes found by what they are, and their switches read where they stand; nothing else is read."""

from __future__ import annotations

import json
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from exporters.terminal.targets import print_targets
from tracer.cli import targets as surveys
from tracer.errors import DaemonAbsent
from tracer.model.containers import Container, Place, places
from tracer.model.scope import ASKER, QUESTIONS
from tracer.runtimes.detect import named
from tracer.runtimes.profiles import SHIPPED, read
from tracer.runtimes.switches import LISTENING, Address, addresses, environment, is_set, listening, seen
from tracer.targets.finder import Finder, Target, parse

if TYPE_CHECKING:
    from collections.abc import Iterator

PROFILES = read((SHIPPED,))
OLLAMA = PROFILES["ollama"]
ID = "0123456789abcdef" * 4
SECRET = "sesame-open"  # noqa: S105 - of nobody


class Engines:
    """A container engine that knows one container."""

    def __init__(self, name: str | None = None, image: str | None = None) -> None:
        self._name, self._image = name, image

    def at(self, place: Place) -> Container | None:
        """Return the container at a place."""
        if place.id != ID or self._name is None:
            return None
        return Container(ID, self._name, (self._image,) if self._image else ())

    def of(self, cgroup: str) -> Container | None:
        """Return the container that a cgroup is in."""
        return next((found for place in places(cgroup) if (found := self.at(place))), None)


class Host:
    """A host in a directory: processes with what /proc tells of them, and cgroups with their members."""

    def __init__(self, place: Path, engines: Engines | None = None) -> None:
        self.root, self.proc = place / "cgroup", place / "proc"
        self.root.mkdir()
        self.finder = Finder(self.root, self.proc, engines or Engines())  # type: ignore[arg-type]
        self.process(1, "/sbin/init", cgroup="/tattle")
        (self.proc / "self").symlink_to("1")

    def process(  # noqa: PLR0913 - all that a process is
        self,
        pid: int,
        exe: str,
        *more: str,
        cgroup: str = "/user.slice/s.scope",
        parent: int = 1,
        environ: dict[str, str] | None = None,
        cwd: str = "/",
    ) -> Path:
        """Add a process."""
        made = self.proc / str(pid)
        made.mkdir(parents=True)
        (made / "exe").symlink_to(exe)
        (made / "cwd").symlink_to(cwd)
        (made / "cmdline").write_text("\0".join((exe, *more)) + "\0")
        (made / "stat").write_text(f"{pid} (a) b) S {parent} 1 1")
        (made / "environ").write_text("\0".join(f"{key}={value}" for key, value in (environ or {}).items()))
        (made / "cgroup").write_text(f"0::{cgroup}\n")
        (made / "ns").mkdir()
        (made / "ns/net").symlink_to(Path("/proc/self/ns/net").readlink())
        group = self.root / cgroup.lstrip("/")
        group.mkdir(parents=True, exist_ok=True)
        with (group / "cgroup.procs").open("a") as file:
            file.write(f"{pid}\n")
        return made

    def runtime(self, selector: str) -> str | None:
        """Give the name of the runtime that a target is taken for."""
        found = self.finder.runtime(Target(selector, 1, self.finder.find(parse(selector))))
        return found.name if found else None


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host where nothing of interest runs."""
    return Host(tmp_path)


@pytest.mark.parametrize(
    ("runtime", "words", "cwd"),
    [
        ("ollama", ("/usr/local/bin/ollama", "serve"), "/"),
        ("llama.cpp", ("/opt/llama/llama-server", "-m", "x"), "/"),
        ("vllm", ("/usr/bin/python3.12", "/usr/bin/vllm", "serve"), "/"),
        ("vllm", ("/usr/bin/python3.12", "-m", "vllm.entrypoints.openai.api_server"), "/"),
        ("llamafile", ("/usr/bin/ape", "/srv/phi.llamafile"), "/"),
        ("vllm", ("/usr/bin/python3.12", "/usr/bin/vllm", "--no-color", "serve"), "/"),
        ("sglang", ("/usr/bin/python3.12", "-m", "sglang.launch_server", "--model-path", "x"), "/"),
        ("tgi", ("/usr/bin/text-generation-router", "--port", "80"), "/"),
        ("koboldcpp", ("/opt/koboldcpp-linux-x64-nocuda", "--model", "x"), "/"),
        ("lemonade", ("/usr/bin/lemond",), "/"),
        ("docker-model-runner", ("/app/model-runner",), "/"),
        ("docker-model-runner", ("/usr/bin/dmr", "serve"), "/"),
        ("ramalama", ("/usr/bin/python3", "/usr/bin/ramalama", "serve", "x"), "/"),
        ("jan", ("/usr/bin/Jan-Desktop",), "/"),
        ("ollama", ("/usr/local/bin/ollama", "--verbose", "serve"), "/"),
        ("ollama", ("/usr/local/bin/ollama", "start"), "/"),
        ("ollama", ("/usr/local/bin/ollama", "runner", "--mlx-engine"), "/"),
        ("text-generation-webui", ("/usr/bin/python3", "server.py"), "/srv/text-generation-webui"),
        ("gpt4all", ("/home/a/gpt4all/bin/chat",), "/"),
        (None, ("/usr/local/bin/ollama", "run", "serve"), "/"),
        (None, ("/usr/local/bin/ollama",), "/"),
        (None, ("/usr/local/bin/ollama", "login"), "/"),
        (None, ("/usr/local/bin/ollama", "logout"), "/"),
        (None, ("/usr/local/bin/ollama", "signin"), "/"),
        (None, ("/usr/local/bin/ollama", "pull", "x"), "/"),
        (None, ("/usr/local/bin/ollama", "list"), "/"),
        (None, ("/usr/local/bin/ollama", "launch", "claude"), "/"),
        (None, ("/usr/local/bin/ollama", "--version"), "/"),
        ("ollama", ("/usr/local/bin/ollama", "a-command-of-tomorrow"), "/"),
        (None, ("/usr/bin/dmr", "run", "ai/smollm2"), "/"),
        (None, ("/usr/bin/python3.12", "/usr/bin/vllm", "chat"), "/"),
        (None, ("/usr/bin/python3", "server.py"), "/srv/other"),
        (None, ("/usr/bin/chat",), "/"),
        (None, ("/usr/bin/cat", "/usr/bin/ollama"), "/"),
        (None, ("/usr/bin/notollama",), "/"),
    ],
)
def test_processes_are_known_by_program_script_or_module(
    host: Host, runtime: str | None, words: tuple[str, ...], cwd: str
) -> None:
    """Never by a part of a name, nor by an argument of what is no interpreter; clients are no runtime."""
    host.process(7, *words, cwd=cwd)
    known = [one.name for one in PROFILES.values() if host.finder.recognizer.is_process("7", one)]
    assert known == ([runtime] if runtime else [])


def test_a_child_is_its_parents(host: Host) -> None:
    """Ollama's llama-server is no llama.cpp; one that somebody else has started is."""
    host.process(7, "/usr/bin/ollama", "serve")
    host.process(8, "/usr/lib/ollama/llama-server", parent=7)
    assert list(host.finder.running(PROFILES["llama.cpp"])) == []
    assert host.runtime("pid:8") == "ollama"
    host.process(9, "/usr/bin/llama-server", cgroup="/user.slice/t.scope")
    assert list(host.finder.running(PROFILES["llama.cpp"])) == ["9"]


@pytest.mark.parametrize(
    ("cgroup", "engines", "runtime"),
    [
        ("/system.slice/ollama.service", Engines(), "ollama"),
        (
            "/user.slice/user-1.slice/user@1.service/app.slice/app-gnome-lm-studio-7.scope",
            Engines(),
            "lm-studio",
        ),
        (f"/docker/{ID}", Engines("llm", "ollama/ollama"), "ollama"),
        (f"/docker/{ID}", Engines("llm", "docker.io/vllm/vllm-openai"), "vllm"),
        (f"/docker/{ID}", Engines("open-webui", "mine"), "open-webui"),
        (f"/docker/{ID}", Engines("llm", "someone/not-ollama"), None),
        (f"/docker/{ID}", Engines(), None),
        ("/system.slice/ollama.service.d", Engines(), None),
    ],
)
def test_places_are_known_by_unit_session_and_container(
    tmp_path: Path, cgroup: str, engines: Engines, runtime: str | None
) -> None:
    """Whatever runs in them."""
    host = Host(tmp_path, engines)
    host.process(7, "/bin/thing", cgroup=cgroup)
    assert host.runtime(f"cgroup:{cgroup}") == runtime
    if runtime:
        assert host.finder.find(parse(runtime)) == (cgroup,)


def test_two_runtimes_in_one_place_are_none(host: Host) -> None:
    """What belongs to which could not be told."""
    host.process(7, "/usr/bin/ollama", "serve")
    assert host.runtime("pid:7") == "ollama"
    host.process(8, "/usr/bin/local-ai", "run")
    assert host.runtime("pid:7") is None


def test_patterns_match_whole_parts() -> None:
    """From the end of a path upwards."""
    assert named(("bin/chat",), ("/opt/bin/chat",))
    assert not named(("bin/chat",), ("/opt/sbin/chat",))


def test_only_the_wanted_variables_are_read(host: Host) -> None:
    """Others are not even held, and a name inside a value is no name."""
    made = host.process(
        7, "/usr/bin/ollama", environ={"A": "OLLAMA_NO_CLOUD=0", "OLLAMA_NO_CLOUD": "1\x1b[2J", "K": SECRET}
    )
    assert environment(made, {"OLLAMA_NO_CLOUD"}) == {"OLLAMA_NO_CLOUD": "1\\x1b[2J"}


@pytest.mark.parametrize(
    ("value", "host_", "port"),
    [
        ("0.0.0.0", "0.0.0.0", 11434),
        ("0.0.0.0:1", "0.0.0.0", 1),
        (":8080", "", 8080),
        ("8080", "127.0.0.1", 8080),
        ("http://127.0.0.1:9/x", "127.0.0.1", 9),
        ("[::1]:9", "::1", 9),
        ("[::]", "::", 11434),
        ("http://0.0.0.0", "0.0.0.0", 80),
        ("https://example.org", "example.org", 443),
        (' "127.0.0.1:9" ', "127.0.0.1", 9),
    ],
)
def test_addresses_are_read_as_they_are_set(host: Host, value: str, host_: str, port: int) -> None:
    """From the variable; nonsense leaves the default."""
    made = host.process(7, "/usr/bin/ollama", environ={"OLLAMA_HOST": value})
    assert OLLAMA.api is not None
    assert addresses(made, OLLAMA.api) == (Address(host_, port, "OLLAMA_HOST"),)
    (made / "environ").write_text("OLLAMA_HOST=x:99999")
    assert addresses(made, OLLAMA.api) == (Address("127.0.0.1", 11434, "default"),)


@pytest.mark.parametrize(
    ("host_", "near"),
    [
        ("0.0.0.0", "127.0.0.1"),
        ("::", "127.0.0.1"),
        ("::1", "::1"),
        ("", "127.0.0.1"),
        ("127.0.0.2", "127.0.0.2"),
        ("192.0.2.1", None),
        ("evil.example", None),
    ],
)
def test_only_loopback_is_ever_asked(host_: str, near: str | None) -> None:
    """Whatever a variable says."""
    assert Address(host_, 1, "x").near == near


@pytest.fixture
def api() -> Iterator[tuple[int, list[str], list[str]]]:
    """Serve Ollama's status on loopback; gives the port, what was asked, and from where."""
    asked: list[str] = []
    clients: list[str] = []

    class Status(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            clients.append(str(self.client_address[0]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"cloud": {"disabled": False, "source": "none"}}).encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Status) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, asked, clients
        server.shutdown()


def test_all_places_of_a_switch_are_read_and_its_own_word_wins(
    host: Host, api: tuple[int, list[str], list[str]]
) -> None:
    """Environment, file below its $HOME as it sees it, its interface on loopback, from an address of ours."""
    port, asked, clients = api
    made = host.process(7, "/usr/bin/ollama", environ={"OLLAMA_NO_CLOUD": "1", "HOME": "/home/o"})
    (made / "root/etc").mkdir(parents=True)
    (made / "root/etc/passwd").write_text(f"o:x:{os.getuid()}:1:O:/wrong:/bin/sh\n")
    (made / "root/home/o/.ollama").mkdir(parents=True)
    (made / "root/home/o/.ollama/server.json").write_text('{"disable_ollama_cloud": true}')
    places = seen(made, OLLAMA, (Address("0.0.0.0", port, LISTENING),))["OLLAMA_NO_CLOUD"]
    assert [(one.where, one.private) for one in places] == [
        ("environment", True),
        ("~/.ollama/server.json", True),
        ("GET /api/status", False),
    ]
    assert (asked, clients) == (["/api/status"], [ASKER])
    (switch,) = OLLAMA.switches
    assert not is_set(switch, places)
    assert is_set(switch, places[:2])


def test_without_a_home_of_its_own_the_users_counts(host: Host) -> None:
    """By the list of users that the process sees."""
    made = host.process(7, "/usr/bin/ollama")
    (made / "root/etc").mkdir(parents=True)
    (made / "root/etc/passwd").write_text(f"o:x:{os.getuid()}:1:O:/home/o:/bin/sh\n")
    (made / "root/home/o/.ollama").mkdir(parents=True)
    (made / "root/home/o/.ollama/server.json").write_text('{"disable_ollama_cloud": false}')
    (place,) = seen(made, OLLAMA, ())["OLLAMA_NO_CLOUD"]
    assert (place.where, place.private) == ("~/.ollama/server.json", False)


@pytest.mark.parametrize(
    ("source", "address"), [("default", "127.0.0.1"), ("OLLAMA_HOST", "0.0.0.0"), (LISTENING, "::1")]
)
def test_only_its_own_sockets_are_asked(
    host: Host, api: tuple[int, list[str], list[str]], source: str, address: str
) -> None:
    """At an address that is only said to be its, a stranger may answer; ::1 has no address to ask from."""
    made = host.process(7, "/usr/bin/ollama")
    assert seen(made, OLLAMA, (Address(address, api[0], source),))["OLLAMA_NO_CLOUD"] == ()
    assert api[1] == []


def test_the_answer_of_every_profile_is_one_that_no_daemon_tells_of() -> None:
    """The paths that `tattle targets` asks for are those that the daemon knows as its questions."""
    asked = {one.api.path for runtime in PROFILES.values() for one in runtime.switches if one.api}
    assert asked == QUESTIONS


def test_listening_sockets_are_found_and_held_against_the_process(host: Host) -> None:
    """The real address, also of a port that nobody said; other programs' sockets are not its own."""
    made = host.process(7, "/usr/bin/ollama")
    with socket.create_server(("127.0.0.2", 0)) as server, socket.create_server(("127.0.0.1", 0)):
        (made / "fd").mkdir()
        (made / "fd/3").symlink_to(f"socket:[{os.fstat(server.fileno()).st_ino}]")
        (made / "fd/4").symlink_to("/dev/null")
        assert listening([made]) == (Address("127.0.0.2", server.getsockname()[1], LISTENING),)
    assert listening([made]) == ()


def test_of_variables_that_stand_in_for_one_another_the_first_that_says_something_counts(host: Host) -> None:
    """VLLM_DO_NOT_TRACK=0 beats DO_NOT_TRACK=1; an empty one does not. Others do the same beside it."""
    vllm = PROFILES["vllm"]
    made = host.process(7, "/usr/bin/python3", environ={"VLLM_DO_NOT_TRACK": "0", "DO_NOT_TRACK": "1"})
    (place,) = seen(made, vllm, ())["VLLM_DO_NOT_TRACK"]
    assert (place.where, place.value, place.private) == ("environment", "0", False)
    (made / "environ").write_text("VLLM_DO_NOT_TRACK=\0DO_NOT_TRACK=1\0DO_NOT_TRACK=0")
    found = seen(made, vllm, ())
    assert [(at.where, at.private) for at in found["VLLM_DO_NOT_TRACK"]] == [
        ("environment DO_NOT_TRACK", True)
    ]
    assert [at.private for at in found["HF_HUB_DISABLE_TELEMETRY"]] == [True]


def test_what_a_runtime_prefers_decides_alone(host: Host) -> None:
    """`--usage-stats on` beats USAGE_STATS=off, as the launcher reads them."""
    tgi = PROFILES["tgi"]
    words = ("/usr/bin/text-generation-launcher", "--usage-stats", "on")
    made = host.process(7, *words, environ={"USAGE_STATS": "off"})
    switch = next(one for one in tgi.switches if one.name == "USAGE_STATS")
    places = seen(made, tgi, ())["USAGE_STATS"]
    assert [(at.where, at.private) for at in places] == [("argument", False), ("environment", True)]
    assert not is_set(switch, places)
    assert is_set(switch, places[1:])


def test_a_pipe_instead_of_the_file_holds_nobody_up(host: Host) -> None:
    """Nor does a link: files of others are not read in its stead."""
    made = host.process(7, "/usr/bin/ollama")
    (made / "root/etc").mkdir(parents=True)
    (made / "root/etc/passwd").write_text(f"o:x:{os.getuid()}:1:O:/h:/bin/sh\n")
    (made / "root/h/.ollama").mkdir(parents=True)
    os.mkfifo(made / "root/h/.ollama/server.json")
    assert seen(made, OLLAMA, ())["OLLAMA_NO_CLOUD"] == ()


def flow(name: str | None, **changes: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """Give a flow of process 7 as the daemon tells it."""
    made: dict[str, Any] = {"pid": 7, "direction": "out", "scope": "internet", "name": name}
    made |= {"remote_addr": "203.0.113.7", "remote_port": 443, "attempts": 1, "denied": 0}
    made |= {"bytes_out": 10, "bytes_in": 20, "first_seen": "2026-01-01", "last_seen": "2026-01-02"}
    return made | changes


def said(name: str, *, own: bool = True) -> dict[str, Any]:
    """Give a name of a flow, as TLS told it."""
    return {"name": name, "own": own, "source": "sni"}


def test_the_survey_says_what_is_done_all_the_same(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By processes that run now, summed by destination; resolvers, loopback and others' flows left out."""
    host.process(
        7,
        "/usr/bin/ollama",
        "serve",
        cgroup="/system.slice/ollama.service",
        environ={"OLLAMA_NO_CLOUD": "1", "K": SECRET},
    )
    rows = [
        flow("ollama.com", attempts=2),
        flow("ollama.com", phase="idle"),
        flow(None),
        flow("ollama.com", pid=8),
        flow(
            "registry.ollama.ai", names=[said("registry.ollama.ai"), said("ollama.com"), said("x", own=False)]
        ),
        flow("ollama.com", names=[said("ollama.com"), said("registry.ollama.ai")], attempts=4),
    ]
    rows += [flow("x.example", direction="in"), flow(None, remote_port=53), flow(None, scope="loopback")]
    asked: list[list[str]] = []

    def flows(_: Path, targets: list[str], __: str) -> dict[str, Any]:
        asked.append(targets)
        return {"since": "2026-01-01T00:00:00Z", "flows": rows, "losses": {}}

    monkeypatch.setattr(surveys.control, "flows", flows)
    document = surveys.survey("tattle", host.finder, ())
    assert asked == [["cgroup:/system.slice/ollama.service"]]
    (one,) = [target for target in document["targets"] if target["running"]]
    assert (one["runtime"], one["how"], one["unit"], one["pids"]) == ("ollama", "unit", "ollama.service", [7])
    contacts = {contact["name"]: contact for contact in one["contacts"]}
    assert set(contacts) == {"ollama.com", "203.0.113.7", "registry.ollama.ai"}
    both = contacts["registry.ollama.ai"]
    assert (both["also"], both["connections"]) == (["ollama.com"], 5)
    assert (contacts["ollama.com"]["connections"], contacts["ollama.com"]["unexpected"]) == (3, False)
    assert contacts["203.0.113.7"]["unexpected"]
    assert one["despite"] == ["OLLAMA_NO_CLOUD=1, yet 3 connections to ollama.com since 2026-01-01T00:00:00Z"]
    assert SECRET not in json.dumps(document)
    pull = next(purpose for purpose in one["purposes"] if purpose["name"] == "pull")
    assert (pull["phases"], {host["name"] for host in pull["hosts"]} >= {"registry.ollama.ai"}) == (
        ["pull"],
        True,
    )
    account = next(purpose for purpose in one["purposes"] if purpose["name"] == "account")
    assert account["hosts"][0]["requests"][0] == "POST /api/me"
    print_targets(document)
    text = capsys.readouterr().out
    assert "OLLAMA_NO_CLOUD=1, yet 3 connections" in text
    assert "UNEXPECTED" in text
    assert "registry.ollama.ai or ollama.com" in text


def test_what_a_service_will_be_started_with_is_told_beside_what_it_has(
    host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A drop-in that was written after the start changes nothing until the next one: not set, and said so."""

    def absent(*_: object) -> dict[str, Any]:
        raise DaemonAbsent("no daemon", "start it")

    monkeypatch.setattr(surveys.control, "flows", absent)
    host.process(7, "/usr/bin/ollama", "serve", cgroup="/system.slice/ollama.service")
    (tmp_path / "units/ollama.service.d").mkdir(parents=True)
    (tmp_path / "units/ollama.service").write_text("[Service]\n")
    part = tmp_path / "units/ollama.service.d/override.conf"
    part.write_text(f"[Service]\nEnvironment=OLLAMA_NO_CLOUD=1 K={SECRET}\n")
    document = surveys.survey("tattle", host.finder, (tmp_path / "units",))
    (switch,) = next(one for one in document["targets"] if one["running"])["switches"]
    assert (switch["private"], switch["places"]) == (False, [])
    later = {"variable": "OLLAMA_NO_CLOUD", "value": "1", "file": str(part), "private": True}
    assert switch["next_start"] == [later]
    print_targets(document)
    text = capsys.readouterr().out.replace("\n", " ")
    assert "from its next start OLLAMA_NO_CLOUD=1" in text
    assert SECRET not in text


def test_without_a_daemon_it_says_so(
    host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is installed is named all the same."""

    def absent(*_: object) -> dict[str, Any]:
        raise DaemonAbsent("no daemon", "start it")

    monkeypatch.setattr(surveys.control, "flows", absent)
    monkeypatch.setattr(surveys.shutil, "which", lambda _: None)
    (tmp_path / "units").mkdir()
    (tmp_path / "units/vllm.service").touch()
    document = surveys.survey("tattle", host.finder, (tmp_path / "units",))
    assert document["since"] is None
    assert [(one["runtime"], one["running"]) for one in document["targets"]] == [("vllm", False)]
    print_targets(document)
    assert f"installed: {tmp_path}/units/vllm.service" in capsys.readouterr().out
