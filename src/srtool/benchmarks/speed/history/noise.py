"""How sure a ratio of speeds is: the bootstrap of medians (Efron, 1979, percentile interval)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from srtool.benchmarks.speed.result import Timing

BUSY = 0.5  # cores in use by others, from which seconds are doubtful
DRAWS = 2000
_AT_ONCE = 1_000_000  # numbers drawn at a time, for memory's sake

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Ratio:
    """How many times as fast the later result is, with its 95 % interval."""

    median: float
    low: float
    high: float


def speeds(timing: Timing, reference: Timing | None, seed: int) -> Array:
    """The median speed, and after it those of runs that are drawn again with replacement.

    Speed is runs a second, or the ratio to a reference. Interleaved runs are drawn in pairs, so
    that what slowed both at once cancels; where the reference has more runs or fewer, each for
    itself. Where a side had several processes, these are drawn first, and then as many runs of each
    as it made: runs of one process are more alike than those of two.
    """
    rng = np.random.default_rng(seed)
    seconds = np.array(timing.seconds)
    if reference is None:
        return 1 / _medians(seconds, timing.rounds, rng)
    base = np.array(reference.seconds)
    if len(base) == len(seconds):
        return _medians(base / seconds, timing.rounds, rng)
    return _medians(base, reference.rounds, rng) / _medians(seconds, timing.rounds, rng)


def ratio_of(before: Array, after: Array) -> Ratio:
    """Of two results of `speeds` with different seeds."""
    ratios = after / before
    low, high = np.percentile(ratios[1:], [2.5, 97.5])
    return Ratio(float(ratios[0]), float(low), float(high))


def _medians(values: Array, rounds: Sequence[int], rng: np.random.Generator) -> Array:
    found = [np.median(values, keepdims=True)]
    if len(rounds) > 1:
        parts = np.split(values, np.cumsum(rounds)[:-1])
        for _ in range(DRAWS):
            chosen = [parts[number] for number in rng.integers(len(parts), size=len(parts))]
            again = [rng.choice(part, len(part)) for part in chosen]
            found.append(np.median(np.concatenate(again), keepdims=True))
        return np.concatenate(found)
    rows = max(1, min(DRAWS, _AT_ONCE // len(values)))
    for start in range(0, DRAWS, rows):
        count = min(rows, DRAWS - start)
        drawn = rng.integers(len(values), size=(count, len(values)))
        found.append(np.median(values[drawn], axis=1))
    return np.concatenate(found)
