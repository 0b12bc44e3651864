"""What engines are measured against: the images of a data set and what PyTorch makes of them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from srtool.benchmarks.evaluate import Progress, Report
from srtool.benchmarks.scores import score
from srtool.benchmarks.workers import Figures, Scorer, scoring
from srtool.errors import ExportError
from srtool.export.certify import Sample, fidelity_from_images
from srtool.files import private_folder
from srtool.images.colour import to_levels
from srtool.images.datasets import BORDER, SCALE, Dataset, Image, load_pair
from srtool.parity import Fidelity, Gates
from srtool.runtime.engine import Engine
from srtool.runtime.guard import is_finite
from srtool.runtime.opening import open_engine
from srtool.runtime.session import DEFAULT_TILE
from srtool.runtime.tiling import Tiling, upscale_tiled
from srtool.system import cores

Images = dict[str, Figures]  # by image


@dataclass(frozen=True)
class Protocol:
    """How engines are compared. halo: of the tiles of large images, the same for everyone, so that
    no cut is taken for a difference. metrics, assets: see `score`. device: number of the GPU, None
    for the first, if any."""

    dataset: Dataset
    halo: int
    gates: Gates
    metrics: tuple[str, ...]
    assets: Mapping[str, Path]
    device: int | None = None


@contextmanager
def open_references(
    model: Path, protocol: Protocol, planned: int, workers: int | None, report: Report
) -> Iterator[References]:
    """Run the PyTorch reference over a data set once; engines can then be compared with it.

    planned: comparisons, for the progress. workers: processes that score, None for one per core.
    """
    reference = open_engine(model, device=protocol.device)
    with (
        private_folder() as folder,
        scoring(workers or cores(), "name fewer or smaller images") as scorer,
    ):
        references = References(protocol, folder, scorer, planned, report)
        references.prepare(reference)
        del reference
        yield references


class References:
    """Images and their references on disk, and the figures of the references."""

    def __init__(
        self, protocol: Protocol, folder: Path, scorer: Scorer, planned: int, report: Report
    ) -> None:
        self.protocol, self.dataset, self.report = protocol, protocol.dataset, report
        self._folder, self._scorer, self._figures = folder, scorer, Images()
        self._done, self._total = 0, (1 + planned) * len(protocol.dataset.samples)

    def prepare(self, reference: Engine) -> None:
        """ExportError where the network makes no image of a photograph."""
        for number, sample in enumerate(self.dataset.samples):
            pair = load_pair(sample, BORDER)
            scaled = pair.lr.astype(np.float32) / np.float32(255)
            out = upscale_tiled(scaled, reference, Tiling(DEFAULT_TILE, self.protocol.halo))
            if not is_finite(out):
                raise ExportError(
                    f"{reference.path}: makes NaN or infinite values of {sample.hr}; its weights "
                    "are damaged, or its training went wrong"
                )
            levels = to_levels(out, np.uint8)
            np.savez(self._folder / f"{number}.npz", lr=pair.lr, hr=pair.hr, reference=levels)
            self._score(self._figures, sample.name, levels, pair.hr)
            self.say()
        self._scorer.finish()

    def compare(self, engine: Engine) -> Fidelity:
        """Run an engine over all images; RuntimeError or MemoryError where it fails on one."""
        figures = Images()
        if self._done + len(self.dataset.samples) > self._total:
            self._total += len(self.dataset.samples)
        found = fidelity_from_images(
            self._outputs(engine, figures), SCALE, self.dataset.name, self.protocol.gates
        )
        self._scorer.finish()
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

    def _outputs(self, engine: Engine, figures: Images) -> Iterator[tuple[Sample, Image]]:
        for number, sample in enumerate(self.dataset.samples):
            arrays = self._load(number)
            out = upscale_tiled(arrays["lr"], engine, Tiling(DEFAULT_TILE, self.protocol.halo))
            self._score(figures, sample.name, out, arrays["hr"])
            yield Sample(**arrays, name=sample.name), out
            self.say()

    def _load(self, number: int) -> dict[str, Image]:
        with np.load(self._folder / f"{number}.npz") as arrays:
            return dict(arrays)

    def _score(self, into: Images, name: str, image: Image, hr: Image) -> None:
        metrics, assets = self.protocol.metrics, self.protocol.assets
        self._scorer.start(
            partial(into.__setitem__, name),
            partial(score, image, hr, BORDER, metrics, True, assets),
        )


def deltas(engine: Images, reference: Images) -> dict[str, float]:
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


def relative_niqe(engine: Images, reference: Images) -> float | None:
    """The change of the mean NIQE over the reference's own, over the images of which both have
    one; None without any."""
    pairs = [
        (figures.get("niqe"), reference[image].get("niqe")) for image, figures in engine.items()
    ]
    both = [(a, b) for a, b in pairs if isinstance(a, float) and isinstance(b, float)]
    own = sum(b for _, b in both)
    return sum(a for a, _ in both) / own - 1 if own else None
