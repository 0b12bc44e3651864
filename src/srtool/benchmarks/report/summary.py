"""The beginning of the report: the figures to remember, where they were measured, and the end of
it: what was not run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from srtool.benchmarks.evaluation import Evaluation
from srtool.benchmarks.report.sources import Sources
from srtool.benchmarks.report.standings import by_machine, fastest
from srtool.benchmarks.scores import METRICS
from srtool.benchmarks.speed.result import Bench, Measured
from srtool.tables.table import bytes_text, date_text, figure, fixed, size_text

if TYPE_CHECKING:
    from srtool.benchmarks.verify import Verification

BASELINE = "bicubic"


@dataclass(frozen=True)
class Headline:
    value: str
    label: str
    detail: str


@dataclass(frozen=True)
class Origin:
    """Where some figures come from: facts by name, in the order to show them."""

    title: str
    facts: dict[str, str]


@dataclass(frozen=True)
class NotRun:
    """Of one file: what is missing -> why."""

    title: str
    reasons: dict[str, str]


def headlines(sources: Sources) -> list[Headline]:
    """Speed of each network's fastest engine, quality on each data set, parity of each check."""
    several = len(by_machine(bench for _, bench in sources.benches)) > 1
    found = [
        _speed(network, bench.machine.title if several else "")
        for bench, network in sources.networks
    ]
    found += [
        _quality(evaluation, dataset)
        for _, evaluation in sources.evaluations
        for dataset in evaluation.datasets
    ]
    found += [_parity(parity) for _, parity in sources.parities]
    return [headline for headline in found if headline is not None]


def _speed(network: Measured, machine: str) -> Headline | None:
    """machine: where that has to be said."""
    best = fastest(network)
    if best is None:
        return None
    place, candidate, timing = best.place, best.engine, best.timing
    rate = f"{figure(timing.lr_megapixels_per_second)} LR MP/s"
    at = f"{network.network}, {candidate.name}, {size_text(*place)}"
    where = f"; {machine}" if machine else ""
    if timing.speed is None:
        return Headline(rate, at, f"{figure(1e3 * timing.p50)} ms a run{where}")
    low, high = timing.speed.low, timing.speed.high
    return Headline(
        f"{timing.speed.median:.2f}×",
        f"as fast as {network.reference}: {at}",
        f"{low:.2f} to {high:.2f} run by run; {rate}{where}",
    )


def _quality(found: Evaluation, dataset: str) -> Headline | None:
    """The best engine by PI, or by PSNR where that is not known."""
    means = {
        engine: figures
        for engine, figures in found.mean.get(dataset, {}).items()
        if not engine.startswith(BASELINE)
    }
    for metric, sign in (("pi", 1), ("psnr", -1)):
        known = {
            engine: value
            for engine, figures in means.items()
            if (value := figures.get(metric)) is not None
        }
        if not known:
            continue
        best = min(known, key=lambda engine: sign * known[engine])
        unit = " dB" if metric == "psnr" else ""
        title = {"psnr": "PSNR-Y", "pi": "PI, lower is better"}[metric]
        before = found.mean[dataset].get(BASELINE, {}).get(metric)
        change = (
            "" if before is None else f"{fixed(known[best] - before, 2, True)}{unit} to bicubic"
        )
        return Headline(
            f"{fixed(known[best], 2)}{unit}",
            f"{title}: {best} on {dataset}",
            "; ".join(part for part in (change, _others(means[best], metric)) if part),
        )
    return None


def _others(figures: dict[str, float | None], left_out: str) -> str:
    shown = [name for name in ("psnr", "ssim_wang", "niqe") if name != left_out]
    known = [(METRICS[name], figures.get(name)) for name in shown]
    return ", ".join(
        f"{metric.title} {figure(value)}" for metric, value in known if value is not None
    )


def _parity(found: Verification) -> Headline | None:
    if not found.rows:
        return None
    passed = sum(not row.missed for row in found.rows)
    known = [row.fidelity for row in found.rows if row.fidelity]
    detail = ""
    if known:
        most = max(fidelity.max_difference for fidelity in known)
        detail = f"at most {most} of 255 levels apart" if most else "equal in every value"
    return Headline(
        f"{passed} of {len(found.rows)}", f"within the gates on {found.dataset}", detail
    )


def origins(sources: Sources) -> list[Origin]:
    """Machine, versions, date and command of every file."""
    found = [_bench_origin(name, bench) for name, bench in sources.benches]
    for kind, items in (("quality", sources.evaluations), ("parity", sources.parities)):
        for name, item in items:
            found.append(
                Origin(
                    f"{kind}: {name}",
                    {"made": date_text(item.made), "versions": _versions(item.versions)},
                )
            )
    return found


def _bench_origin(name: str, bench: Bench) -> Origin:
    machine = bench.machine
    facts = {
        "made": date_text(bench.made),
        "command": bench.command,
        "machine": machine.fingerprint,
        "CPU": f"{machine.cpu}: {machine.cores} cores, {machine.threads} threads",
        "instructions": ", ".join(machine.instructions),
        "memory": bytes_text(machine.memory),
        "GPU": ", ".join(part for part in (machine.gpu, _gpu(bench)) if part),
        "platform": machine.platform,
        "busy": ""
        if bench.busy is None
        else f"{bench.busy:.2f} cores with other work at the start",
        "measured peaks": "; ".join(_peaks(bench)),
        "versions": _versions(machine.versions),
    }
    return Origin(f"speed: {name}", {key: value for key, value in facts.items() if value})


def _gpu(bench: Bench) -> str:
    machine = bench.machine
    driver = f"driver {machine.driver}" if machine.driver else ""
    memory = bytes_text(machine.gpu_memory) if machine.gpu_memory else ""
    return ", ".join(part for part in (memory, driver) if part)


def _peaks(bench: Bench) -> Iterator[str]:
    for precision, peak in bench.roofline.matrix.items():
        yield f"{precision} {figure(peak / 1e9)} GFLOP/s"
    if bench.roofline.bandwidth:
        yield f"memory {figure(bench.roofline.bandwidth / 1e9)} GB/s"


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def not_run(sources: Sources) -> list[NotRun]:
    """Everything that was asked for and has no figures, with the reason."""
    found = []
    for bench, network in sources.networks:
        reasons = dict(network.absent)
        for candidate in network.candidates:
            reasons |= {
                f"{candidate.name} at {place}": why for place, why in candidate.skipped.items()
            }
        found.append(NotRun(f"speed: {network.network}, {date_text(bench.made)}", reasons))
    for name, evaluation in sources.evaluations:
        reasons = {METRICS[it].title if it in METRICS else it: why
                   for it, why in evaluation.unavailable.items()}  # fmt: skip
        for dataset, engines in evaluation.failures.items():
            for engine, files in engines.items():
                reasons |= {f"{dataset}, {engine}, {file}": why for file, why in files.items()}
        found.append(NotRun(f"quality: {name}", reasons))
    for name, parity in sources.parities:
        reasons = {METRICS[it].title if it in METRICS else it: why
                   for it, why in parity.unavailable.items()}  # fmt: skip
        for row in parity.rows:
            if row.fidelity is None:
                reasons[f"{row.engine} on {row.backend}"] = "; ".join(row.missed)
        found.append(NotRun(f"parity: {name}", reasons))
    return [item for item in found if item.reasons]
