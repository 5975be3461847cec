"""Purposes: what a profile says of a destination, in which phase, and what it does not know."""

from __future__ import annotations

import pytest

from exporters.prometheus.collector import unexpected_family
from exporters.terminal.views import event_text
from tests.support.fakes import ENUMS, FakeMaps, event, flow, process
from tracer.host.clock import BootClock
from tracer.model.destination import NAMELESS, NO_PROFILE, NOTHING, Contact, Name, Named
from tracer.model.process import NOBODY
from tracer.model.records import Decoder
from tracer.runtimes.profiles import SHIPPED, read
from tracer.runtimes.purposes import Purposes, explain, matches
from tracer.session.flows import Accounts
from tracer.targets.processes import Registry

OLLAMA = read((SHIPPED,))["ollama"]
MODEL_LIST = "cloud model list, at start and every 4 h"
WHO = NOBODY._replace(target="unit:x", comm="ollama", pid=7)


def contact(**changes: object) -> Contact:
    """Give a connection to nobody known, on the internet, by this side."""
    return Contact(None, 443, "internet", "idle", outward=True)._replace(**changes)


def called(*names: str) -> Named:
    """Give names as TLS told them, the best one first."""
    found = tuple(Name(name, "sni", own=True, age_ns=1) for name in names)
    return Named(found[0], found)


def knowing() -> Purposes:
    """Give purposes for a target that is Ollama."""
    found = Purposes()
    found.know({"unit:x": OLLAMA})
    return found


def test_a_known_destination_explains_itself() -> None:
    """Why, when, and what stops it."""
    assert explain(OLLAMA, "ollama.com", "startup") == (
        f"{MODEL_LIST} (± 20 %), or details of each cloud model, at start; off with OLLAMA_NO_CLOUD=1"
    )
    assert explain(OLLAMA, "registry.ollama.ai", "pull") == (
        "model manifests and layers, on pull, push and create; off by not pulling"
    )


def test_a_prompt_is_told_from_the_model_list() -> None:
    """In phase inference, where both can be; where no phase is known, all that it may be is told."""
    inference = explain(OLLAMA, "ollama.com", "inference")
    assert inference is not None
    assert inference.startswith("prompts for a cloud model")
    assert MODEL_LIST in inference
    assert "signed in" not in inference
    assert "signed in" in (explain(OLLAMA, "ollama.com") or "")


def test_a_request_that_only_asks_for_details_is_told_as_such() -> None:
    """`ollama show X:cloud` is no prompt and no sign-in: its phase is idle, and it leaves all the same."""
    idle = explain(OLLAMA, "ollama.com", "idle")
    assert idle is not None
    assert idle.startswith(MODEL_LIST)
    assert "details of a cloud model or of an unknown name, on show, run and pull" in idle
    assert "prompts" not in idle


@pytest.mark.parametrize(("phase", "stopped"), [("account", "off by not asking"), ("inference", "NO_CLOUD")])
def test_what_the_cloud_switch_does_not_stop_is_said(phase: str, stopped: str) -> None:
    """Sign in and out go on with OLLAMA_NO_CLOUD=1; prompts and web search do not."""
    assert stopped in (explain(OLLAMA, "ollama.com", phase) or "")


@pytest.mark.parametrize(
    ("pattern", "name", "same"),
    [
        ("ollama.com", "ollama.com", True),
        ("ollama.com", "www.ollama.com", False),
        ("ollama.com", "notollama.com", False),
        ("*.r2.cloudflarestorage.com", "dd20.r2.cloudflarestorage.com", True),
        ("*.r2.cloudflarestorage.com", "r2.cloudflarestorage.com", False),
        ("*.r2.cloudflarestorage.com", "xr2.cloudflarestorage.com", False),
    ],
)
def test_wildcards_stand_for_what_is_below(pattern: str, name: str, *, same: bool) -> None:
    """And for nothing else, as in rules."""
    assert matches(pattern, name) is same


def test_what_is_unexpected() -> None:
    """Started by a profiled target, to the internet, and not in the profile; a name does not help."""
    purposes = knowing()
    assert purposes.of("unit:x", contact()).unexpected is True
    assert purposes.of("unit:x", contact(name="tracker.example")).unexpected is True
    assert purposes.of("unit:x", contact(name="ollama.com")).unexpected is False
    assert purposes.of("unit:x", contact(scope="lan")).unexpected is False
    assert purposes.of("unit:x", contact(port=53)) == NOTHING
    assert purposes.of("unit:x", contact(outward=False)) == NOTHING
    assert purposes.of("unit:other", contact()) == NO_PROFILE
    assert purposes.of(None, contact()) == NO_PROFILE


def test_flows_and_events_carry_it() -> None:
    """As `purpose` and `unexpected`; what people read says it, too."""
    decoder = Decoder(ENUMS, knowing())
    known = decoder.flow(flow(), WHO, 0, called("ollama.com"))
    assert known["purpose"].startswith(MODEL_LIST)
    assert known["unexpected"] is False
    strange = decoder.event(event(), WHO, 0, named=called("tracker.example"))
    assert (strange["purpose"], strange["unexpected"]) == (None, True)
    assert "(UNEXPECTED)" in event_text(strange)
    assert f"({MODEL_LIST}" in event_text(decoder.event(event(), WHO, 0, named=called("ollama.com")))
    nobody = decoder.flow(flow(), NOBODY, 0, NAMELESS)
    assert (nobody["purpose"], nobody["unexpected"]) == (None, None)


def accounts_of(*rows: object, names: dict[bytes, str]) -> Accounts:
    """Give accounts of a target that is Ollama, with destinations by these names."""
    maps = FakeMaps(flows=rows, processes=(process(target=1),))
    decoder = Decoder(ENUMS, knowing())
    registry = Registry(maps, ENUMS, {1: "unit:x"}.get)
    found = Accounts(maps, registry, decoder, BootClock())
    found.named = lambda row, _: called(names[row.remote]) if row.remote in names else NAMELESS
    return found


def test_a_strange_name_is_not_hidden_by_a_known_one() -> None:
    """Said to the same address by the same process: the flow is of both, each event of its own."""
    decoder = Decoder(ENUMS, knowing())
    named = called("ollama.com", "tracker.example")
    both = decoder.flow(flow(), WHO, 0, named)
    assert both["purpose"].startswith(MODEL_LIST)
    assert both["unexpected"] is True
    assert decoder.event(event(), WHO, 0, named=named)["unexpected"] is False
    weaker = Name("cdn.example", "dns", own=True, age_ns=1)
    said = called("ollama.com")
    assert decoder.flow(flow(), WHO, 0, said._replace(names=(*said.names, weaker)))["unexpected"] is False
    row = flow("203.0.113.1", attempts=1)
    accounts = accounts_of(row, names={})
    accounts.named = lambda *_: named
    assert accounts.unexpected(accounts.rows()) == {"unit:x": 1}


def test_unexpected_destinations_are_counted_once_each() -> None:
    """By name, else by address; attempts alone do, a socket that did nothing does not; known ones never."""
    rows = [
        flow("203.0.113.1", attempts=1),
        flow("203.0.113.1", attempts=4, remote_port=80),
        flow("203.0.113.2", packets_out=3),
        flow("203.0.113.3", packets_out=1),
        flow("203.0.113.4", attempts=1),
        flow("203.0.113.5"),
        flow("192.168.0.9", attempts=1),
        flow("203.0.113.6", attempts=1, remote_port=53),
    ]
    names = {rows[2].remote: "t.example", rows[3].remote: "t.example", rows[4].remote: "ollama.com"}
    accounts = accounts_of(*rows, names=names)
    counts = accounts.unexpected(accounts.rows())
    assert counts == {"unit:x": 2}
    (sample,) = unexpected_family(counts).samples
    assert (sample.name, sample.labels, sample.value) == (
        "tattle_unexpected_destinations",
        {"target": "unit:x"},
        2,
    )


def test_a_target_that_does_what_is_known_counts_zero() -> None:
    """An alert needs the series to be there before it rises."""
    accounts = accounts_of(names={})
    assert accounts.unexpected(accounts.rows()) == {"unit:x": 0}


def test_what_left_the_table_stays_counted() -> None:
    """Since the start means since the start."""
    old = [flow(f"203.0.113.{number}", attempts=1, last_ns=number) for number in range(1, 91)]
    accounts = accounts_of(*old, names={})
    assert accounts.unexpected(accounts.rows()) == {"unit:x": 90}
    assert accounts.tidy() > 0
    assert len(accounts.rows()) < 90
    assert accounts.unexpected(accounts.rows()) == {"unit:x": 90}
