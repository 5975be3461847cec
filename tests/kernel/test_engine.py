"""Promises of the engine about what it leaves in the kernel, held against bpftool and the bytes sent."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.engines import ENGINE
from tracer.bpf.abi import elf_section, process_id
from tracer.bpf.btf import pack
from tracer.bpf.engine import HOOKS, OBJECT, Engine, EngineOptions, Kind
from tracer.errors import DaemonAbsent, InstanceBusy, KernelError, ObjectError
from tracer.host import cgroups

if TYPE_CHECKING:
    from collections.abc import Iterator

HOLDER = """
import sys
from tracer.bpf.engine import Engine, EngineOptions
with Engine.open(EngineOptions(instance=sys.argv[1], loopback=True, engine=sys.argv[2])):
    print("ready", flush=True)
    sys.stdin.read()
"""
AT_ROOT = sum(spec.kind is Kind.CGROUP for spec in HOOKS)
PAYLOAD, COUNT = 100, 10
# RFC 791 3.1 and RFC 768: headers of 20 and 8 bytes around the payload.
WIRE_BYTES = COUNT * (20 + 8 + PAYLOAD)


@pytest.fixture
def instance() -> Iterator[str]:
    """Return a name that nobody else uses; whatever is left of it afterwards is removed."""
    name = f"engine-{secrets.token_hex(4)}"
    yield name
    pins = cgroups.bpffs_root() / name
    if pins.exists():
        for pin in pins.iterdir():
            pin.unlink()
        pins.rmdir()
    shutil.rmtree(Path("/run") / name, ignore_errors=True)


@contextmanager
def killed_daemon(name: str) -> Iterator[None]:
    """Run an engine in another process until it is ready, then kill it without a warning."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, name, ENGINE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout
        assert holder.stdout.readline() == "ready\n"
        yield
        holder.send_signal(signal.SIGKILL)


def ask(*words: str) -> list[dict[str, Any]]:
    """Ask bpftool, which is independent of what is tested."""
    answer: Any = json.loads(subprocess.check_output(["bpftool", "--json", *words]).strip() or b"[]")
    return answer if isinstance(answer, list) else [answer]


def flows_map(instance: str) -> int:
    """Return the id of the instance's map of flows."""
    return int(ask("map", "show", "pinned", str(cgroups.bpffs_root() / instance / "flows"))[0]["id"])


def attached(flows: int) -> int:
    """Count the programs at the cgroup root that use the same maps as this map of flows.

    Other instances may be running; `settings` and more are shared by all programs of one.
    """
    hanging = {one["id"] for one in ask("cgroup", "show", str(cgroups.cgroup2_root()))}
    programs = [one for one in ask("prog", "show") if one["id"] in hanging]
    family = {number for one in programs if flows in one.get("map_ids", []) for number in one["map_ids"]}
    return sum(bool(family & set(one.get("map_ids", []))) for one in programs)


@contextmanager
def receiver() -> Iterator[socket.socket]:
    """Return a datagram socket on loopback that takes what the tests send."""
    with socket.socket(type=socket.SOCK_DGRAM) as taker:
        taker.bind(("127.0.0.1", 0))
        yield taker


def send(taker: socket.socket) -> None:
    """Send the datagrams whose bytes on the wire are known, and see them arrive."""
    with socket.socket(type=socket.SOCK_DGRAM) as sender:
        for _ in range(COUNT):
            sender.sendto(bytes(PAYLOAD), taker.getsockname())
            assert len(taker.recv(2 * PAYLOAD)) == PAYLOAD


def bytes_sent(engine: Engine, port: int) -> int:
    """Sum what the engine has counted as sent to this port of loopback."""
    engine.maps.flush()
    return sum(row.bytes_out for row in engine.maps.flows() if row.remote_port == port and not row.direction)


def test_close_leaves_nothing(instance: str) -> None:
    """After a clean close no program is attached, nothing is pinned, and readers are told so."""
    with Engine.open(EngineOptions(instance=instance)) as engine:
        assert not engine.missing
        assert all(hook.attached for hook in engine.hooks())
        flows = flows_map(instance)
        assert attached(flows) == AT_ROOT
        names = {pin.name for pin in (cgroups.bpffs_root() / instance).iterdir()}
        assert {spec.hook for spec in HOOKS} | {"flows", "events", "flush"} <= names
    assert not attached(flows)
    assert not (cgroups.bpffs_root() / instance).exists()
    with pytest.raises(DaemonAbsent):
        Engine.attach_readonly(instance)


def test_readers_see_counters_and_a_lost_hook(instance: str) -> None:
    """Another process' view by pins has the exact bytes, and tells of a hook that somebody detached."""
    with Engine.open(EngineOptions(instance=instance, loopback=True)) as engine, receiver() as taker:
        with pytest.raises(InstanceBusy, match=str(os.getpid())):
            Engine.open(EngineOptions(instance=instance))
        send(taker)
        with Engine.attach_readonly(instance) as reader:
            assert bytes_sent(reader, taker.getsockname()[1]) == WIRE_BYTES
            egress = next(hook for hook in reader.hooks() if hook.hook == "egress")
            assert (egress.attached, egress.program) == (True, "egress")
            subprocess.run(["bpftool", "link", "detach", "id", str(egress.link_id)], check=True)
            assert [hook.hook for hook in reader.hooks() if not hook.attached] == ["egress"]
        assert [hook.hook for hook in engine.hooks() if not hook.attached] == ["egress"]


def test_successor_goes_on_counting(instance: str) -> None:
    """What is sent while no daemon lives is counted, once, and the next daemon goes on from there."""
    with receiver() as taker:
        port = taker.getsockname()[1]
        with killed_daemon(instance):
            send(taker)
        send(taker)
        with Engine.open(EngineOptions(instance=instance, loopback=True)) as engine:
            assert engine.adopted
            assert attached(flows_map(instance)) == AT_ROOT
            send(taker)
            assert bytes_sent(engine, port) == 3 * WIRE_BYTES


def test_other_sizes_replace_the_predecessor(instance: str) -> None:
    """Maps of another size start at zero, and the predecessor's programs go: nothing counts twice."""
    with receiver() as taker:
        with killed_daemon(instance):
            send(taker)
        predecessor = flows_map(instance)
        with Engine.open(EngineOptions(instance=instance, loopback=True, flows_max=1000)) as engine:
            assert not engine.adopted
            assert not attached(predecessor)
            assert attached(flows_map(instance)) == AT_ROOT
            send(taker)
            assert bytes_sent(engine, taker.getsockname()[1]) == WIRE_BYTES


def test_existing_sockets_are_taken_in(instance: str) -> None:
    """A connection from before the start counts from then on, marked, with its owner and direction."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        out = socket.create_connection(server.getsockname())
        into, _ = server.accept()
        with out, into, Engine.open(EngineOptions(instance=instance, loopback=True)) as engine:
            out.sendall(bytes(PAYLOAD))
            assert len(into.recv(2 * PAYLOAD)) == PAYLOAD
            engine.maps.flush()
            ports = {out.getsockname()[1], server.getsockname()[1]}
            rows = {row.direction: row for row in engine.maps.flows() if row.remote_port in ports}
            assert (rows[0].remote_port, rows[1].remote_port) == (
                server.getsockname()[1],
                out.getsockname()[1],
            )
            # RFC 9293 3.1 and RFC 7323 3.2: 20 bytes of IP, 20 of TCP, 12 of options with time stamps.
            assert rows[0].bytes_out == rows[1].bytes_in == 52 + PAYLOAD
            assert all(
                row.flags & engine.abi.enums["flow_flags"]["FLOW_PREEXISTING"] for row in rows.values()
            )
            owner = engine.maps.process(rows[0].process)
            assert owner is not None
            assert owner.tgid == os.getpid()
            key = {name: getattr(owner, name) for name in engine.abi.process_key.fields}
            assert process_id(pack(engine.abi.process_key, key)) == owner.id


def spoiled(hook: str, path: Path) -> Path:
    """Write an object whose program `hook` starts with an instruction that no kernel knows."""
    elf = OBJECT.read_bytes()
    code = elf_section(elf, f"cgroup/{hook}")
    at = elf.index(code)
    path.write_bytes(elf[:at] + b"\xff" * 8 + elf[at + 8 :])
    return path


def test_refused_hook(instance: str, tmp_path: Path) -> None:
    """A refused hook is named with its mend and nothing is left; allowed to be missing, it is said so."""
    broken = spoiled("connect4", tmp_path / "spoiled.o")
    with pytest.raises(KernelError, match="connect4") as caught:
        Engine.open(EngineOptions(instance=instance, engine="libbpf", object_path=broken))
    assert caught.value.hook == "connect4"
    assert caught.value.hint == "--allow-missing connect4"
    assert not (cgroups.bpffs_root() / instance).exists()
    allowed = EngineOptions(
        instance=instance, engine="libbpf", object_path=broken, allow_missing=frozenset({"connect4"})
    )
    with Engine.open(allowed) as engine:
        assert engine.missing == ("connect4",)
        assert [hook.hook for hook in engine.hooks() if not hook.attached] == ["connect4"]


def test_unusable_objects(instance: str, tmp_path: Path) -> None:
    """An object that is missing, cut short, or of another version is refused by name before any load."""
    whole = OBJECT.read_bytes()
    cut, other = tmp_path / "cut.o", tmp_path / "other.o"
    cut.write_bytes(whole[: len(whole) // 2])
    other.write_bytes(whole.replace(b"\0first_ns\0", b"\0fXrst_ns\0"))
    for path, words in ((tmp_path / "none.o", "none.o"), (cut, "cut short"), (other, "flow.first_ns")):
        with pytest.raises(ObjectError, match=words):
            Engine.open(EngineOptions(instance=instance, engine="libbpf", object_path=path))
