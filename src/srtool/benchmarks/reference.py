"""What engines are measured against: the images of a data set and what PyTorch makes of them."""

from __future__ import annotations

import statistics
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from srtool.benchmarks.evaluate import Progress, Report
from srtool.benchmarks.scores import score
from srtool.benchmarks.workers import cores, process_pool
from srtool.errors import ExportError, SrtoolError
from srtool.export.compare import Compared, fidelity_from_images
from srtool.images.colour import to_levels
from srtool.images.datasets import BORDER, SCALE, Dataset, Image, load_pair
from srtool.parity import Fidelity, Gates
from srtool.runtime.engine import Engine
from srtool.runtime.guard import is_finite
from srtool.runtime.opening import open_engine
from srtool.runtime.session import DEFAULT_TILE
from srtool.runtime.tiling import Tiling, upscale_tiled

Figures = dict[str, dict[str, float | str]]  # image -> metric -> figure, or why there is none


@contextmanager
def open_references(
    model: Path,
    dataset: Dataset,
    halo: int,
    metrics: tuple[str, ...],
    assets: Mapping[str, Path],
    gates: Gates,
    planned: int,
    workers: int | None,
    report: Report,
) -> Iterator[References]:
    """Run the PyTorch reference over a data set once; engines can then be compared with it.

    halo: of the tiles of large images, the same for everyone, so that no cut is taken for a
        difference. metrics, assets: see `score`. planned: comparisons, for the progress.
    """
    reference = open_engine(model)
    workers = workers or cores()
    try:
        with tempfile.TemporaryDirectory() as folder, process_pool(workers) as pool:
            references = References(dataset, Path(folder), halo, gates, planned, report)
            references.scorer = _Scorer(pool, workers, metrics, assets)
            references.prepare(reference)
            del reference
            yield references
    except BrokenProcessPool:
        raise SrtoolError(
            "a process that scores images was ended by the system, most likely for want of "
            "memory; name fewer or smaller images"
        ) from None


class References:
    """Images and their references on disk, and the figures of the references."""

    scorer: _Scorer

    def __init__(
        self,
        dataset: Dataset,
        folder: Path,
        halo: int,
        gates: Gates,
        planned: int,
        report: Report,
    ) -> None:
        self.dataset, self.halo, self.gates, self.report = dataset, halo, gates, report
        self._folder, self._figures = folder, Figures()
        self._done, self._total = 0, (1 + planned) * len(dataset.samples)

    def prepare(self, reference: Engine) -> None:
        """ExportError where the network makes no image of a photograph."""
        for number, sample in enumerate(self.dataset.samples):
            pair = load_pair(sample, BORDER)
            scaled = pair.lr.astype(np.float32) / np.float32(255)
            out = upscale_tiled(scaled, reference, Tiling(DEFAULT_TILE, self.halo))
            if not is_finite(out):
                raise ExportError(
                    f"{reference.path}: makes NaN or infinite values of {sample.hr}; its weights "
                    "are damaged, or its training went wrong"
                )
            levels = to_levels(out, np.uint8)
            np.savez(self._folder / f"{number}.npz", lr=pair.lr, hr=pair.hr, reference=levels)
            self.scorer.start(self._figures, sample.name, levels, pair.hr)
            self.say()
        self.scorer.finish()

    def compare(self, engine: Engine) -> Fidelity:
        """Run an engine over all images; RuntimeError or MemoryError where it fails on one."""
        figures = Figures()
        if self._done + len(self.dataset.samples) > self._total:
            self._total += len(self.dataset.samples)
        found = fidelity_from_images(
            self._outputs(engine, figures), SCALE, self.dataset.name, self.gates
        )
        self.scorer.finish()
        changes = deltas(figures, self._figures)
        relative = relative_niqe(figures, self._figures)
        return found.model_copy(update={"deltas": changes, "relative_niqe": relative})

    def lr(self, name: str) -> Image:
        """The LR image of a file, (H, W, 3) RGB uint8."""
        number = [sample.name for sample in self.dataset.samples].index(name)
        lr: Image = self._load(number)["lr"]
        return lr

    def say(self, message: str = "") -> None:
        """Report a step, or else a message."""
        self._done += not message
        self.report(Progress(self._done, self._total, message))

    @property
    def problems(self) -> list[str]:
        """Figures that are left out, each by a line that names the image."""
        return [
            f"{image}: {figure}"
            for image, figures in self._figures.items()
            for figure in figures.values()
            if isinstance(figure, str)
        ]

    def _outputs(self, engine: Engine, figures: Figures) -> Iterator[Compared]:
        for number, sample in enumerate(self.dataset.samples):
            arrays = self._load(number)
            out = upscale_tiled(arrays["lr"], engine, Tiling(DEFAULT_TILE, self.halo))
            self.scorer.start(figures, sample.name, out, arrays["hr"])
            yield Compared(sample.name, out, arrays["reference"], arrays["hr"])
            self.say()

    def _load(self, number: int) -> dict[str, Image]:
        with np.load(self._folder / f"{number}.npz") as arrays:
            return dict(arrays)


class _Scorer:
    """Scores images in processes, a bounded number of them ahead."""

    def __init__(
        self,
        pool: ProcessPoolExecutor,
        workers: int,
        metrics: tuple[str, ...],
        assets: Mapping[str, Path],
    ) -> None:
        self.pool, self.ahead, self.metrics, self.assets = pool, 2 * workers, metrics, assets
        self._waiting: deque[tuple[Figures, str, Future[dict[str, float | str]]]] = deque()

    def start(self, into: Figures, name: str, image: Image, hr: Image) -> None:
        arguments = (image, hr, BORDER, self.metrics, True, self.assets)
        self._waiting.append((into, name, self.pool.submit(score, *arguments)))
        self.finish(self.ahead)

    def finish(self, left: int = 0) -> None:
        """Wait until no more than `left` images are unscored."""
        while len(self._waiting) > left:
            into, name, future = self._waiting.popleft()
            into[name] = future.result()


def deltas(engine: Figures, reference: Figures) -> dict[str, float]:
    """Mean figure of an engine minus the reference's, by metric, over the images of which both
    have one. PI = ((10 - Ma) + NIQE) / 2 over those with both of its parts."""
    gaps: dict[str, dict[str, float]] = {}
    for image, figures in engine.items():
        for metric, figure in figures.items():
            other = reference[image][metric]
            if not isinstance(figure, str) and not isinstance(other, str):
                gaps.setdefault(metric, {})[image] = figure - other
    found = {metric: statistics.fmean(values.values()) for metric, values in gaps.items()}
    niqe, ma = gaps.get("niqe", {}), gaps.get("ma", {})
    if both := niqe.keys() & ma.keys():
        found["pi"] = statistics.fmean((niqe[image] - ma[image]) / 2 for image in sorted(both))
    return found


def relative_niqe(engine: Figures, reference: Figures) -> float | None:
    """The change of the mean NIQE over the reference's own, over the images of which both have
    one; None without any."""
    pairs = [
        (figures.get("niqe"), reference[image].get("niqe")) for image, figures in engine.items()
    ]
    both = [(a, b) for a, b in pairs if isinstance(a, float) and isinstance(b, float)]
    own = sum(b for _, b in both)
    return sum(a for a, _ in both) / own - 1 if own else None
