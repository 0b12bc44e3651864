"""Evaluation: every method upscales every image, and a process pool scores the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Literal

from srtool.benchmarks.evaluation import (
    Evaluation,
    evaluation_in,
    versions,
    write_csv,
    write_evaluation,
)
from srtool.benchmarks.methods import Method, Upscale, methods_from_arguments
from srtool.benchmarks.scores import DEFAULT_METRICS, METRICS, assets_of, score, with_parts
from srtool.benchmarks.workers import scoring
from srtool.errors import AssetError, SrtoolError, in_a_line
from srtool.files import sha256
from srtool.images.datasets import (
    BORDER,
    SCALE,
    Dataset,
    Sample,
    datasets_from_folders,
    fingerprint,
    load_pair,
)
from srtool.runtime.gpu.devices import check_device
from srtool.runtime.index import Shard
from srtool.runtime.inputs import shard_of
from srtool.runtime.session import BackendName, PrecisionName
from srtool.system import cores

YRounding = Literal["nearest", "none"]


@dataclass(frozen=True)
class Config:
    """metrics: names out of METRICS. y_rounding: whether PSNR and SSIM are taken on whole levels
    of Y, as MATLAB's uint8 gives them. workers: processes that score, None for one per core. shard:
    score that part of the images alone, into a folder of its own below the output; a later call
    without one takes up what all of them found.
    backend, precision: of .onnx files, as `open_engine` takes them. device: number of the GPU, None
    for the first, if any."""

    metrics: tuple[str, ...] = DEFAULT_METRICS
    y_rounding: YRounding = "nearest"
    workers: int | None = None
    shard: Shard | None = None
    backend: BackendName = "auto"
    precision: PrecisionName = "auto"
    device: int | None = None


@dataclass(frozen=True)
class Result:
    """record: all that the output folder holds. datasets, engines: what was asked for this time,
    by name. failed: whether an image of it has no figures, or not all."""

    record: Evaluation
    datasets: list[str]
    engines: list[str]
    failed: bool


@dataclass(frozen=True)
class Progress:
    """How far an evaluation is, and perhaps a line for the user about what was found."""

    done: int
    total: int
    message: str = ""


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class _Task:
    """One image by one method, and the metrics it still lacks."""

    dataset: Dataset
    method: Method
    sample: Sample
    metrics: tuple[str, ...]

    @property
    def place(self) -> tuple[str, str, str]:
        return self.dataset.name, self.method.name, self.sample.name


def protocol_of(config: Config) -> dict[str, str | int]:
    """What figures must share to stand in one table."""
    return {
        "version": 1,
        "scale": SCALE,
        "border": BORDER,
        "luma": "BT.601, 16..235, of 8-bit RGB; gray is R = G = B",
        "y_rounding": config.y_rounding,
        "lr": "LRx4/ where there is one, else MATLAB bicubic of 8-bit HR, clamped edges",
        "psnr, ssim": "on Y",
        "ssim_wang": "with the automatic downsampling of ssim.m",
        "niqe, ma": "on rounded Y",
        "pi": "((10 - mean Ma) + mean NIQE) / 2",
        "lpips": "AlexNet, version 0.1, on RGB",
    }


def part_of(dataset: Dataset, shard: Shard) -> Dataset:
    """Those of its images that are the shard's."""
    mine = tuple(
        sample
        for sample in dataset.samples
        if shard_of(PurePosixPath(sample.name), shard.count) == shard.number
    )
    return replace(dataset, samples=mine)


def evaluate(
    folders: Sequence[str | Path],
    engines: Sequence[str | Path],
    config: Config = Config(),
    out: str | Path | None = None,
    report: Report = lambda progress: None,
) -> Result:
    """Score engines on data sets.

    folders: see `dataset_from_folder`. engines: see `methods_from_arguments`. out: folder for
        evaluation.json and images.csv. Figures that it holds already are taken from there where
        nothing that they depend on has changed, so the same call continues an interrupted one.
    An image that cannot be scored is reported, recorded under `failures` and left out. A metric
    whose files are not installed is recorded under `unavailable`; AssetError where none is left,
    EngineError where there is no such GPU.
    """
    check_device(config.device)
    datasets = datasets_from_folders([Path(folder) for folder in folders])
    out = None if out is None else Path(out)
    if config.shard and out:
        datasets = [part for it in datasets if (part := part_of(it, config.shard)).samples]
        out /= f"shard-{config.shard.number}-of-{config.shard.count}"
    found = evaluation_in(out, protocol_of(config))
    for folder in sorted(out.glob("shard-*-of-*")) if out else ():
        found.add(evaluation_in(folder, protocol_of(config)))
    methods = methods_from_arguments(
        [str(engine) for engine in engines],
        datasets,
        config.backend,
        config.precision,
        found.engines,
        config.device,
    )
    assets = _assets(found, config.metrics)
    metrics = tuple(name for name in with_parts(config.metrics) if name not in found.unavailable)
    tasks = _plan(found, datasets, methods, metrics)
    images = len(methods) * sum(len(dataset.samples) for dataset in datasets)
    record = _Record(found, out, images - len(tasks), images, report)
    report(Progress(record.done, images))
    if record.done:
        record.say(f"{out}: holds {record.done} of {images} results already")
    upscalers = _open(tasks, record)
    _describe(found, datasets, methods)
    if out:
        write_evaluation(out, found)  # a folder that cannot be written is found before the work
    try:
        if tasks:
            _score_all(tasks, upscalers, assets, config, record)
    finally:
        found.summarise()
        if out:
            write_evaluation(out, found)
            write_csv(out, found)
    asked = [dataset.name for dataset in datasets], [method.name for method in methods]
    failed = any(found.failures.get(dataset, {}).get(engine) for dataset, engine in product(*asked))
    return Result(found, *asked, failed)


def _assets(found: Evaluation, metrics: tuple[str, ...]) -> dict[str, Path]:
    """The files that the metrics need; what lacks one is noted as unavailable. Figures that were
    made with other files are forgotten."""
    paths, found.unavailable = assets_of(metrics)
    for name in with_parts(metrics):
        asset = METRICS[name].asset
        if asset in paths:
            digest = sha256(paths[asset])
            if found.assets.get(asset, digest) != digest:
                found.forget_metric(name)
            found.assets[asset] = digest
    if set(metrics) <= found.unavailable.keys():
        raise AssetError("; ".join(dict.fromkeys(found.unavailable.values())))
    return paths


def _plan(
    found: Evaluation, datasets: list[Dataset], methods: list[Method], metrics: tuple[str, ...]
) -> list[_Task]:
    """What is left to do, method by method."""
    tasks = []
    for method in methods:
        for dataset in datasets:
            inputs = {
                sample.name: fingerprint(sample.hr, sample.lr or "made", method.identity(sample))
                for sample in dataset.samples
            }
            found.keep_only(dataset.name, method.name, inputs)
            for sample in dataset.samples:
                missing = found.missing(dataset.name, method.name, sample.name, metrics)
                if missing:
                    tasks.append(_Task(dataset, method, sample, missing))
    return tasks


def _open(tasks: list[_Task], record: _Record) -> dict[str, Upscale]:
    """Open every engine that there is work for, so that a bad one is found before the work."""
    upscalers = {}
    for task in tasks:
        method = task.method
        if method.name not in upscalers:
            upscalers[method.name] = method.open()
            if "backend" in method.facts:
                record.say(f"{method.name} on {method.facts['backend']} ({method.facts['reason']})")
    return upscalers


def _describe(found: Evaluation, datasets: list[Dataset], methods: list[Method]) -> None:
    """Record what was evaluated, and with what."""
    found.versions = versions()
    found.engines |= {method.name: method.facts for method in methods}
    for dataset in datasets:
        count = len(dataset.samples)
        read = sum(sample.lr is not None for sample in dataset.samples)
        found.datasets[dataset.name] = {
            "folder": dataset.folder.resolve().name,
            "images": count,
            "lr_read": read,
        }


def _score_all(
    tasks: list[_Task],
    upscalers: dict[str, Upscale],
    assets: dict[str, Path],
    config: Config,
    record: _Record,
) -> None:
    """Upscale here, score in processes; each engine is let go when its last image is done. What is
    scored when an interrupt comes is still recorded."""
    workers = min(config.workers or cores(), len(tasks))
    kept = record.out is not None
    advice = "the same command continues" if kept else "with an output folder it could go on"
    with scoring(workers, advice) as scorer:
        try:
            for number, task in enumerate(tasks):
                name = task.method.name
                try:
                    pair = load_pair(task.sample, BORDER)
                    upscaled = upscalers[name](task.sample, pair)
                except (SrtoolError, RuntimeError, MemoryError) as error:
                    record.add(task, in_a_line(error, 300))
                else:
                    rounded = config.y_rounding == "nearest"
                    work = partial(score, upscaled, pair.hr, BORDER, task.metrics, rounded, assets)
                    scorer.start(partial(record.add, task), work)
                if number + 1 == len(tasks) or tasks[number + 1].method.name != name:
                    del upscalers[name]
            scorer.finish()
        except KeyboardInterrupt:
            scorer.collect()
            raise


@dataclass
class _Record:
    """Takes up what is found image by image, and counts. out: the folder that holds it, too."""

    found: Evaluation
    out: Path | None
    done: int
    total: int
    report: Report
    said: set[str] = field(default_factory=set)

    def add(self, task: _Task, figures: dict[str, float | str] | str) -> None:
        """Of one image; a text says why there are none."""
        if isinstance(figures, str):
            self._fail(task, figures)
            self.advance()
            return
        for metric, value in figures.items():
            if isinstance(value, str):
                self._fail(task, value)
            else:
                self.found.record(*task.place, metric, value)
        self.advance()
        if self.out:
            write_evaluation(self.out, self.found)

    def _fail(self, task: _Task, message: str) -> None:
        """Record why an image has no figures, naming it."""
        named = str(task.sample.hr) in message or str(task.sample.lr) in message
        line = message if named else f"{task.sample.hr} by {task.method.name}: {message}"
        self.found.fail(*task.place, line)
        self.say(line)

    def say(self, message: str) -> None:
        """Pass on a message, once."""
        if message not in self.said:
            self.said.add(message)
            self.report(Progress(self.done, self.total, message))

    def advance(self) -> None:
        self.done += 1
        self.report(Progress(self.done, self.total))
