"""Who is fastest: of the candidates of a network, on each machine that has results; and which
engine of an evaluation a network is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from srtool.benchmarks.evaluation import Evaluation
from srtool.benchmarks.speed.result import (
    Bench,
    Candidate,
    Measured,
    Place,
    Spread,
    Timing,
    spread,
)
from srtool.benchmarks.speed.rounds import ratios


@dataclass(frozen=True)
class Fastest:
    """The fastest engine of a network where most candidates were timed. other: the fastest of what
    people run otherwise, and how many times as fast the engine is, over all rounds in which both
    ran; None where nothing else was timed."""

    network: Measured
    place: Place
    engine: Candidate
    timing: Timing
    other: Candidate | None
    ahead: Spread | None
    rounds: int

    @property
    def reference(self) -> Timing | None:
        """Of what speeds are relative to, at the same size and batch."""
        found = self.network.candidate(self.network.reference)
        return found.timing(*self.place) if found else None


def by_machine(benches: Iterable[Bench]) -> list[list[Bench]]:
    """Those of each machine, whose seconds can be compared, together; the last measured first."""
    found: dict[str, list[Bench]] = {}
    for bench in benches:
        found.setdefault(bench.machine.fingerprint, []).append(bench)
    return sorted(found.values(), key=lambda group: max(it.made for it in group), reverse=True)


def networks_of(benches: Iterable[Bench]) -> list[Measured]:
    """Of each network the result with the most candidates."""
    found: dict[str, Measured] = {}
    for network in (network for bench in benches for network in bench.networks):
        known = found.get(_key(network))
        if known is None or len(network.candidates) > len(known.candidates):
            found[_key(network)] = network
    return list(found.values())


def _key(network: Measured) -> str:
    return network.sha256 or network.network


def places_of(network: Measured) -> dict[Place, int]:
    """Each size and batch that was timed, from small to large, and with how many candidates."""
    counts = Counter(
        (timing.size, timing.batch)
        for candidate in network.candidates
        for timing in candidate.timings
    )
    return dict(sorted(counts.items(), key=lambda it: (it[0][1], math.prod(it[0][0]), it[0][0])))


def common_place(network: Measured) -> Place | None:
    """The size and batch at which most candidates were timed, the largest of those; None without
    any."""
    counts = places_of(network)
    return max(
        counts, key=lambda place: (counts[place], math.prod(place[0]), -place[1]), default=None
    )


def by_speed(network: Measured, place: Place, kind: str = "") -> list[tuple[Candidate, Timing]]:
    """The candidates of a kind that were timed there, the fastest first."""
    timed = [
        (candidate, timing)
        for candidate in network.candidates
        if (timing := candidate.timing(*place)) and kind in ("", candidate.kind)
    ]
    return sorted(timed, key=lambda item: item[1].p50)


def fastest(network: Measured, benches: Sequence[Bench] = ()) -> Fastest | None:
    """None where no engine was timed. benches: all results of the machine, whose rounds count."""
    place = common_place(network)
    engines = by_speed(network, place, "engine") if place else []
    if place is None or not engines:
        return None
    engine, timing = engines[0]
    others = by_speed(network, place, "baseline")
    ahead: list[float] = []
    if others:
        same = [it for bench in benches for it in bench.networks if _key(it) == _key(network)]
        for measured in same or [network]:
            found = [measured.candidate(it.name) for it in (engine, others[0][0])]
            own, theirs = (it.timing(*place) if it else None for it in found)
            ahead += ratios(own.seconds, theirs.seconds) if own and theirs else []
    return Fastest(
        network,
        place,
        engine,
        timing,
        others[0][0] if others else None,
        spread(ahead) if ahead else None,
        len(ahead),
    )


def evaluated_as(network: Measured, evaluation: Evaluation) -> str | None:
    """The engine of an evaluation that has the same weights, by SHA-256 or else by name."""
    by_name = None
    for name, facts in evaluation.engines.items():
        model = (facts.get("manifest") or {}).get("model", {})
        sums = {facts.get("sha256"), model.get("weights_sha256")} - {None, ""}
        if network.sha256 in sums:
            return name
        names = {
            Path(text).stem for text in (name, facts.get("file"), model.get("weights")) if text
        }
        unknown = not network.sha256 or not sums
        if by_name is None and unknown and Path(network.network).stem in names:
            by_name = name
    return by_name
