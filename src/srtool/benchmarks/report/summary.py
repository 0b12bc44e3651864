"""The beginning of the report: what to use, and its end: where all of it was measured, and what was
not run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from srtool.benchmarks.report.quality import merged
from srtool.benchmarks.report.sources import Sources
from srtool.benchmarks.report.standings import by_machine, evaluated_as, fastest, networks_of
from srtool.benchmarks.scores import METRICS
from srtool.benchmarks.speed.result import Bench
from srtool.tables.table import bytes_text, date_text, figure, fixed, size_text

BASELINE = "bicubic"
Facts = tuple[str, dict[str, str]]  # a title, and what there is to say by name, in its order
SHOWN = ("psnr", "ssim_wang", "lpips", "niqe")


@dataclass(frozen=True)
class Answer:
    """value: the figure to remember. label: of what, or what to use."""

    value: str
    label: str
    details: list[str]


def answers(sources: Sources) -> list[Answer]:
    """What to use, for each network that was timed on the machine that was measured last: how fast
    it is, how good, and whether it is certified. Without timings, the best engine of each data
    set."""
    found = list(_of_networks(sources)) or list(_of_datasets(sources))
    return [*found, *_of_checks(sources)]


def _of_networks(sources: Sources) -> Iterator[Answer]:
    benches, *_ = by_machine(bench for _, bench in sources.benches) or [[]]
    for network in networks_of(benches):
        best = fastest(network, benches)
        if best is None:
            continue
        rate, speed = best.timing.lr_megapixels_per_second, best.timing.speed
        details = [
            f"{figure(1 / rate)} s a LR megapixel ({figure(rate)} LR MP/s) at "
            f"{size_text(*best.place)}, {benches[0].machine.title}"
        ]
        if best.ahead and best.other:
            details.append(
                f"{best.ahead.median:.2f}× ({best.ahead.low:.2f} to {best.ahead.high:.2f}) as fast "
                f"as the fastest other, {best.other.name}"
            )
        for _, evaluation in sources.evaluations:
            engine = evaluated_as(network, evaluation) or ""
            for dataset, engines in evaluation.mean.items():
                if means := engines.get(engine):
                    details.append(f"{dataset}: {_figures(means)}")
        value = f"{speed.median:.2f}×" if speed else f"{figure(rate)} LR MP/s"
        yield Answer(value, f"{network.network}: use {best.engine.name}", details)


def _of_datasets(sources: Sources) -> Iterator[Answer]:
    """The best engine of each by the first of these metrics that is known."""
    means = merged(sources.evaluations).mean if sources.evaluations else {}
    for dataset, engines in means.items():
        for metric in (METRICS["pi"], METRICS["psnr"]):
            known = {
                engine: value
                for engine, figures in engines.items()
                if (value := figures.get(metric.name)) is not None
                and not engine.startswith(BASELINE)
            }
            if known:
                best = min(known, key=lambda it: known[it] if metric.lower else -known[it])
                before = engines.get(BASELINE, {}).get(metric.name)
                gain = (
                    "" if before is None else f"{fixed(known[best] - before, 2, True)} to bicubic"
                )
                yield Answer(
                    f"{fixed(known[best], 2)}{'' if metric.lower else ' dB'}",
                    f"{dataset}: {best} has the best {metric.title}",
                    [part for part in (gain, _figures(engines[best])) if part],
                )
                break


def _figures(figures: dict[str, float | None]) -> str:
    known = [(METRICS[name], figures.get(name)) for name in SHOWN]
    return ", ".join(
        f"{metric.title} {fixed(value, 2 if metric.name == 'psnr' else 3)}"
        for metric, value in known
        if value is not None
    )


def _of_checks(sources: Sources) -> Iterator[Answer]:
    for _, found in sources.parities:
        if not found.rows:
            continue
        details = []
        if known := [row.fidelity.max_difference for row in found.rows if row.fidelity]:
            most = max(known)
            apart = f"at most {most} of 255 levels apart" if most else "equal in every value"
            details.append(apart)
        yield Answer(
            f"{sum(not row.missed for row in found.rows)} of {len(found.rows)}",
            f"engines do what PyTorch does on {found.dataset}",
            details,
        )


def origins(sources: Sources) -> list[Facts]:
    """Machine, versions, date and command of every file."""
    found = [(f"speed: {name}", _bench_facts(bench)) for name, bench in sources.benches]
    for kind, items in (("quality", sources.evaluations), ("parity", sources.parities)):
        for name, item in items:
            facts = {"made": date_text(item.made), "versions": _versions(item.versions)}
            found.append((f"{kind}: {name}", facts))
    return found


def _bench_facts(bench: Bench) -> dict[str, str]:
    machine, roofline = bench.machine, bench.roofline
    gpu = [
        machine.gpu,
        bytes_text(machine.gpu_memory) if machine.gpu_memory else "",
        f"driver {machine.driver}" if machine.driver else "",
    ]
    peaks = [f"{name} {figure(peak / 1e9)} GFLOP/s" for name, peak in roofline.matrix.items()]
    peaks += [f"memory {figure(roofline.bandwidth / 1e9)} GB/s"] if roofline.bandwidth else []
    busy = "" if bench.busy is None else f"{bench.busy:.2f} cores with other work at the start"
    facts = {
        "made": date_text(bench.made),
        "command": bench.command,
        "machine": machine.fingerprint,
        "CPU": f"{machine.cpu}: {machine.cores} cores, {machine.threads} threads",
        "instructions": ", ".join(machine.instructions),
        "memory": bytes_text(machine.memory),
        "GPU": ", ".join(filter(None, gpu)),
        "platform": machine.platform,
        "busy": busy,
        "measured peaks": "; ".join(peaks),
        "versions": _versions(machine.versions),
    }
    return {key: value for key, value in facts.items() if value}


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def not_run(sources: Sources) -> list[Facts]:
    """Everything that was asked for and has no figures, with the reason, by file."""
    found: list[Facts] = []
    for bench, network in sources.networks:
        reasons = dict(network.absent)
        for candidate in network.candidates:
            for place, why in candidate.skipped.items():
                reasons[f"{candidate.name} at {place}"] = why
        found.append((f"speed: {network.network}, {date_text(bench.made)}", reasons))
    for name, evaluation in sources.evaluations:
        reasons = _by_title(evaluation.unavailable)
        for dataset, engines in evaluation.failures.items():
            for engine, files in engines.items():
                reasons |= {f"{dataset}, {engine}, {file}": why for file, why in files.items()}
        found.append((f"quality: {name}", reasons))
    for name, parity in sources.parities:
        reasons = _by_title(parity.unavailable)
        for row in parity.rows:
            if row.fidelity is None:
                reasons[f"{row.engine} on {row.backend}"] = "; ".join(row.missed)
        found.append((f"parity: {name}", reasons))
    return [(title, reasons) for title, reasons in found if reasons]


def _by_title(unavailable: dict[str, str]) -> dict[str, str]:
    return {METRICS[it].title if it in METRICS else it: why for it, why in unavailable.items()}
