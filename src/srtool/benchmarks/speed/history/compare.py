"""Two results of `srtool bench` against each other: what became faster or slower beyond the noise.

The noise of a row is that of its runs: an interval by the bootstrap of medians. What differs from
one start of a process to the next (where memory lies, which core runs what) is not in there; the
tolerance is for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from srtool.benchmarks.speed.history.changes import Change, changes_of, timings_of_both
from srtool.benchmarks.speed.history.noise import BUSY, Ratio, ratio_of, speeds
from srtool.benchmarks.speed.result import Bench, Measured, Side, Timing, place_of
from srtool.errors import UsageError

TOLERANCE = 0.03  # of a speed: less than that is no change
FEWEST_RUNS = 5

Verdict = Literal["faster", "slower", "same", "too few runs", "no verdict"]


@dataclass(frozen=True)
class Row:
    """One side on images of one size. raw: of seconds. relative: of speeds against the reference
    side of the same run, which cancels drift of the machine; None for the reference and where one
    of the two was not measured. judged: the one that the verdict is about. runs: before, after."""

    network: str
    side: str
    size: tuple[int, int]
    batch: int
    raw: Ratio
    relative: Ratio | None
    judged: Literal["raw", "relative", ""]
    verdict: Verdict
    runs: tuple[int, int]

    @property
    def place(self) -> str:
        return place_of(self.size, self.batch)

    @property
    def line(self) -> str:
        ratio = self.relative if self.judged == "relative" and self.relative else self.raw
        against = " against the reference" if self.judged == "relative" else ""
        return (
            f"{self.network}, {self.side}, {self.place}: {ratio.median:.3f}x as "
            f"fast{against} ({ratio.low:.3f} to {ratio.high:.3f})"
        )


@dataclass(frozen=True)
class Comparison:
    """made, machines: of the earlier and the later result. only_before, only_after: what the other
    lacks, with its reason where it gives one. notes: what weakens the comparison."""

    made: tuple[str, str]
    machines: tuple[str, str]
    same_machine: bool
    tolerance: float
    rows: tuple[Row, ...]
    changes: tuple[Change, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def regressions(self) -> list[Row | Change]:
        """Slower rows, and memory that grew by more than a tenth."""
        slower = [row for row in self.rows if row.verdict == "slower"]
        return [*slower, *(change for change in self.changes if change.flagged)]


def compare(before: Bench, after: Bench, tolerance: float = TOLERANCE, seed: int = 0) -> Comparison:
    """Set the later result against the earlier one, by names of networks and sides.

    A side is judged by its speed against the reference where both have the same reference, in the
    same software and precision; else by its seconds, on the same machine only; else not at all.
    UsageError where they have no network in common.
    """
    if not 0 <= tolerance < 1:
        raise UsageError(f"--tolerance {tolerance}: expected a share from 0 to 1, such as 0.03")
    same_machine = before.machine.fingerprint == after.machine.fingerprint
    earlier = {found.network: found for found in before.networks}
    later = {found.network: found for found in after.networks}
    both = [name for name in earlier if name in later]
    if not both:
        raise UsageError(
            f"nothing to compare: one result has {', '.join(earlier) or 'no network'}, the other "
            f"{', '.join(later) or 'none'}"
        )
    rows: list[Row] = []
    changes: list[Change] = []
    notes = _doubts(before, after)
    for name in both:
        pair = _Pair(earlier[name], later[name], same_machine, tolerance, seed)
        found = pair.rows()
        rows += found
        changes += pair.changes()
        notes += pair.notes(found)
    return Comparison(
        made=(before.made, after.made),
        machines=(_machine(before), _machine(after)),
        same_machine=same_machine,
        tolerance=tolerance,
        rows=tuple(rows),
        changes=tuple(changes),
        only_before=tuple(_missing(before.networks, later)),
        only_after=tuple(_missing(after.networks, earlier)),
        notes=tuple(notes),
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
            self._row(old, old_timing, new_timing)
            for old, new in self._sides()
            for old_timing, new_timing in timings_of_both(old, new)
        ]

    def changes(self) -> list[Change]:
        return [
            change
            for old, new in self._sides()
            for change in changes_of(self.before.network, old, new, self.same_machine)
        ]

    def notes(self, rows: list[Row]) -> list[str]:
        old, new = self.before, self.after
        found = []
        if (old.architecture, old.flops, old.scale) != (new.architecture, new.flops, new.scale):
            found.append(f"{old.network} is another network now: {_shape(old)} -> {_shape(new)}")
        if self.same_machine and self._comparable():
            for row in rows:
                drifted = _verdict(row.raw, self.tolerance) in ("slower", "faster")
                if row.side == old.reference and drifted:
                    found.append(
                        f"{old.network}, {row.place}: the reference, unchanged, "
                        f"is {row.raw.median:.2f}x as fast: the machine is in another state"
                    )
        for was, now in self._sides():
            if was.precision != now.precision:
                found.append(
                    f"{old.network}, {was.name} computes in {now.precision} now, in "
                    f"{was.precision} before"
                )
        references = self._reference(old), self._reference(new)
        if not self._comparable():
            why = f"{_software(references[0])} -> {_software(references[1])}"
            judged = "seconds are compared" if self.same_machine else "nothing is judged"
            found.append(f"{old.network} has no reference in common ({why}): {judged}")
        return found

    def _sides(self) -> list[tuple[Side, Side]]:
        pairs = ((side, self.after.side(side.name)) for side in self.before.sides)
        return [(old, new) for old, new in pairs if new is not None]

    def _reference(self, measured: Measured) -> Side | None:
        """An engine is none: it is what may have become slower."""
        side = measured.side(measured.reference)
        return side if side and side.kind == "baseline" else None

    def _comparable(self) -> bool:
        """Whether both are relative to the same thing."""
        old, new = self._reference(self.before), self._reference(self.after)
        if old is None or new is None:
            return False
        return (old.name, old.software, old.precision) == (new.name, new.software, new.precision)

    def _row(self, side: Side, old: Timing, new: Timing) -> Row:
        raw = self._ratio(old, new)
        runs = [old, new]
        relative = None
        if self._comparable() and side.name != self.before.reference:
            base, new_base = self._base(self.before, old), self._base(self.after, old)
            if base is not None and new_base is not None:
                relative = self._ratio(old, new, base, new_base)
                runs += [base, new_base]
        judged: Literal["raw", "relative", ""] = "relative" if relative else "raw"
        if relative is None and not self.same_machine:
            judged = ""
        elif relative is None and self._comparable() and side.name == self.before.reference:
            judged = ""  # unchanged software: what it lost or gained is drift of the machine
        verdict = _verdict(relative or raw, self.tolerance) if judged else "no verdict"
        if judged and min(len(timing.seconds) for timing in runs) < FEWEST_RUNS:
            verdict = "too few runs"
        return Row(
            network=self.before.network,
            side=side.name,
            size=old.size,
            batch=old.batch,
            raw=raw,
            relative=relative,
            judged=judged,
            verdict=verdict,
            runs=(len(old.seconds), len(new.seconds)),
        )

    def _ratio(
        self,
        old: Timing,
        new: Timing,
        base: Timing | None = None,
        new_base: Timing | None = None,
    ) -> Ratio:
        return ratio_of(speeds(old, base, self.seed), speeds(new, new_base, self.seed + 1))

    def _base(self, measured: Measured, at: Timing) -> Timing | None:
        """The reference on the same images."""
        reference = self._reference(measured)
        return reference.timing(at.size, at.batch) if reference else None


def _verdict(ratio: Ratio, tolerance: float) -> Verdict:
    if ratio.high < 1 - tolerance:
        return "slower"
    return "faster" if ratio.low > 1 + tolerance else "same"


def _missing(networks: Sequence[Measured], others: dict[str, Measured]) -> list[str]:
    """Networks, sides and sizes that the other result lacks."""
    found = []
    for measured in networks:
        other = others.get(measured.network)
        if other is None:
            found.append(measured.network)
            continue
        for side in measured.sides:
            there = other.side(side.name)
            if there is None:
                why = other.absent.get(side.name, "")
                found.append(f"{measured.network}, {side.name}" + (f" ({why})" if why else ""))
                continue
            for timing in side.timings:
                if there.timing(timing.size, timing.batch) is None:
                    at = place_of(timing.size, timing.batch)
                    why = there.skipped.get(at, "")
                    found.append(
                        f"{measured.network}, {side.name}, {at}" + (f" ({why})" if why else "")
                    )
    return found


def _doubts(before: Bench, after: Bench) -> list[str]:
    """What is wrong with the two runs as such."""
    found = []
    if before.machine.fingerprint != after.machine.fingerprint:
        found.append(
            "the machines differ: seconds say nothing about the software, and only speeds against "
            "the reference are judged"
        )
    for which, bench in (("earlier", before), ("later", after)):
        if bench.busy is not None and bench.busy > BUSY:
            found.append(
                f"the {which} one was measured while others used {bench.busy:.1f} cores of the "
                "machine"
            )
    return found


def _machine(bench: Bench) -> str:
    machine = bench.machine
    gpu = f", {machine.gpu}" if machine.gpu else ""
    return f"{machine.cpu}, {machine.cores} cores{gpu} ({machine.fingerprint})"


def _shape(measured: Measured) -> str:
    flops = "" if measured.flops is None else f", {measured.flops / 1e6:.2f} MFLOP a pixel"
    return f"{measured.architecture} x{measured.scale}{flops}"


def _software(side: Side | None) -> str:
    return f"{side.name}, {side.software}, {side.precision}" if side else "not run"
