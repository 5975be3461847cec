"""Every route of every profile: asked of a program that is taken for that runtime, told with its phase."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.support.daemon import Tattle, until
from tracer.runtimes.profiles import SHIPPED, read
from tracer.targets.phases import rules_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.network import Lab, Program
    from tracer.runtimes.profiles import PhaseRule, Runtime

RUNTIMES = read((SHIPPED,))


class Served(NamedTuple):
    """A daemon, and for each runtime a program that answers all paths, on a port of loopback."""

    lab: Lab
    tattle: Tattle
    ports: dict[str, int]
    programs: dict[str, Program]


def place(lab: Lab, runtime: Runtime) -> tuple[Path, str | None]:
    """Return the cgroup and the program's name by which a runtime is known: its unit, else its executable."""
    plain = [exe for exe in runtime.find.exes if not set("*?[/.") & set(exe)]
    name = runtime.find.units[0] if runtime.find.units else runtime.name
    return lab.cgroup(f"lab-{lab.token}/routes/{name}"), None if runtime.find.units else plain[0]


@pytest.fixture(scope="module")
def served(lab: Lab, scratch: Path) -> Iterator[Served]:
    """All runtimes at once: one does not change what the others' paths mean."""
    places = {name: place(lab, runtime) for name, runtime in RUNTIMES.items() if runtime.phases}
    programs = {name: lab.start("api.py", name=exe, cgroup=cgroup) for name, (cgroup, exe) in places.items()}
    ports = {}
    for name, program in programs.items():
        program.go(json.dumps({"do": "listen", "host": "127.0.0.1"}))
        ports[name] = int(program.ready()["port"])
    options = [f"cgroup:{lab.cgroup_path(cgroup)}" for cgroup, _ in places.values()]
    tattle = Tattle(scratch, *(word for option in options for word in ("--target", option)))
    try:
        tattle.start()
        yield Served(lab, tattle, ports, programs)
        tattle.stop()
    finally:
        tattle.remove()
        for program in programs.values():
            program.process.kill()


def meant(rule: PhaseRule) -> str:
    """Return a path that a rule means."""
    return f"{rule.path}some-name" if rule.prefix else rule.path


@pytest.mark.parametrize("name", sorted(name for name, one in RUNTIMES.items() if one.phases))
def test_each_route_puts_its_runtime_in_the_phase_that_its_profile_says(served: Served, name: str) -> None:
    """With a query behind it, too; what no rule names is idle. Asked one by one, over one connection."""
    rules = rules_of(RUNTIMES[name])
    wanted = {(rule.method, meant(rule)): rule.phase for rule in rules}
    wanted[("POST", "/no/such/path")] = "idle"
    asked = [{"method": method, "target": f"{path}?a=/api/pull", "how": "length"} for method, path in wanted]
    served.lab.run("clients.py", calls=[{"host": "127.0.0.1", "port": served.ports[name], "requests": asked}])
    cgroup = served.programs[name].cgroup

    def told() -> list[dict[str, Any]]:
        events = served.tattle.events()
        return [one for one in events if one["event"] == "request" and one["cgroup"] == cgroup]

    until(lambda: [] if len(told()) == 2 * len(asked) else [f"{len(told())} events of {len(asked)} requests"])
    begun = [one for one in told() if one["duration_ms"] is None]
    assert [(one["path"], one["phase"]) for one in begun] == [
        (path, phase) for (_, path), phase in wanted.items()
    ]
