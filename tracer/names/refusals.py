"""Names that a policy has refused, and the command that would allow each: what a blocked pull needs to go on.

Pure: bytes and values in, values out. Bounded, for a program may ask for any number of names; what finds no
room is still counted in its flow as denied.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from tracer.model.destination import DNS
from tracer.model.records import address
from tracer.policy.name_rules import Pattern
from tracer.policy.rules import ALWAYS, DNS_PORT, PROTOCOLS, Name, Phase, as_command, compile_policy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tracer.model.destination import Name as Known
    from tracer.model.rows import FlowRow
    from tracer.policy.rules import Policy, Rule

TARGETS_MAX: Final = 64
_EVERY_PHASE: Final = 0xFF
NAMES_MAX: Final = 64  # of one target; the oldest makes room
_DOING: Final = {
    Phase.STARTUP: "it starts",
    Phase.IDLE: "it is idle",
    Phase.INFERENCE: "a prompt is in flight",
    Phase.PULL: "a pull is in flight",
    Phase.ACCOUNT: "a request of its account is in flight",
}


class Refused(NamedTuple):
    """A name that a target may not speak to; `port` None: it was only asked for by DNS."""

    target: str
    name: str
    port: int | None


class Refusals:
    """The names that were refused of late, by target."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, OrderedDict[str, int | None]] = OrderedDict()

    def add(self, one: Refused) -> bool:
        """Remember a refusal; says whether it is news."""
        names = self._known.setdefault(one.target, OrderedDict())
        news = one.name not in names
        names[one.name] = one.port or names.get(one.name)
        if len(names) > NAMES_MAX:
            names.popitem(last=False)
        if len(self._known) > TARGETS_MAX:
            self._known.popitem(last=False)
        return news

    def items(self) -> list[Refused]:
        """Give what is remembered, oldest first."""
        return [
            Refused(target, name, port)
            for target, names in self._known.items()
            for name, port in names.items()
        ]


def allowing(policy: Policy, refused: Refused, instance: str) -> str | None:
    """Return the command that allows this name, too, and changes nothing else of the policy.

    None where a rule speaks of the name already: one that allows it has been followed, one that denies it is
    meant.
    """
    if any(_speaks(rule.match, refused) for rule in policy.rules()):
        return None
    rule = refused.name if refused.port is None else f"{refused.name}:{refused.port}"
    return as_command(replace(policy, allow=(*policy.allow, rule)), instance)


def opens(policy: Policy, refused: Refused) -> str | None:
    """Say when a policy allows a name that it has refused: `only while a pull is in flight`.

    None where no rule speaks of the name, where one denies it, or where one allows it in every phase.
    """
    speaking = [rule for rule in policy.rules() if _speaks(rule.match, refused)]
    if not speaking or any(rule.deny or not rule.phases for rule in speaking):
        return None
    bits = {phase for phase in Phase for rule in speaking if rule.phases & 1 << phase}
    return f"only while {' or '.join(words for phase, words in _DOING.items() if phase in bits)}"


def allowing_address(policy: Policy, row: FlowRow, instance: str) -> tuple[str, str] | None:
    """Return the rule that allows the remote end of a flow, and the command that adds it to a policy.

    None where that is allowed by now, in some phase at least, where a rule denies it, or where it is a
    question of DNS, which a rule by name allows.
    """
    proto = next((name for name, number in PROTOCOLS.items() if number == row.proto), None)
    if proto is None or row.remote_port == DNS_PORT:
        return None
    table = compile_policy(policy)
    said = table.judge(row.remote, row.remote_port, row.proto, phases=_EVERY_PHASE)
    if not said.denied or said.rule:
        return None
    text = address(row.remote)
    rule = f"{f'[{text}]' if ':' in text else text}:{row.remote_port}/{proto}"
    return rule, as_command(replace(policy, allow=(*policy.allow, rule)), instance)


def outlived(policy: Policy, row: FlowRow, names: Iterable[Known]) -> Known | None:
    """Return the name of which an answer had opened an address that is closed since its time is over.

    `names`: what the address was called when the flow was last seen, which is when it was denied. None where
    that is not why, or not certain: a rule bound to phases may have closed it, too.
    """
    for one in names:
        if not (one.own and one.expired and one.source == DNS):
            continue
        called = Refused(policy.target, one.name, row.remote_port)
        about = [rule for rule in policy.rules() if _speaks(rule.match, called) and _carries(rule, row.proto)]
        if about and all(not rule.deny and rule.phases == ALWAYS for rule in about):
            return one
    return None


def _carries(rule: Rule, proto: int) -> bool:
    """Say whether a rule by name is about this protocol; one without allows TCP, and denies all."""
    said = rule.match.proto if isinstance(rule.match, Name) else proto
    return proto == said or (not said and (rule.deny or proto == PROTOCOLS["tcp"]))


def _speaks(match: object, refused: Refused) -> bool:
    """Say whether a rule is about this name, at this port."""
    if not isinstance(match, Name) or match.port not in (0, refused.port or match.port):
        return False
    return Pattern(match.name, match.wildcard).covers(
        Pattern(refused.name.lower().rstrip("."), wildcard=False)
    )
