"""What tattle promises about its cost, judged by one run's samples. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.bench.rounds import Spread, added_ratio, overhead_ratio, rate_ratio

Cell = Mapping[str, Sequence[float]]
"""Variant -> samples of one road and kind."""

OUTSIDE = 0.98
"""What "nothing measurable" is here: 2 %, the width of a good run's intervals."""


@dataclass(frozen=True)
class Verdict:
    """One promise and what was measured."""

    what: str
    goal: str
    measured: Spread
    met: bool
    sure: bool


def _at_most(what: str, limit: float, measured: Spread) -> Verdict:
    return Verdict(what, f"at most {limit:g}", measured, measured.value <= limit, _sure(limit, measured))


def _at_least(what: str, limit: float, measured: Spread) -> Verdict:
    return Verdict(what, f"at least {limit:g}", measured, measured.value >= limit, _sure(limit, measured))


def _sure(limit: float, measured: Spread) -> bool:
    """Tell whether the whole interval is on one side of the limit."""
    return not measured.low <= limit <= measured.high


def _overhead(cell: Cell, ours: str, yardstick: str) -> Spread:
    return overhead_ratio(cell[ours], cell[yardstick], cell["none"])


def tracing(road: Mapping[str, Cell]) -> Iterator[Verdict]:
    """Promises about what is watched and not blocked."""
    for kind in ("tcp-bulk", "tcp-pingpong", "udp-connected"):
        cell = road[kind]
        yield _at_most(f"{kind}: overhead / empty hooks'", 1.25, _overhead(cell, "tattle", "empty"))
        yield _at_most(f"{kind}: overhead / nft counter's", 1, _overhead(cell, "tattle", "nft counter"))
    cell = road["udp-many"]
    yield _at_most("udp-many: overhead / empty hooks'", 1.6, _overhead(cell, "tattle", "empty"))
    yield _at_most("udp-many: overhead / nft set's", 1, _overhead(cell, "tattle", "nft set"))
    cell = road["tcp-connect"]
    yield _at_least(
        "tcp-connect: rate kept, both ends watched", 0.9, rate_ratio(cell["tattle"], cell["none"])
    )
    cell = road["tcp-connect at one end"]
    kept = rate_ratio(cell["tattle, there only"], cell["none"])
    yield _at_least("tcp-connect: rate kept, one end watched", 0.9, kept)


def spawning(cell: Cell) -> Iterator[Verdict]:
    """Promises about starting programs."""
    kept = rate_ratio(cell["tattle"], cell["none"])
    yield _at_least("fork, exec, exit: rate kept where no target names programs", OUTSIDE, kept)
    kept = rate_ratio(cell["program target"], cell["tattle"])
    yield _at_least("fork, exec, exit: rate kept with a target that names programs", OUTSIDE, kept)


def blocking(road: Mapping[str, Cell]) -> Iterator[Verdict]:
    """Promises about what is blocked."""
    cell = road["udp-one"]
    denied = rate_ratio(cell["block, denied"], cell["nft drop"])
    yield _at_least("denied sendto: speed / nft drop's", 3, denied)
    for kind in ("tcp-connect", "tcp-pingpong", "udp-connected", "udp-one", "udp-many"):
        outside = rate_ratio(road[kind]["block elsewhere"], road[kind]["tattle"])
        yield _at_least(f"{kind}: outside a blocked target: rate / tracing's", OUTSIDE, outside)
    for rules in (10, 10_000):
        blocked, yardstick = f"block, {rules} allowed", f"IPAddressDeny, {rules}"
        for kind in ("tcp-pingpong", "udp-connected", "udp-one", "udp-many"):
            cell = road[kind]
            tracing_alone = _overhead(cell, blocked, "target watched")
            yield _at_most(f"{kind}: {blocked}: overhead / the watched target's", 1.1, tracing_alone)
            verdict = added_ratio(cell[blocked], cell["target watched"], cell[yardstick], cell["none"])
            yield _at_most(f"{kind}: {blocked}: what the verdict adds / {yardstick}'s", 1, verdict)
