"""Timing candidates in turn: warm-up until stable, then rounds in which every candidate runs once.

Machines are shared and drift. What hits one round hits all its candidates, so that the ratio of two
candidates, taken round by round, is far steadier than the seconds of either.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from srtool.errors import SrtoolError

Item = TypeVar("Item")
Run = Callable[[], float]  # runs once, and gives the seconds

STABLE = 0.05  # warm when the last three runs lie within this share of each other
MOST_WARM_UP = 12  # runs; a machine that others use may never be that stable
FEWEST, MOST = 5, 200  # rounds; fewer tell nothing of noise
PAUSE = (
    0.02  # seconds before a run: threads of the last one spin for a while, and cost this one 8 %
)


def warm_up(run: Run, budget: float, least: float = 0.0) -> int:
    """Run until the time is stable; how many runs that took, at least two.

    budget: seconds; after half of it (the first run apart) it is as warm as it gets. least: seconds
    that it goes on for in any case.
    """
    found: list[float] = []
    while len(found) < MOST_WARM_UP or sum(found) < least:
        found.append(run())
        last = found[-3:]
        stable = len(last) == 3 and max(last) - min(last) <= STABLE * min(last)
        late = len(found) >= 2 and sum(found[1:]) > budget / 2
        if (stable or late) and sum(found) >= least:
            break
    return len(found)


def interleaved(
    candidates: Mapping[str, Run],
    budget: float,
    fewest: int = FEWEST,
    report: Callable[[str], None] = lambda line: None,
) -> tuple[dict[str, tuple[float, ...]], dict[str, str]]:
    """Run all candidates in turn, round by round; the seconds of each round, by candidate. A
    candidate that fails is left out of everything that follows; second result: the reasons.

    budget: seconds that a candidate may take, on average. fewest: rounds that are made in any case.
    Each begins with another candidate, so that none always follows the same.
    """
    failed: dict[str, str] = {}
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    left = budget * len(candidates)
    rounds = 0
    while seconds and rounds < MOST and (rounds < fewest or left > 0):
        report(f"round {rounds + 1}")
        for name in rotated(list(seconds), rounds):
            try:
                time.sleep(PAUSE)
                took = candidates[name]()
            except SrtoolError as error:  # noqa: PERF203
                failed[name] = str(error)
                del seconds[name]
            else:
                seconds[name].append(took)
                left -= took
        rounds += 1
    return {name: tuple(found) for name, found in seconds.items()}, failed


def rotated(items: Sequence[Item], by: int) -> list[Item]:
    """The same in a circle, beginning elsewhere."""
    start = by % len(items) if items else 0
    return [*items[start:], *items[:start]]


def ratios(own: Sequence[float], reference: Sequence[float]) -> list[float]:
    """How many times as fast as the reference, round by round, as far as both went."""
    return [theirs / ours for ours, theirs in zip(own, reference, strict=False)]
