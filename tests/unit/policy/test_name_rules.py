"""Rules by name, and what a host makes of names: search domains and hosts files."""

from __future__ import annotations

import pytest

from tracer.policy.name_rules import NameEntry, hosted, searched
from tracer.policy.rules import Policy, compile_policy

SEARCH = ("default.svc.cluster.local", "corp.example")
ONE, TWO = bytes(15) + b"\x07", bytes(15) + b"\x08"


def entries(*allow: str, deny: tuple[str, ...] = ()) -> tuple[NameEntry, ...]:
    """Compile the names of a policy."""
    return compile_policy(Policy("cgroup:/x", allow, deny)).names


@pytest.mark.parametrize(
    ("allow", "deny", "asked"),
    [
        (("a.x",), (), {"a.x.default.svc.cluster.local", "a.x.corp.example"}),
        (("*.x",), (), {"*.x.default.svc.cluster.local", "*.x.corp.example"}),
        (
            ("a.x", "*.corp.example"),
            (),
            {"a.x.default.svc.cluster.local", "*.corp.example.default.svc.cluster.local"},
        ),
        (("a.x",), ("*.corp.example",), {"a.x.default.svc.cluster.local"}),
        ((), ("a.x",), set()),
        ((f"{'a' * 63}.{'b' * 30}.x",), (), {f"{'a' * 63}.{'b' * 30}.x.corp.example"}),
        ((".".join("a" * 14),), (), {".".join("a" * 14) + ".corp.example"}),
    ],
    ids=[
        "name",
        "wildcard",
        "a-rule-speaks-of-it",
        "denied",
        "nothing-allowed",
        "too-long",
        "too-many-labels",
    ],
)
def test_the_allowed_names_below_search_domains(
    allow: tuple[str, ...], deny: tuple[str, ...], asked: set[str]
) -> None:
    """Those may be asked for, for a stub resolver does so on its way; of others the rules speak."""
    names = searched(entries(*allow, deny=deny), SEARCH)
    assert {str(pattern) for pattern in names} == asked


def test_an_allowed_names_addresses_in_a_hosts_file() -> None:
    """Each by the rule that is closest to its name; a denied name opens nothing."""
    names = entries("a.x", "*.x", deny=("bad.x",))
    found = hosted(names, {ONE: {"a.x", "other"}, TWO: {"bad.x", "b.x", "c.b.x"}})
    assert {address: [str(one.pattern) for one in named] for address, named in found.items()} == {
        ONE: ["a.x"],
        TWO: ["*.x"],
    }
