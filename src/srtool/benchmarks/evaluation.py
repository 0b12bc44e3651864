"""The record of an evaluation: every figure of every image, the means, and how to repeat it."""

from __future__ import annotations

import csv
import math
import platform
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from srtool import system
from srtool.errors import DataError, UsageError
from srtool.files import whole_file, write_whole, writing

JSON, CSV = "evaluation.json", "images.csv"
PACKAGES = ("srtool", "numpy", "scipy", "pyvips", "onnxruntime", "openvino", "torch", "lpips")

T = TypeVar("T")
ByEngine = dict[str, dict[str, T]]  # data set -> engine -> T


class Evaluation(BaseModel):
    """A figure is null where it is infinite: the PSNR of an image that does not differ.

    mean, counts: data set -> engine -> metric; counts says over how many images a mean is taken.
    images: the same, then -> file. failures: data set -> engine -> file -> what was wrong.
    unavailable: metric -> why, and what installs it. inputs: data set -> engine -> file ->
    fingerprint of everything that its figures depend on. assets: name -> SHA-256.
    """

    model_config = ConfigDict(extra="forbid")

    evaluation: Literal[1] = 1
    protocol: dict[str, Any]
    made: str = ""
    versions: dict[str, str] = {}
    assets: dict[str, str] = {}
    datasets: dict[str, dict[str, Any]] = {}
    engines: dict[str, dict[str, Any]] = {}
    mean: ByEngine[dict[str, float | None]] = {}
    counts: ByEngine[dict[str, int]] = {}
    images: ByEngine[dict[str, dict[str, float | None]]] = {}
    failures: ByEngine[dict[str, str]] = {}
    unavailable: dict[str, str] = {}
    inputs: ByEngine[dict[str, str]] = {}

    def keep_only(self, dataset: str, engine: str, inputs: Mapping[str, str]) -> None:
        """Forget the figures of files that are gone or whose fingerprint is another now, and all
        failures: what failed is tried again."""
        old = self.inputs.setdefault(dataset, {}).setdefault(engine, {})
        kept = {file for file, print_ in inputs.items() if old.get(file) == print_}
        self.inputs[dataset][engine] = dict(inputs)
        figures = self.images.setdefault(dataset, {}).setdefault(engine, {})
        for metric, values in figures.items():
            figures[metric] = {file: value for file, value in values.items() if file in kept}
        self.failures.get(dataset, {}).pop(engine, None)

    def forget_metric(self, metric: str) -> None:
        """Forget a metric everywhere: its trained part is another file now."""
        for engines in self.images.values():
            for figures in engines.values():
                figures.pop(metric, None)

    def missing(
        self, dataset: str, engine: str, file: str, metrics: Iterable[str]
    ) -> tuple[str, ...]:
        figures = self.images[dataset][engine]
        return tuple(metric for metric in metrics if file not in figures.get(metric, {}))

    def record(self, dataset: str, engine: str, file: str, metric: str, value: float) -> None:
        values = self.images[dataset][engine].setdefault(metric, {})
        values[file] = None if math.isinf(value) else value

    def fail(self, dataset: str, engine: str, file: str, message: str) -> None:
        found = self.failures.setdefault(dataset, {}).setdefault(engine, {})
        found[file] = f"{found[file]}; {message}" if file in found else message

    def add(self, other: Evaluation) -> None:
        """Take up the figures of another record, of other images or of the same ones."""
        self.assets |= other.assets
        for dataset, engines in other.images.items():
            for engine, figures in engines.items():
                mine = self.images.setdefault(dataset, {}).setdefault(engine, {})
                for metric, values in figures.items():
                    mine.setdefault(metric, {}).update(values)
                inputs = self.inputs.setdefault(dataset, {}).setdefault(engine, {})
                inputs.update(other.inputs.get(dataset, {}).get(engine, {}))

    def summarise(self) -> None:
        """Bring means and counts up to date, with the time."""
        self.made = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self.mean, self.counts = {}, {}
        for dataset, engines in self.images.items():
            for engine, figures in engines.items():
                columns = {name: values for name, values in figures.items() if values}
                means = {name: _mean(values.values()) for name, values in columns.items()}
                counts = {name: len(values) for name, values in columns.items()}
                both = columns.get("ma", {}).keys() & columns.get("niqe", {}).keys()
                if both:
                    ma, niqe = (_mean(columns[name][file] for file in both) for name in _PI)
                    assert ma is not None
                    assert niqe is not None
                    means["pi"], counts["pi"] = ((10 - ma) + niqe) / 2, len(both)
                self.mean.setdefault(dataset, {})[engine] = means
                self.counts.setdefault(dataset, {})[engine] = counts


_PI = ("ma", "niqe")


def _mean(values: Iterable[float | None]) -> float | None:
    known = list(values)
    finite = [value for value in known if value is not None]
    return sum(finite) / len(finite) if len(finite) == len(known) else None


def evaluation_in(folder: Path | None, protocol: dict[str, Any]) -> Evaluation:
    """What `write_evaluation` left in a folder, or an empty record.

    DataError where it is something else, UsageError where it was made by another protocol.
    """
    path = folder / JSON if folder else None
    if path is None or not path.is_file():
        return Evaluation(protocol=protocol)
    try:
        found = Evaluation.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError):
        raise DataError(
            f"{path}: is no evaluation that this version of srtool reads; "
            "name another folder, or delete it",
            path=path,
            parameter="out",
        ) from None
    for key in sorted(protocol.keys() | found.protocol.keys()):
        before, now = found.protocol.get(key), protocol.get(key)
        if before != now:
            raise UsageError(
                f"{path}: was made with {key} {before}, this evaluation has {now}; "
                "name another folder",
                path=path,
                found=str(before),
                expected=str(now),
                parameter="out",
            )
    return found


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Write the JSON file. DataError where the folder cannot be written."""
    evaluation.summarise()
    with writing(folder, DataError, "name another folder", "out"):
        write_whole(folder / JSON, evaluation.model_dump_json(indent=1) + "\n")


def write_csv(folder: Path, evaluation: Evaluation) -> None:
    """Write one line per data set, engine and image. DataError as above."""
    metrics = sorted(
        {name for engines in evaluation.images.values() for e in engines.values() for name in e}
    )
    with (
        writing(folder, DataError, "name another folder", "out"),
        whole_file(folder / CSV) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        lines = csv.writer(file)
        lines.writerow(["data set", "engine", "image", *metrics])
        for dataset, engines in evaluation.images.items():
            for engine, figures in engines.items():
                for image in sorted({name for values in figures.values() for name in values}):
                    cells = [_cell(figures.get(metric, {}), image) for metric in metrics]
                    lines.writerow([dataset, engine, image, *cells])


def _cell(values: Mapping[str, float | None], image: str) -> str:
    if image not in values:
        return ""
    value = values[image]
    return "inf" if value is None else f"{value:.6f}"


def versions() -> dict[str, str]:
    """Versions of what the figures may depend on."""
    return {**system.versions(PACKAGES), "platform": f"{platform.system()} {platform.machine()}"}
