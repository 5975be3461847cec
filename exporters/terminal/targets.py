"""`tattle targets` for people: a block a runtime, what it is set to, what it does all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from exporters.terminal.views import console, known_text, size, table

if TYPE_CHECKING:
    from rich.console import Console

Json = dict[str, Any]
_NUMBERS: Final = frozenset({"connections", "denied", "out", "in"})


def print_targets(document: Json) -> None:
    """Print the document of `targets`."""
    out = console()
    for at, target in enumerate(document["targets"]):
        if at:
            out.print()
        _print_target(out, target, document["since"])
    if not document["targets"]:
        out.print(Text("no model runtime that tattle knows runs or is installed here"))
    elif document["since"] is None:
        out.print(Text("\nno daemon runs that could tell what they do: sudo tattle run"))


def _print_target(out: Console, target: Json, since: str | None) -> None:
    out.print(Text.assemble((target["title"], "bold"), f" ({target['runtime']})  {_state(target)}"))
    for proxy in target["proxies"]:
        out.print(Text(f"  {proxy['note']}", style="bold yellow"))
    for one in target["api"]:
        host = f"[{one['address']}]" if ":" in one["address"] else one["address"]
        out.print(Text(f"  API at {host}:{one['port']} ({one['source']})"))
    for switch in target["switches"]:
        out.print(_switch(switch))
    for said in target["despite"]:
        out.print(Text(f"  {said}", style="bold red"))
    if target["contacts"]:
        _print_contacts(out, target["contacts"])
    elif since is not None and target["running"]:
        known = target["known_since"]
        when = f"since {known or since}"
        out.print(Text(f"  contacts: none seen {when}{'' if known else f'; {known_text(None)}'}"))


def _state(target: Json) -> str:
    if not target["running"]:
        return str(target["how"] if target["how"].startswith("installed") else "not running")
    count = len(target["pids"])
    where = target["container"] or target["unit"] or target["cgroup"]
    others = f", beside {target['others']} others" if target["others"] else ""
    return f"{target['how']} {where}, {count} process{'' if count == 1 else 'es'}{others}"


def _switch(switch: Json) -> Text:
    places = ", ".join(f"{one['where']}: {one['value']}" for one in switch["places"]) or "not set"
    current = {one["value"] for one in switch["places"] if one["where"].startswith("environment")}
    for one in switch["next_start"]:
        if one["value"] not in current:
            places += f"; from its next start {one['variable']}={one['value']}, {one['file']}"
    mark = ("on ", "green") if switch["private"] else ("off", "yellow")
    return Text.assemble("  ", mark, f"  {switch['setting']} stops {switch['stops']} ({places})")


def _print_contacts(out: Console, contacts: list[Json]) -> None:
    made = table(("  contacts", "connections", "denied", "out", "in", "last seen", "purpose"), _NUMBERS)
    for one in contacts:
        why = Text("UNEXPECTED", style="bold red") if one["unexpected"] else Text(one["purpose"] or "")
        made.add_row(
            Text(
                "  " + " or ".join((one["name"], *one["also"])), style="bold red" if one["unexpected"] else ""
            ),
            *(Text(str(one[key])) for key in ("connections", "denied")),
            *(Text(size(one[key])) for key in ("bytes_out", "bytes_in")),
            Text(one["last_seen"][:19] + "Z"),
            why,
        )
    out.print(made)
