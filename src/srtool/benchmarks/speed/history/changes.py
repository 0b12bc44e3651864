"""What changed from one result to the next apart from speed: load, cold, end to end, memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from srtool.benchmarks.speed.result import Side, Timing, place_of

MORE_MEMORY = 0.10  # what is beyond counts as a regression

Quantity = Literal["load", "cold", "end to end", "memory", "GPU memory"]


@dataclass(frozen=True)
class Change:
    """Another figure of a side. quantity: "load", "cold" (seconds), "end to end" (share of the
    engine's own speed), "memory", "GPU memory" (bytes). at: what it was measured on, or empty.
    flagged: it counts as a regression."""

    network: str
    side: str
    quantity: Quantity
    at: str
    before: float
    after: float
    flagged: bool = False

    @property
    def ratio(self) -> float:
        """After over before, infinite where it was nothing before."""
        return self.after / self.before if self.before else float("inf")

    @property
    def line(self) -> str:
        at = f", {self.at}" if self.at else ""
        return f"{self.network}, {self.side}{at}: {self.ratio:.2f}x the {self.quantity}"


def changes_of(network: str, old: Side, new: Side, same_machine: bool) -> list[Change]:
    """All figures that both have. Memory is flagged on the same machine only: another one has other
    libraries, threads and pages."""
    found = [
        Change(network, old.name, "load", "", old.load, new.load),
        Change(network, old.name, "cold", "", old.cold, new.cold),
    ]
    ends = {(end.files, end.size): end for end in new.end_to_end}
    for end in old.end_to_end:
        if now := ends.get((end.files, end.size)):
            at = f"{end.files} files of {end.size[0]}x{end.size[1]}"
            found.append(Change(network, old.name, "end to end", at, end.share, now.share))
    for was, is_now in timings_of_both(old, new):
        at = place_of(was.size, was.batch)
        pairs: tuple[tuple[Quantity, int | None, int | None], ...] = (
            ("memory", was.peak_memory, is_now.peak_memory),
            ("GPU memory", was.device_memory, is_now.device_memory),
        )
        for quantity, before, after in pairs:
            if before is not None and after is not None:
                flagged = same_machine and after > (1 + MORE_MEMORY) * before
                found.append(Change(network, old.name, quantity, at, before, after, flagged))
    return found


def timings_of_both(old: Side, new: Side) -> list[tuple[Timing, Timing]]:
    """Those at the same size and batch."""
    pairs = ((timing, new.timing(timing.size, timing.batch)) for timing in old.timings)
    return [(was, now) for was, now in pairs if now is not None]
