"""Numbers out of rounds, and how sure one can be of them. Pure.

Disturbance only ever adds time (a neighbour on the sibling hyperthread makes everything 1.4 times slower for
seconds), so what a variant costs is what it costs in its quiet rounds: the lower quartile. How sure that is
says the bootstrap: the same figure of rounds drawn again and again, all variants of a round together.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import quantiles

RESAMPLES = 1000
SEED = 1
"""Fixed, so that the same samples give the same interval."""


@dataclass(frozen=True)
class Spread:
    """A figure with the interval that holds it."""

    value: float
    low: float
    high: float


def quartiles(samples: Sequence[float]) -> Spread:
    """Give the median with the middle half of the samples."""
    if len(samples) < 2:
        return Spread(samples[0], samples[0], samples[0])
    low, middle, high = quantiles(samples, n=4, method="inclusive")
    return Spread(middle, low, high)


def quiet(samples: Sequence[float]) -> float:
    """Give the cost in quiet rounds."""
    return quartiles(samples).low


def overhead(ours: Sequence[float], floor: Sequence[float]) -> Spread:
    """Give what an operation costs more than without hooks, with its 95 % interval."""
    return _resampled(lambda x, y: quiet(x) - quiet(y), ours, floor)


def overhead_ratio(ours: Sequence[float], yardstick: Sequence[float], floor: Sequence[float]) -> Spread:
    """Give our overhead / the yardstick's overhead, with its 95 % interval."""
    return added_ratio(ours, floor, yardstick, floor)


def added_ratio(
    ours: Sequence[float], before: Sequence[float], yardstick: Sequence[float], floor: Sequence[float]
) -> Spread:
    """Give what ours adds to what was there before / the yardstick's overhead, with its 95 % interval."""

    def ratio(
        mine: Sequence[float], old: Sequence[float], theirs: Sequence[float], ground: Sequence[float]
    ) -> float:
        below = quiet(theirs) - quiet(ground)
        return (quiet(mine) - quiet(old)) / below if below > 0 else float("inf")

    return _resampled(ratio, ours, before, yardstick, floor)


def rate_ratio(ours: Sequence[float], floor: Sequence[float]) -> Spread:
    """Give what is left of the rate: time per operation without / with, with its 95 % interval."""
    return _resampled(lambda x, y: quiet(y) / quiet(x), ours, floor)


def _resampled(figure: Callable[..., float], *columns: Sequence[float]) -> Spread:
    dice = random.Random(SEED)  # noqa: S311 - no secret hangs on it
    rounds = range(min(map(len, columns)))
    figures = []
    for _ in range(RESAMPLES):
        drawn = dice.choices(rounds, k=len(rounds))
        figures.append(figure(*([column[i] for i in drawn] for column in columns)))
    figures.sort()
    return Spread(figure(*columns), figures[RESAMPLES // 40], figures[-RESAMPLES // 40])
