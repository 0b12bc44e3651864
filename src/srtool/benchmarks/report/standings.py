"""Who is fastest: of the candidates of a network, on each machine that has results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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
from srtool.tables.table import EMPTY, Cell, Group, Table, figure, fixed, percent, size_text, times


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
        _fastest_row(group, found)
        for group in by_machine(benches)
        for network in networks_of(group)
        if (found := fastest(network, group))
    ]
    columns = (
        *("machine", "network", "fastest engine", "LR MP/s", "over PyTorch eager fp32"),
        *("over the fastest other", "rounds"),
    )
    return Table("Fastest engine of each network", columns, (Group("", tuple(rows)),), words=3)


def _fastest_row(benches: Sequence[Bench], found: Fastest) -> tuple[Cell, ...]:
    speed, ahead = found.timing.speed, found.ahead
    against = times(ahead.median, ahead.low, ahead.high) if ahead else Cell(EMPTY)
    if found.other:
        against = Cell(against.text, note=f"{found.other.name}, {against.note}")
    return (
        Cell(benches[0].machine.title, note=max(bench.made for bench in benches)[:10]),
        Cell(found.network.network, note=size_text(*found.place)),
        Cell(found.engine.name),
        Cell(figure(found.timing.lr_megapixels_per_second)),
        times(speed.median, speed.low, speed.high) if speed else Cell("1"),
        against,
        Cell(str(found.rounds) if found.rounds else EMPTY),
    )


def candidates_table(networks: Sequence[Measured]) -> Table:
    """A block per network: each candidate where most of them were timed, the fastest first."""
    groups = []
    for network in networks:
        place = common_place(network)
        if place is None:
            continue
        rows = tuple(
            _candidate_row(network, candidate, timing)
            for candidate, timing in by_speed(network, place)
        )
        groups.append(Group(f"{network.network}, {size_text(*place)}", rows))
    columns = ("run by", "speed", "LR MP/s", "of the peak", "end to end", "PSNR between, dB")
    return Table("", columns, tuple(groups)).without_empty_columns()


def _candidate_row(network: Measured, candidate: Candidate, timing: Timing) -> tuple[Cell, ...]:
    speed = timing.speed
    precision = "" if candidate.precision in candidate.name else candidate.precision
    return (
        Cell(candidate.name, best=candidate.kind == "engine", note=precision),
        times(speed.median, speed.low, speed.high) if speed else Cell("1"),
        Cell(figure(timing.lr_megapixels_per_second)),
        Cell(percent(timing.peak_share)),
        Cell(fixed(candidate.end_to_end[0].share, 3) if candidate.end_to_end else EMPTY),
        between(network, candidate),
    )


def between(network: Measured, candidate: Candidate) -> Cell:
    """PSNR between a candidate's image and the reference's."""
    if candidate.psnr_between is not None:
        return Cell(figure(candidate.psnr_between))
    return Cell("equal" if candidate.name != network.reference else EMPTY)
