"""Two results of `srtool bench` against each other: what became faster or slower beyond the noise.

How sure a ratio is comes from its runs: the bootstrap of medians (Efron, 1979, percentile
interval), over processes first where a candidate had several, and then over the runs of each, which
are more alike. A machine that is in another state shifts all runs of a result at once: that is what
the tolerance is for, and why speeds are judged against a reference of the same run where both
results have one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from srtool.benchmarks.speed.result import Bench, Candidate, Measured, Spread, Timing, place_of
from srtool.errors import UsageError

TOLERANCE = 0.03  # of a speed: less than that is no change
MORE_MEMORY = 0.10  # of the peak: what is beyond counts as a regression
FEWEST_RUNS = 5
BUSY = 0.5  # cores in use by others, from which seconds are doubtful
DRAWS = 2000

Verdict = Literal["faster", "slower", "same", "too few runs", "no verdict"]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """A candidate on images of one size.

    ratio: how many times as fast the later result is, with its 95 % interval: of its speed against
    the reference where `relative`, which cancels drift of the machine, else of its seconds. runs,
    memory (peak bytes, None where unknown): before and after. verdict: "no verdict" where the
    machines differ and there is no reference in common, and of the reference itself.
    """

    network: str
    candidate: str
    place: str
    ratio: Spread
    relative: bool
    verdict: Verdict
    runs: tuple[int, int]
    memory: tuple[int | None, int | None]

    @property
    def more_memory(self) -> float | None:
        """After over before."""
        before, after = self.memory
        return after / before if before and after else None


@dataclass(frozen=True)
class Comparison:
    """missing: what one of the two lacks. notes: what weakens the comparison."""

    before: Bench
    after: Bench
    same_machine: bool
    tolerance: float
    rows: tuple[Row, ...]
    missing: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def regressions(self) -> list[Row]:
        """Slower rows, and on the same machine those that hold more memory by a tenth."""
        return [
            row
            for row in self.rows
            if row.verdict == "slower"
            or (self.same_machine and (row.more_memory or 0) > 1 + MORE_MEMORY)
        ]


def compare(before: Bench, after: Bench, tolerance: float = TOLERANCE, seed: int = 0) -> Comparison:
    """Set the later result against the earlier one, by names of networks and candidates.

    UsageError where they have no network in common.
    """
    same_machine = before.machine.fingerprint == after.machine.fingerprint
    earlier = {found.network: found for found in before.networks}
    later = {found.network: found for found in after.networks}
    both = [name for name in earlier if name in later]
    if not both:
        raise UsageError(
            f"nothing to compare: one result has {', '.join(earlier) or 'no network'}, the other "
            f"{', '.join(later) or 'none'}"
        )
    pairs = [_Pair(earlier[name], later[name], same_machine, tolerance, seed) for name in both]
    places = [_places(bench) for bench in (before, after)]
    return Comparison(
        before=before,
        after=after,
        same_machine=same_machine,
        tolerance=tolerance,
        rows=tuple(row for pair in pairs for row in pair.rows()),
        missing=(
            *(f"only in the earlier: {it}" for it in places[0] if it not in places[1]),
            *(f"only in the later: {it}" for it in places[1] if it not in places[0]),
        ),
        notes=(*_doubts(before, after), *(note for pair in pairs for note in pair.notes())),
    )


@dataclass(frozen=True)
class _Pair:
    """One network in both results."""

    before: Measured
    after: Measured
    same_machine: bool
    tolerance: float
    seed: int

    def rows(self) -> list[Row]:
        return [
            self._row(old, timing, now)
            for old in self.before.candidates
            if (new := self.after.candidate(old.name))
            for timing in old.timings
            if (now := new.timing(timing.size, timing.batch))
        ]

    def notes(self) -> list[str]:
        old, new = self.before, self.after
        found = []
        if (old.architecture, old.flops, old.scale) != (new.architecture, new.flops, new.scale):
            found.append(f"{old.network} is another network now")
        for was in old.candidates:
            now = new.candidate(was.name)
            if now and was.precision != now.precision:
                found.append(f"{was.name} computes in {now.precision} now, {was.precision} before")
        if not self.references:
            judged = "seconds are compared" if self.same_machine else "nothing is judged"
            found.append(f"{old.network} has no reference in common: {judged}")
        return found

    @cached_property
    def references(self) -> tuple[Candidate, Candidate] | None:
        """What both are relative to, where that is the same thing. An engine is none: it is what
        may have become slower."""
        old, new = (it.candidate(it.reference) for it in (self.before, self.after))
        if not old or not new or old.kind != "baseline":
            return None
        facts = [(it.name, it.kind, it.software, it.precision) for it in (old, new)]
        return (old, new) if facts[0] == facts[1] else None

    def _row(self, candidate: Candidate, old: Timing, new: Timing) -> Row:
        is_reference = bool(self.references) and candidate.name == self.before.reference
        bases: list[Timing | None] = [None, None]
        if self.references and not is_reference:
            bases = [it.timing(old.size, old.batch) for it in self.references]
        relative = None not in bases
        if not relative:
            bases = [None, None]
        ratio = ratio_of(speeds(old, bases[0], self.seed), speeds(new, bases[1], self.seed + 1))
        verdict: Verdict = _verdict(ratio, self.tolerance)
        if min(len(timing.seconds) for timing in (old, new, *bases) if timing) < FEWEST_RUNS:
            verdict = "too few runs"
        # Unchanged software: what the reference lost or gained is drift of the machine.
        if is_reference or not (relative or self.same_machine):
            verdict = "no verdict"
        return Row(
            network=self.before.network,
            candidate=candidate.name,
            place=place_of(old.size, old.batch),
            ratio=ratio,
            relative=relative,
            verdict=verdict,
            runs=(len(old.seconds), len(new.seconds)),
            memory=(old.peak_memory, new.peak_memory),
        )


def speeds(timing: Timing, reference: Timing | None, seed: int) -> Array:
    """The median speed, and after it those of runs that are drawn again with replacement.

    Speed is runs a second, or the ratio to a reference. Interleaved runs are drawn in pairs, so
    that what slowed both at once cancels; where the reference has more runs or fewer, each for
    itself.
    """
    rng = np.random.default_rng(seed)
    seconds = np.array(timing.seconds)
    if reference is None:
        return 1 / _medians(seconds, timing.rounds, rng)
    base = np.array(reference.seconds)
    if len(base) == len(seconds):
        return _medians(base / seconds, timing.rounds, rng)
    return _medians(base, reference.rounds, rng) / _medians(seconds, timing.rounds, rng)


def ratio_of(before: Array, after: Array) -> Spread:
    """Of two results of `speeds` with different seeds."""
    ratios = after / before
    low, high = np.percentile(ratios[1:], [2.5, 97.5])
    return Spread(median=float(ratios[0]), low=float(low), high=float(high))


def _medians(values: Array, rounds: Sequence[int], rng: np.random.Generator) -> Array:
    """Of the values, and of DRAWS samples of them; rounds: how many each process has."""
    if len(rounds) < 2:
        drawn_at_once = values[rng.integers(len(values), size=(DRAWS, len(values)))]
        return np.append(np.median(values), np.median(drawn_at_once, axis=1))
    parts = np.split(values, np.cumsum(rounds)[:-1])
    found = [float(np.median(values))]
    for _ in range(DRAWS):
        drawn = [parts[number] for number in rng.integers(len(parts), size=len(parts))]
        found.append(float(np.median(np.concatenate([rng.choice(it, len(it)) for it in drawn]))))
    return np.array(found)


def _verdict(ratio: Spread, tolerance: float) -> Verdict:
    if ratio.high < 1 - tolerance:
        return "slower"
    return "faster" if ratio.low > 1 + tolerance else "same"


def _places(bench: Bench) -> list[str]:
    """All that was measured, in words."""
    return [
        f"{measured.network}, {candidate.name}, {place_of(timing.size, timing.batch)}"
        for measured in bench.networks
        for candidate in measured.candidates
        for timing in candidate.timings
    ]


def _doubts(before: Bench, after: Bench) -> list[str]:
    """What is wrong with the two runs as such."""
    found = []
    if before.machine.fingerprint != after.machine.fingerprint:
        found.append("the machines differ: only speeds against the reference are judged")
    for which, bench in (("earlier", before), ("later", after)):
        if bench.busy is not None and bench.busy > BUSY:
            found.append(
                f"the {which} one was measured while others used {bench.busy:.1f} cores of the "
                "machine"
            )
    return found
