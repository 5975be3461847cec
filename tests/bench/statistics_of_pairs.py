"""Numbers out of rounds: paired overheads, their ratio, and how sure one can be of them. Pure."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles

RESAMPLES = 2000
SEED = 1
"""Fixed, so that the same samples give the same interval."""


@dataclass(frozen=True)
class Spread:
    """A figure with the interval that holds it: quartiles of samples, or 95 % of resamples."""

    value: float
    low: float
    high: float


def quartiles(samples: Sequence[float]) -> Spread:
    """Give the median with the middle half of the samples."""
    if len(samples) < 2:
        return Spread(samples[0], samples[0], samples[0])
    low, middle, high = quantiles(samples, n=4, method="inclusive")
    return Spread(middle, low, high)


def overheads(samples: Sequence[float], floor: Sequence[float]) -> list[float]:
    """Give what each round's operation cost more than the same round's without hooks."""
    return [with_it - without for with_it, without in zip(samples, floor, strict=True)]


def overhead_ratio(ours: Sequence[float], yardstick: Sequence[float], floor: Sequence[float]) -> Spread:
    """Give median overhead of ours / median overhead of the yardstick, rounds resampled as pairs."""
    mine, theirs = overheads(ours, floor), overheads(yardstick, floor)
    return _resampled(mine, theirs)


def rate_ratio(ours: Sequence[float], floor: Sequence[float]) -> Spread:
    """Give what is left of the rate: time per operation without / with, paired by round."""
    kept = [without / with_it for with_it, without in zip(ours, floor, strict=True)]
    return _resampled(kept, [1.0] * len(kept))


def _resampled(upper: Sequence[float], lower: Sequence[float]) -> Spread:
    dice = random.Random(SEED)  # noqa: S311 - no secret hangs on it
    indices = range(len(upper))
    ratios = []
    for _ in range(RESAMPLES):
        drawn = dice.choices(indices, k=len(upper))
        below = median(lower[i] for i in drawn)
        if below:
            ratios.append(median(upper[i] for i in drawn) / below)
    ratios.sort()
    return Spread(
        median(upper) / (median(lower) or 1e-9), ratios[len(ratios) // 40], ratios[-len(ratios) // 40 - 1]
    )
