"""Judge what guests said: flows against the wire, and one line of a table for each kernel."""

from typing import Any

from tests.vm.guest_client import DATAGRAMS
from tests.vm.machine import Outcome

COUNTS = ("bytes_out", "bytes_in", "packets_out", "packets_in")
COLUMNS = {
    "TCP4": ("tcp4",),
    "TCP6": ("tcp6",),
    "UDP4": ("udp4", "udp4-connected"),
    "UDP6": ("udp6", "udp6-connected"),
}
HEAD = ("kernel", "engine", "loaded", "attached", *COLUMNS, "detached", "blocked", "boot s", "all s")


def flow(daemon: dict[str, Any], kind: str) -> dict[str, Any]:
    """Give the one flow of the client `kind`; LookupError when there is none, or several."""
    found = [row for row in daemon["flows"]["flows"] if row["comm"] == kind]
    if len(found) != 1:
        raise LookupError(f"{len(found)} flows of {kind}, not 1: {found}")
    return found[0]


def difference(daemon: dict[str, Any], kind: str) -> dict[str, tuple[Any, Any]]:
    """Give what the flow of `kind` says otherwise than the wire and the client: {key: (flow, truth)}."""
    wire = daemon["wire"][kind]
    truth = {name: wire[name] for name in (*COUNTS, "pid")}
    truth |= {"exe": "/usr/bin/python3.11", "uid": 0, "cgroup": "/", "direction": "out", "attempts": 1}
    truth |= {"established": int(kind.startswith("tcp")), "proto": kind[:3], "family": f"ipv{kind[3]}"}
    row = flow(daemon, kind)
    return {name: (row[name], value) for name, value in truth.items() if row[name] != value}


def wire_is_sound(wire: dict[str, Any], kind: str) -> bool:
    """Tell if the tap saw all, packet by packet: a truth that lost or merged packets is none."""
    enough = kind.startswith("tcp") or wire["packets_out"] == wire["packets_in"] == DATAGRAMS
    return wire["exit"] == 0 and not wire["tap_dropped"] and 0 < wire["longest"] <= 1500 and enough


def exact(daemon: dict[str, Any], kind: str) -> bool:
    """Tell if the flow of `kind` is what the wire saw, to the byte."""
    try:
        return wire_is_sound(daemon["wire"][kind], kind) and not difference(daemon, kind)
    except LookupError:
        return False


def attached(daemon: dict[str, Any]) -> str:
    """Give how many hooks the kernel said are attached, of those that status lists."""
    hooks = daemon.get("status", {}).get("hooks", [])
    return f"{sum(hook['attached'] for hook in hooks)}/{len(hooks)}"


def detached(daemon: dict[str, Any]) -> bool:
    """Tell if nothing was left: programs, links (the guest waited for them to go) and pins."""
    return daemon.get("exit") == 0 and daemon.get("pins_left") == []


def blocked(block: dict[str, Any]) -> bool:
    """Tell if nothing left a blocked cgroup, in its first life and its second, and all did without."""
    if "error" in block:
        return False
    shut = [block[when] for when in ("blocked", "anew")]
    free = [block[when] for when in ("control", "lifted")]
    denied = all(set(said.values()) == {"EPERM", "ok", 0} and said["loopback"] == "ok" for said in shut)
    return denied and all({said[way] for way in said if way != "packets"} == {"ok"} for said in free)


def table(outcomes: dict[str, Outcome]) -> str:
    """Give a Markdown table with a line for each guest."""
    rows = [HEAD, tuple("---" for _ in HEAD), *(_row(line, outcome) for line, outcome in outcomes.items())]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(line: str, outcome: Outcome) -> tuple[str, ...]:
    engine = "bcc" if line.endswith("-bcc") else "libbpf"
    if outcome.result is None:
        return (line, engine, "said nothing", *("" for _ in HEAD[4:]), f"{outcome.seconds:.0f}")
    daemon = outcome.result["daemon"]
    flows = (all("wire" in daemon and exact(daemon, kind) for kind in kinds) for kinds in COLUMNS.values())
    words = [_word(outcome.result["object"].get("loaded", False)), attached(daemon)]
    words += [*map(_word, flows), _word(detached(daemon)), _word(blocked(outcome.result["block"]))]
    return (
        outcome.result["kernel"],
        engine,
        *words,
        f"{outcome.result['boot_seconds']:.0f}",
        f"{outcome.seconds:.0f}",
    )


def _word(good: object) -> str:
    return "yes" if good else "NO"
