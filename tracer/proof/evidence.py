"""What a proof says, worked out from what was observed: the same for who writes it and who checks it.

A report holds the observations (flows, hooks, losses, maps, sockets) and what follows from them (verdict,
reasons, totals). `conclude` works the second out of the first; `contradictions` does so again and compares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tracer.model.totals import SUMS, Sums, add_counts, totals

if TYPE_CHECKING:
    from collections.abc import Iterable

Json = dict[str, Any]

FORMAT: Final = 2
NO_EGRESS, EGRESS, INCOMPLETE = "no-egress", "egress", "incomplete"
EXIT_CODES: Final = {NO_EGRESS: 0, EGRESS: 1, INCOMPLETE: 4}

LEAVES: Final = frozenset({"lan", "internet", "multicast", "unknown"})
COUNTERS: Final = (*SUMS, "established", "packets_out", "packets_in")
DNS_PORTS: Final = frozenset({53, 853})  # RFC 1035 4.2, RFC 7858 3.1 (over TLS)
# What strangers can fill, and no proof is made of: names that were forgotten for want of room (a flow then
# shows its address), packets of handshakes that nobody accepted (they are counted, in one sum). And
# what became of the history on disk.
NO_EVIDENCE: Final = frozenset(
    {
        *("names_full", "hellos_full", "streams_full", "lookups_full", "handshakes_full"),
        *("history_full", "history_unwritten", "history_reset"),
    }
)
# What tells that two rows of two instances are of the same flow
_SAME: Final = (
    "pid",
    "comm",
    "exe",
    "uid",
    "cgroup",
    "remote_addr",
    "remote_port",
    "proto",
    "direction",
)


def goes_out(flow: Json) -> bool:
    """Tell whether a flow is of the kind that counts: begun here, to elsewhere or to a resolver."""
    if flow["direction"] != "out":
        return False
    return flow["scope"] in LEAVES or flow["remote_port"] in DNS_PORTS


def left(flow: Json) -> bool:
    """Tell whether anything of such a flow left: a denied or unroutable attempt sends no byte."""
    return goes_out(flow) and bool(flow["bytes_out"] or flow["packets_out"] or flow["established"])


def is_keep_alive(flow: Json) -> bool:
    """Tell whether what left was keep-alives and ACKs without data on connections that were open before."""
    opened = flow["attempts"] or flow["established"]
    return left(flow) and flow["proto"] == "tcp" and not opened and not flow["payload_out"]


def keep_alives(flows: Iterable[Json]) -> dict[str, int]:
    """Sum up what `is_keep_alive`."""
    quiet = [flow for flow in flows if is_keep_alive(flow)]
    sums = {name: sum(flow[name] for flow in quiet) for name in ("bytes_out", "packets_out")}
    return {"flows": len(quiet)} | sums


def by_phase(flows: Iterable[Json]) -> dict[str, Sums]:
    """Sum up by phase what `goes_out`: what the runtime was doing while it was sent."""
    found: dict[str, Sums] = {}
    for flow in flows:
        if goes_out(flow):
            add_counts(found.setdefault(flow["phase"], dict.fromkeys(SUMS, 0)), flow)
    return found


def gaps(report: Json) -> list[str]:
    """Say what is missing from the evidence, one sentence each; nothing where it is complete."""
    lost = {name: count for name, count in report["losses"].items() if count and name not in NO_EVIDENCE}
    said = [f"{count} lost: {reason}" for reason, count in sorted(lost.items())]
    said += [
        f"the hook {hook['hook']} was not attached throughout" for hook in report["hooks"] if _moved(hook)
    ]
    said += [f"the table {one['map']} was full" for one in report["maps"] if one["full"]]
    said += [_unseen(one) for one in report["unseen"]]
    said += [_foreign(one) for one in report["preexisting_sockets"] if one["foreign"]]
    return said


def _moved(hook: Json) -> bool:
    before = (hook["link_id_before"], hook["program_id_before"])
    return not hook["attached"] or not hook["link_id"] or (hook["link_id"], hook["program_id"]) != before


def _unseen(one: Json) -> str:
    return f"{one['comm']} ({one['pid']}): {one['what']}"


def _foreign(one: Json) -> str:
    who = f"{one['comm']} ({one['pid']})"
    return f"{who} holds a connection to {one['remote_addr']} that is counted as another program's"


def verdict(report: Json) -> str:
    """Give the verdict: never a promise where evidence is missing."""
    if gaps(report):
        return INCOMPLETE
    return EGRESS if any(left(flow) for flow in report["flows"]) else NO_EGRESS


def reasons(report: Json) -> list[str]:
    """Say why the verdict is what it is, in sentences."""
    flows = report["flows"]
    gone = [flow for flow in flows if left(flow)]
    told = [str(proxy["note"]) for proxy in report.get("proxies", [])]
    told += [f"not seen whole: {gap}" for gap in gaps(report)]
    if gone:
        count = sum(flow["bytes_out"] for flow in gone)
        told.append(f"{count} bytes left, in {_number(len(gone), 'flow')}")
        data = sum(flow["payload_out"] for flow in gone)
        told.append(f"{data} bytes of them are data, the rest is headers and ACKs")
    if (quiet := keep_alives(flows))["flows"]:
        told.append(
            f"{quiet['bytes_out']} bytes, in {_number(quiet['flows'], 'flow')}, are keep-alives and ACKs "
            "without data on connections that were open before the window"
        )
    denied = sum(flow["denied"] for flow in flows if goes_out(flow))
    if denied:
        told.append(f"{_number(denied, 'attempt')} denied by a policy")
    stuck = sum(flow["attempts"] - flow["denied"] for flow in flows if goes_out(flow) and not left(flow))
    if stuck > 0:
        told.append(f"{_number(stuck, 'attempt')} sent nothing: no route, or filtered on this host")
    if len(told) == len(report.get("proxies", [])):
        told.append("nothing was sent beyond this host, and nothing tried to")
    return told


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


CONCLUSIONS: Final = ("verdict", "reasons", "totals", "accepted", "phases", "keep_alives")


def conclude(report: Json) -> Json:
    """Give what follows from a report's observations: the keys of `CONCLUSIONS`."""
    return {
        "verdict": verdict(report),
        "reasons": reasons(report),
        "totals": totals(report["flows"], "out"),
        "accepted": totals(report["flows"], "in"),
        "phases": by_phase(report["flows"]),
        "keep_alives": keep_alives(report["flows"]),
    }


def contradictions(report: Json, hooks: Iterable[str]) -> list[str]:
    """Say what in a report does not follow from the rest of it; `hooks` are those that must be there."""
    found = []
    for name, wanted in conclude(report).items():
        if report[name] != wanted:
            found.append(
                f"{name} does not follow from the flows, hooks and losses: {_differs(report[name], wanted)}"
            )
    if report["window"]["start"] > report["window"]["end"]:
        found.append("the window ends before it starts")
    listed = [hook["hook"] for hook in report["hooks"]]
    found += [f"the hook {name} is not listed" for name in hooks if name not in listed]
    found += [f"the hook {name} is listed twice" for name in sorted(set(listed)) if listed.count(name) > 1]
    found += [
        f"the table {one['map']} has room, yet is called full, or the reverse"
        for one in report["maps"]
        if _odd(one)
    ]
    return found + [f"a flow has a negative number: {flow}" for flow in report["flows"] if _negative(flow)]


def _odd(size: Json) -> bool:
    return bool(size["full"] != (size["entries"] >= size["max_entries"]))


def _negative(flow: Json) -> bool:
    return any(flow[name] < 0 for name in COUNTERS)


def _differs(said: object, wanted: object) -> str:
    if isinstance(said, dict) and isinstance(wanted, dict):
        for name in sorted({*said, *wanted}):
            if said.get(name) != wanted.get(name):
                return f"{name}: {_differs(said.get(name), wanted.get(name))}"
    return f"it says {said}, not {wanted}"


def whole(value: Any) -> Any:  # noqa: ANN401 - JSON, whatever it is
    """Give JSON with whole numbers only, as the canonical form wants them; tuples become lists."""
    if isinstance(value, float):
        return round(value)
    if isinstance(value, dict):
        return {name: whole(inner) for name, inner in value.items()}
    return [whole(inner) for inner in value] if isinstance(value, list | tuple) else value


def since(before: Iterable[Json], after: Iterable[Json]) -> list[Json]:
    """Give what flows gained between two looks at them, only those that gained denials."""
    known = {_key(flow): flow for flow in before}
    gained = []
    for flow in after:
        then = known.get(_key(flow))
        grown = flow if then is None else flow | {name: flow[name] - then[name] for name in COUNTERS}
        if grown["denied"] > 0:
            gained.append(grown)
    return gained


def with_denials(flows: Iterable[Json], denied: Iterable[Json]) -> list[Json]:
    """Add to what was observed what an enforcing instance denied meanwhile (`since`).

    All programs at a cgroup see a packet, also one that another of them drops: of a flow with denials no more
    left than the enforcing instance let pass.
    """
    merged = [dict(flow) for flow in flows]
    places: dict[tuple[Any, ...], list[Json]] = {}
    for flow in merged:
        places.setdefault(_key(flow)[:-1], []).append(flow)
    for row in _without_phase(denied):
        mine = places.get(_key(row)[:-1])
        if mine is None:
            merged.append(row)
            continue
        mine[0]["denied"] += row["denied"]
        mine[0]["attempts"] = max(mine[0]["attempts"], row["attempts"])
        for what in ("bytes_out", "packets_out", "payload_out"):
            _lower(mine, what, row[what])
    return merged


def _key(flow: Json) -> tuple[Any, ...]:
    return (*(flow[name] for name in _SAME), flow["phase"])


def _without_phase(rows: Iterable[Json]) -> list[Json]:
    found: dict[tuple[Any, ...], Json] = {}
    for row in rows:
        known = found.setdefault(_key(row)[:-1], row | dict.fromkeys(COUNTERS, 0))
        for name in COUNTERS:
            known[name] += row[name]
    return list(found.values())


def _lower(flows: list[Json], what: str, most: int) -> None:
    """Take from the rows of one flow what is above its bound."""
    for flow in flows:
        flow[what] = min(flow[what], most)
        most -= flow[what]
