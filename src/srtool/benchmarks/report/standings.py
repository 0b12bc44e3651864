"""Who is fastest: of the candidates of a network, on each machine that has results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from srtool.benchmarks.report.timings import speed_cell
from srtool.benchmarks.speed.result import (
    Bench,
    Candidate,
    Measured,
    Place,
    Spread,
    Timing,
    spread,
)
from srtool.benchmarks.speed.timing import ratios
from srtool.tables.table import EMPTY, Cell, Table, figure, size_text, table_of, times


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


def common_place(network: Measured) -> Place | None:
    """The size and batch at which most candidates were timed, the largest of those; None without
    any."""
    counts = Counter(
        (timing.size, timing.batch)
        for candidate in network.candidates
        for timing in candidate.timings
    )
    most = max(counts.values(), default=0)
    places = [place for place, times_ in counts.items() if times_ == most]
    return max(places, key=lambda place: (place[0][0] * place[0][1], -place[1]), default=None)


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


def fastest_table(benches: Iterable[Bench]) -> Table:
    """A row per machine and network."""
    rows = [
        (group, found)
        for group in by_machine(benches)
        for network in networks_of(group)
        if (found := fastest(network, group))
    ]
    return table_of(
        "Fastest engine of each network",
        {
            "machine": lambda row: _machine(row[0]),
            "network": lambda row: Cell(row[1].network.network, note=size_text(*row[1].place)),
            "fastest engine": lambda row: row[1].engine.name,
            "LR MP/s": lambda row: figure(row[1].timing.lr_megapixels_per_second),
            "over PyTorch eager fp32": lambda row: speed_cell(
                row[1].network, row[1].engine, row[1].timing
            ),
            "over the fastest other": lambda row: _ahead(row[1]),
            "rounds": lambda row: str(row[1].rounds) if row[1].rounds else None,
        },
        {"": rows},
        words=3,
    )


def _machine(benches: Sequence[Bench]) -> Cell:
    return Cell(benches[0].machine.title, note=max(bench.made for bench in benches)[:10])


def _ahead(found: Fastest) -> Cell:
    if not found.other or not found.ahead:
        return Cell(EMPTY, note=found.other.name if found.other else "")
    against = times(found.ahead.median, found.ahead.low, found.ahead.high)
    return Cell(against.text, note=f"{found.other.name}, {against.note}")
