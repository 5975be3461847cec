"""Who it was: said once in the kernel, and never from a look at /proc when the process is gone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import Tattle, events_lost, until
from tests.support.network import CONTAINER_PEER4, PEER4, Lab

if TYPE_CHECKING:
    from pathlib import Path

IDENTITY = ("pid", "ppid", "comm", "parent_comm", "exe", "uid", "cgroup", "unit", "container", "target")


@pytest.fixture(autouse=True)
def _read_from_here(plain: Tattle) -> None:
    """Look at the log only from the test's beginning on."""
    plain.mark()


@pytest.mark.parametrize("parent", ["docker", "system.slice"])
def test_a_container_is_named(lab: Lab, plain: Tattle, parent: str) -> None:
    """Both of Docker's cgroup drivers: the container's short id, and the cgroup it came from."""
    container = lab.container(parent)
    port = lab.peer.serve(host=CONTAINER_PEER4)
    program, _ = lab.run(
        "rename.c", CONTAINER_PEER4, str(port), "1000", cgroup=container.cgroup, namespace=container.namespace
    )
    flow = one_flow(plain, program.name)
    assert flow["container"] == container.short_id
    assert flow["cgroup"] == lab.cgroup_path(container.cgroup)
    assert flow["unit"] == (container.cgroup.name if parent == "system.slice" else None)


def test_a_unit_is_named(lab: Lab, plain: Tattle) -> None:
    """A service's cgroup gives its unit, also from a cgroup below it."""
    unit = f"lab-{lab.token}.service"
    lab.cgroup(f"system.slice/{unit}")
    below = lab.cgroup(f"system.slice/{unit}/worker")
    port = lab.peer.serve()
    program, _ = lab.run("rename.c", PEER4, str(port), "1000", cgroup=below)
    flow = one_flow(plain, program.name)
    assert (flow["unit"], flow["container"]) == (unit, None)


def test_events_tell_one_story(lab: Lab, plain: Tattle) -> None:
    """connect, established, close: one identity, in this order, the totals in the last one."""
    port = lab.peer.serve()
    program, _ = lab.run("tcp.py", op="transfer", host=PEER4, port=port, up=50_000)
    until(lambda: [] if len(plain.events(program.name)) == 3 else [str(plain.events(program.name))])
    events = plain.events(program.name)
    assert [event["event"] for event in events] == ["connect", "established", "close"]
    assert len({tuple(event[key] for key in IDENTITY) for event in events}) == 1
    assert events[0]["exe"] == program.exe
    assert [event["result"] for event in events[1:]] == ["ok", "ok"]
    assert events[1]["local_port"] == events[2]["local_port"]
    flow = one_flow(plain, program.name)
    assert [events[2][key] for key in ("bytes_out", "bytes_in")] == [flow["bytes_out"], flow["bytes_in"]]


def test_a_thousand_brief_lives(lab: Lab, plain: Tattle) -> None:
    """Processes that are gone at once: each attempt is in the log with exe and parent, or is told as lost."""
    child, port, times = lab.name("mayfly"), lab.peer.serve(), 1000
    lab.program("brief.c", child)
    lost = events_lost(plain)
    parent, _ = lab.run("brief.c", PEER4, str(port), str(times), str(lab.scratch / child))
    who = (str(lab.scratch / child), parent.pid, parent.name)

    def look() -> list[str]:
        attempts = [event for event in plain.events(child) if event["event"] == "connect"]
        missing = events_lost(plain) - lost
        whole = len(attempts) <= times <= len(attempts) + missing
        odd = [event for event in attempts if (event["exe"], event["ppid"], event["parent_comm"]) != who]
        return [] if whole and not odd else [f"{len(attempts)} attempts, {missing} lost; {odd[:2]}"]

    until(look)


def test_two_processes_of_one_name_and_destination(lab: Lab, plain: Tattle) -> None:
    """Same name, same server: two rows, told apart by pid, each with its own bytes."""
    name, port = lab.name("same"), lab.peer.serve()
    sizes = (10_000, 400_000)
    programs = [
        lab.start("tcp.py", name=name, op="transfer", host=PEER4, port=port, up=size) for size in sizes
    ]
    for program in programs:
        program.result()

    def look() -> list[str]:
        sent = {flow["pid"]: flow["bytes_out"] for flow in plain.flows(name)}
        good = all(
            size <= sent.get(program.pid, 0) <= size * 1.1 + 1000
            for program, size in zip(programs, sizes, strict=True)
        )
        return [] if good and len(sent) == 2 else [str(sent)]

    until(look)


def test_a_program_that_becomes_another(lab: Lab, plain: Tattle) -> None:
    """One pid, two executables: connections before and after execve are two processes' flows."""
    port = lab.peer.serve()
    child = lab.name("shell")
    lab.program("brief.c", child)
    parent, _ = lab.run("brief.c", PEER4, str(port), "1", str(lab.scratch / child))
    flow = one_flow(plain, child)
    assert flow["ppid"] == parent.pid
    assert flow["parent_comm"] == parent.name
    assert plain.flows(parent.name) == []


def test_hostile_names_harm_no_log(lab: Lab, plain: Tattle, scratch: Path) -> None:
    """The log stays JSON lines in UTF-8 without a control byte, whatever a program calls itself."""
    name = f"\x1b]0;x\x07\r{lab.token}"
    program, _ = lab.run("rename.c", PEER4, str(lab.peer.serve()), "1000", name=name)
    shown = rf"\x1b]0;x\x07\x0d{lab.token}"
    until(lambda: [] if plain.events(shown) else ["no event"])
    log = plain.text()
    log.decode("utf-8", errors="strict")
    assert re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", log) is None
    assert {event["comm"] for event in plain.events(shown)} == {shown}
    assert program.exe.startswith(str(scratch))


def one_flow(tattle: Tattle, comm: str) -> dict[str, object]:
    """Return the only flow of a name, once it is there and complete."""
    until(lambda: [] if len(tattle.flows(comm)) == 1 else [f"{len(tattle.flows(comm))} flows of {comm}"])
    return tattle.flows(comm)[0]
