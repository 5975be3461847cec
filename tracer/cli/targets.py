"""`tattle targets`: the model runtimes of this host, what they are set to, and what they do all the same."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tracer.cli.command import Command, add_json, print_json
from tracer.daemon import control
from tracer.errors import DaemonAbsent
from tracer.host.cgroups import cgroup2_root
from tracer.model.containers import places
from tracer.model.destination import SNI
from tracer.model.process import unit_of
from tracer.model.scope import Scope
from tracer.model.text import escape
from tracer.runtimes.profiles import runtimes
from tracer.runtimes.proxies import beside, of_unit, proxies
from tracer.runtimes.purposes import explain, hosts
from tracer.runtimes.spelling import is_private
from tracer.runtimes.switches import Address, addresses, is_set, listening, seen
from tracer.runtimes.units import UNIT_PATHS, settings, unit_file
from tracer.targets.finder import Finder

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable
    from pathlib import Path

    from tracer.runtimes.profiles import PurposeTable, Runtime
    from tracer.runtimes.switches import Seen

Json = dict[str, Any]

_DNS_PORT: Final = 53


@dataclass(frozen=True)
class Found:
    """A runtime in one place: `cgroup` None where it is installed and does not run."""

    runtime: Runtime
    how: str
    cgroup: str | None
    pids: tuple[int, ...]
    others: int  # processes in the same cgroup that are not its own


def survey(instance: str, finder: Finder | None = None, units: Iterable[Path] = UNIT_PATHS) -> Json:
    """Give the document of `tattle targets`; what runs is looked at, what is installed only named."""
    finder = finder or Finder(cgroup2_root())
    found = find(finder, units)
    answer = _flows(instance, found, finder)
    since = answer["since"] if answer else None
    flows = answer["flows"] if answer else []
    units = tuple(units)
    names = {one.runtime.name for one in found} if answer else set()
    known = {name: control.known_since(instance, name) for name in names}
    return {
        "since": since,
        "targets": [
            _document(finder, one, flows, since, units) | {"known_since": known.get(one.runtime.name)}
            for one in found
        ],
    }


def find(finder: Finder, units: Iterable[Path] = UNIT_PATHS) -> list[Found]:
    """Return the runtimes that run here, and those that are only installed."""
    return [one for runtime in runtimes().values() for one in _find(finder, runtime, tuple(units))]


def _find(finder: Finder, runtime: Runtime, units: tuple[Path, ...]) -> list[Found]:
    known = finder.recognizer
    places = [path for path in finder.places() if known.is_place(path, runtime.find)]
    places = [path for path in places if not any(path.startswith(f"{other}/") for other in places)]
    found = [_placed(finder, runtime, path) for path in places]
    inside = {pid for one in found for pid in one.pids}
    loose = sorted({int(pid) for pid in finder.running(runtime)} - inside)
    for cgroup in sorted({finder.cgroup_of(str(pid)) or "/" for pid in loose}):
        own = [pid for pid in loose if (finder.cgroup_of(str(pid)) or "/") == cgroup]
        members = {int(pid) for pid in known.members(cgroup)} if cgroup != "/" else set(own)
        own += sorted(pid for pid in members - set(own) if known.is_child(str(pid), runtime))
        found.append(Found(runtime, "process", cgroup, tuple(own), len(members - set(own))))
    if found:
        return found
    how = _installed(runtime, units)
    return [Found(runtime, how, None, (), 0)] if how else []


def _placed(finder: Finder, runtime: Runtime, cgroup: str) -> Found:
    pids = tuple(sorted(map(int, finder.recognizer.members(cgroup))))
    if (place := next(places(cgroup), None)) and place.path == cgroup:
        how = "container"
    else:
        how = "unit" if cgroup.rpartition("/")[2] in runtime.find.units else "session"
    own = [pid for pid in pids if finder.recognizer.is_process(str(pid), runtime)]
    return Found(runtime, how, cgroup, (*own, *(pid for pid in pids if pid not in own)), 0)


def _installed(runtime: Runtime, units: tuple[Path, ...]) -> str | None:
    """Say how a runtime that does not run is there: its unit's file, or its program on the path."""
    unit = _unit(runtime, units)
    if unit is not None:
        return f"installed: {unit_file(unit, units)}"
    plain = (exe for exe in runtime.find.exes if not set("*?[/") & set(exe))
    program = next((where for exe in plain if (where := shutil.which(exe))), None)
    return f"installed: {program}" if program else None


def _flows(instance: str, found: list[Found], finder: Finder) -> Json | None:
    """Ask the daemon what these have done; None without a daemon."""
    own = finder.cgroup_of("self")
    places = sorted({one.cgroup for one in found if one.cgroup and one.cgroup not in ("/", own)})
    try:
        return control.flows(control.socket_path(instance), [f"cgroup:{path}" for path in places], instance)
    except DaemonAbsent:
        return None


def _unit(runtime: Runtime, units: tuple[Path, ...]) -> str | None:
    """Return the runtime's unit of the system that has a file."""
    return next((unit for unit in runtime.find.units if unit_file(unit, units)), None)


def _document(
    finder: Finder, found: Found, flows: list[Json], since: str | None, units: tuple[Path, ...]
) -> Json:
    runtime, cgroup = found.runtime, found.cgroup
    process = finder.proc / str(found.pids[0]) if found.pids else None
    found_at = _api(finder, found) if process else ()
    used = proxies((finder.proc / str(pid) for pid in found.pids), finder.engines)
    unit = _own_unit(found, units)
    used = beside(used, of_unit(unit, units) if unit else ())
    nothing: dict[str, tuple[Seen, ...]] = {one.name: () for one in runtime.switches}
    set_to = seen(process, runtime, found_at) if process else nothing
    later = _next_start(found, units)
    contacts = _contacts(found, flows)
    container = finder.engines.of(cgroup) if cgroup else None
    return {
        "runtime": runtime.name,
        "title": runtime.title,
        "running": bool(found.pids),
        "how": found.how,
        "cgroup": escape(cgroup) if cgroup is not None else None,
        "unit": unit_of(cgroup),
        "container": container.name if container else None,
        "image": next(iter(container.images), None) if container else None,
        "pids": list(found.pids),
        "others": found.others,
        "proxies": [one.document for one in used],
        "api": [{"address": one.host, "port": one.port, "source": one.source} for one in found_at],
        "switches": [_switch(runtime, name, places, later[name]) for name, places in set_to.items()],
        "contacts": contacts,
        "purposes": [_purpose(runtime, one) for one in runtime.purposes],
        "anywhere": [msgspec.structs.asdict(one) for one in runtime.anywhere],
        "despite": _despite(runtime, set_to, contacts, since),
        "profile": {"file": str(runtime.file), "checked": runtime.checked},
    }


def _api(finder: Finder, found: Found) -> tuple[Address, ...]:
    """Return where a runtime's own processes listen, else its children, else where it is said to."""
    runtime, proc = found.runtime, finder.proc
    own = [proc / str(pid) for pid in found.pids if finder.recognizer.is_process(str(pid), runtime)]
    every = [proc / str(pid) for pid in found.pids]
    said = addresses(every[0], runtime.api) if runtime.api else ()
    return listening(own) or listening(every) or said


def _purpose(runtime: Runtime, purpose: PurposeTable) -> Json:
    """Return what a user may keep of a runtime, and what carries it: hosts, phases, requests."""
    carriers = [host for host in runtime.hosts if purpose.name in host.keep]
    return {
        "name": purpose.name,
        "what": purpose.what,
        "phases": list(purpose.phases),
        "hosts": [
            {"name": host.name, "purpose": host.purpose, "requests": list(host.requests), "plain": host.plain}
            for host in carriers
        ],
    }


def _own_unit(found: Found, units: tuple[Path, ...]) -> str | None:
    """Return the unit whose files say how this is started next; None where it is none."""
    is_unit = found.how == "unit" or found.how.endswith(".service")
    return _unit(found.runtime, units) if is_unit else None


def _next_start(found: Found, units: tuple[Path, ...]) -> dict[str, list[Json]]:
    """Return what a unit's files set each switch to: in force from its next start on, if it runs already."""
    runtime = found.runtime
    unit = _own_unit(found, units)
    names = {name for one in runtime.switches for name in one.variables}
    told = settings(unit, names, units) if unit else {}
    return {
        one.name: [
            {
                "variable": name,
                "value": told[name].value,
                "file": escape(told[name].file),
                "private": is_private(told[name].value, one.private, one.spelling),
            }
            for name in one.variables
            if name in told
        ]
        for one in runtime.switches
    }


def _switch(runtime: Runtime, name: str, places: tuple[Seen, ...], later: list[Json]) -> Json:
    one = next(switch for switch in runtime.switches if switch.name == name)
    return {
        "name": name,
        "setting": one.setting,
        "stops": one.stops,
        "private": is_set(one, places),
        "places": [{"where": at.where, "value": at.value, "private": at.private} for at in places],
        "next_start": later,
    }


def _contacts(found: Found, flows: list[Json]) -> list[Json]:
    """Sum up by destination what a runtime's processes of now have started towards others.

    What went to an address that the runtime called by several names is one sum for all of these: which name a
    connection was for, nothing tells any more.
    """
    sums: dict[frozenset[str], Json] = {}
    pids = set(found.pids)
    for flow in flows:
        if flow["pid"] not in pids or flow["direction"] != "out" or flow["scope"] in ("loopback", "host"):
            continue
        if flow["remote_port"] == _DNS_PORT:
            continue
        names = _called(flow)
        one = sums.setdefault(frozenset(names), _contact(found.runtime, names, flow))
        for key, count in (
            ("connections", "attempts"),
            ("denied",) * 2,
            ("bytes_out",) * 2,
            ("bytes_in",) * 2,
        ):
            one[key] += flow[count]
        one["first_seen"] = min(one["first_seen"], flow["first_seen"])
        one["last_seen"] = max(one["last_seen"], flow["last_seen"])
    return sorted(sums.values(), key=lambda one: one["last_seen"], reverse=True)


def _called(flow: Json) -> tuple[str, ...]:
    """Return what the runtime itself called this address, the best name first; else the address."""
    best = flow["name"] or flow["remote_addr"]
    said = {one["name"] for one in flow.get("names", ()) if one["own"] and one["source"] == SNI}
    return (best, *sorted(said - {best}))


def _contact(runtime: Runtime, names: tuple[str, ...], flow: Json) -> Json:
    told = [explain(runtime, name) for name in names]
    purpose = "; ".join(dict.fromkeys(text for text in told if text)) or None
    counts = dict.fromkeys(("connections", "denied", "bytes_out", "bytes_in"), 0)
    return {
        "name": names[0],
        "also": list(names[1:]),
        "purpose": purpose,
        "unexpected": None in told and flow["scope"] == Scope.INTERNET,
        **counts,
        "first_seen": flow["first_seen"],
        "last_seen": flow["last_seen"],
    }


def _despite(
    runtime: Runtime, set_to: dict[str, tuple[Seen, ...]], contacts: list[Json], since: str | None
) -> list[str]:
    """Say in words where a switch is set and what it should stop was tried all the same."""
    holding = {one.name: one.setting for one in runtime.switches if is_set(one, set_to.get(one.name, ()))}
    said = []
    for contact in contacts:
        names = (contact["name"], *contact["also"])
        stopped = set.intersection(
            *({off for host in hosts(runtime, name) for off in host.off} for name in names)
        )
        for name in sorted(stopped & holding.keys()):
            count = contact["connections"]
            words = f"{count} connection{'' if count == 1 else 's'} to {contact['name']}"
            said.append(f"{holding[name]}, yet {words} since {since}")
    return said


_TEXT: Final = """\
Find the model runtimes that run or are installed here, and show how each was found, where its API listens,
what its privacy switches are set to, and, if a daemon runs, whom it contacts and why: a destination that
its profile does not name is UNEXPECTED, and one that a switch should have stopped is told in words.

Of a process's environment only the switches that its profile names and the address of a proxy are read and
shown, and as the runtime itself reads them. A runtime that tells its settings (Ollama: GET /api/status) is
asked, on loopback only, at a socket that it listens on. A proxy comes first: its traffic leaves from another
process.

JSON (--json): since (of the daemon's counts; null: no daemon) and targets, each with runtime, title,
running, how (unit, container, session, process, "installed: FILE"), cgroup, unit, container, image, pids,
others (processes in its cgroup that are not its own), proxies (variable, address, port, local, pids,
no_proxy: what goes past it, file: of its service, which sets it at the next start, server: pid, comm,
selector; note), api (address, port, source: listening, or what says so), switches (name, setting, stops,
private: whether it holds; places: where, value, private; next_start: variable, value, file, private, as its
service's files say), contacts (name, also: other names of that address, purpose, unexpected, connections,
denied, bytes_out, bytes_in, first_seen, last_seen: of processes that run now), known_since (when
the daemon began to count all of it; null: it is no target), purposes (name,
what, phases; hosts: name, purpose, requests, plain: what block keeps open), anywhere (what may go to any
host), despite (lines: what is done although a switch is set), profile (file, checked)."""


def _targets(arguments: argparse.Namespace) -> int:
    document = survey(arguments.instance)
    if arguments.json:
        return print_json(document)
    from exporters.terminal.targets import print_targets

    print_targets(document)
    return 0


COMMAND: Final = Command(
    "targets",
    "the model runtimes of this host, their switches, and what they do all the same",
    _TEXT,
    "  sudo tattle targets\n  sudo tattle targets --json | jq '.targets[].despite'",
    add_json,
    _targets,
)
