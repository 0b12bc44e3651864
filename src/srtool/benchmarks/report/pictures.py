"""The pictures of the report: what engines make of images, beside bicubic, PyTorch and HR, or of
photographs, of which there is no HR."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from srtool.benchmarks.scores import assets_of, score
from srtool.errors import EngineError, UsageError, in_a_line
from srtool.images.colour import luma
from srtool.images.datasets import (
    BORDER,
    SCALE,
    Image,
    Sample,
    dataset_from_folder,
    load_pair,
)
from srtool.images.imresize import imresize
from srtool.manifest import read_manifest, sha256
from srtool.runtime.engine import Engine
from srtool.runtime.opening import CHECKPOINTS, open_engine
from srtool.runtime.tiling import upscale_tiled

Value = TypeVar("Value", bound=np.generic)

VIEW = 480  # HR pixels of a side of what is shown, at most
DETAIL = 88  # the same of what is shown enlarged
METRICS = ("psnr", "niqe")
LEVELS = (4, 8, 16, 32, 64, 128, 255)  # that a difference map ends with


@dataclass(frozen=True)
class Box:
    """A part of an image, in HR pixels."""

    left: int
    top: int
    width: int
    height: int

    def of(self, image: NDArray[Value]) -> NDArray[Value]:
        """(H, W, ...) -> (height, width, ...)."""
        return image[self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True)
class Version:
    """One way to see an image. whole: (4 H, 4 W, 3) uint8. psnr: of Y against HR, dB; inf where
    equal, None for HR itself and without one. niqe: None where it was not taken."""

    name: str
    whole: Image
    psnr: float | None = None
    niqe: float | None = None


@dataclass(frozen=True)
class Difference:
    """Between engine and PyTorch, in levels of 0..255, the largest of the three colours. levels:
    (H, W) uint8, of the view. most, mean, share: over the whole image; share of the pixels that
    differ. end: level that the colours end with."""

    levels: NDArray[np.uint8]
    most: int
    mean: float
    share: float
    end: int


@dataclass(frozen=True)
class Picture:
    """versions: bicubic first, HR last where there is one. view: the part that is shown, details:
    the parts of it that are enlarged. difference: None without both engine and PyTorch. remark:
    what is to be known of it, such as why there is no NIQE; may be empty."""

    name: str
    versions: tuple[Version, ...]
    view: Box
    details: tuple[Box, ...]
    difference: Difference | None = None
    remark: str = ""


def pictures_from_images(
    images: Path | None,
    engines: Sequence[Path],
    model: Path | None,
    count: int,
    report: Callable[[str], None] = lambda line: None,
    device: int | None = None,
) -> list[Picture]:
    """Upscale the first `count` images of a data set, see `dataset_from_folder`; None: of the
    photographs that srtool ships.

    engines: any engine files; model: weights, which PyTorch runs; device: see `open_engine`.
    UsageError where there is none, or they do not fit each other or the scale; EngineError,
    CheckpointError, DataError and ImageError where one cannot be used.
    """
    if not engines and model is None:
        raise UsageError(
            f"{images or 'the shipped photographs'}: nothing upscales them; expected an engine, "
            "weights, or both",
            parameter="engine",
        )
    if model:
        for engine in engines:
            _check_fit(engine, model)
    samples = dataset_from_folder(_folder(images)).samples[:count]
    with opened_engines(engines, model, device) as opened:
        pictures = []
        for number, sample in enumerate(samples):
            report(f"{sample.name} ({number + 1} of {len(samples)})")
            pictures.append(_picture(sample, opened))
    return pictures


@contextmanager
def opened_engines(
    engines: Sequence[Path], model: Path | None, device: int | None
) -> Iterator[dict[str, Engine]]:
    """By the names that the page calls them, PyTorch's first."""
    names = [path.name for path in engines]
    with ExitStack() as stack:
        opened = {"PyTorch": stack.enter_context(_opened(model, device))} if model else {}
        for path in engines:
            name = path.name if names.count(path.name) == 1 else f"{path.parent.name}/{path.name}"
            opened[name] = stack.enter_context(_opened(path, device))
        yield opened


def _folder(images: Path | None) -> Path:
    if images is None:
        return Path(str(resources.files("srtool") / "samples"))
    return images


def _check_fit(engine: Path, model: Path) -> None:
    """Whether the engine was made from the weights, where that is known."""
    if not model.is_file():
        return  # opening it says so
    if model.suffix.lower() not in CHECKPOINTS:
        raise UsageError(
            f"{model}: is no checkpoint; expected weights (.pth or .safetensors)",
            path=model,
            parameter="model",
        )
    manifest = read_manifest(engine) if engine.is_file() else None
    weights = manifest.model.weights_sha256 if manifest else ""
    if manifest and weights and weights != sha256(model):
        raise UsageError(
            f"{engine}: was exported from {manifest.model.weights or 'other weights'} "
            f"(SHA-256 {weights[:8]}...), another file than {model}; name the weights that it was "
            "made from",
            path=engine,
            parameter="model",
        )


def _opened(path: Path, device: int | None) -> Engine:
    engine = open_engine(path, device=device)
    if engine.facts.scale != SCALE:
        engine.close()
        raise UsageError(
            f"{path}: upscales x{engine.facts.scale}; the pictures are compared at x{SCALE}"
        )
    return engine


def _picture(sample: Sample, engines: dict[str, Engine]) -> Picture:
    pair = load_pair(sample, BORDER)
    made = upscaled_by_all(pair.lr, engines, sample.name)
    changes = changes_between(made)
    view = busiest(changes, VIEW)
    assets, unavailable = assets_of(METRICS)
    metrics = tuple(name for name in METRICS if name not in unavailable)
    versions = []
    remark = f"No NIQE: {unavailable['niqe']}" if "niqe" in unavailable else ""
    for name, image in (*made.items(), ("HR", pair.hr)):
        found = score(image, pair.hr, BORDER, metrics, True, assets)
        niqe = found.get("niqe")
        if isinstance(niqe, str):
            remark, niqe = f"No NIQE: {niqe}", None
        whole = found["psnr"]
        assert isinstance(whole, float)
        versions.append(Version(name, image, None if name == "HR" else whole, niqe))
    difference = None
    if "PyTorch" in engines and len(engines) > 1:
        torch, other = (made[name] for name in list(engines)[:2])
        difference = difference_between(torch, other, view)
    details = busiest_within(changes, view, 1)
    return Picture(sample.name, tuple(versions), view, details, difference, remark)


def upscaled_by_all(lr: Image, engines: dict[str, Engine], name: str) -> dict[str, Image]:
    """Bicubic first. EngineError where an engine fails, with the name of the image."""
    made = {"bicubic": np.asarray(imresize(lr, SCALE, "clamp"))}
    return made | {key: _upscaled(lr, engine, name) for key, engine in engines.items()}


def changes_between(made: dict[str, Image]) -> NDArray[np.float64]:
    """(H, W): how far the last two are apart in Y: two engines, or an engine and bicubic."""
    one, other = (luma(made[name], rounded=False) for name in list(made)[-2:])
    return np.abs(one - other)


def _upscaled(lr: Image, engine: Engine, name: str) -> Image:
    try:
        return np.asarray(upscale_tiled(lr, engine))
    except (RuntimeError, MemoryError) as error:
        raise EngineError(f"{engine.path}: fails on {name} ({in_a_line(error)})") from None


def busiest(changes: NDArray[np.float64], side: int) -> Box:
    """The square of that side, or less where the image is smaller, in which `changes`, (H, W), sum
    up to most; its corner is on the LR grid."""
    height, width = (min(side, length) for length in changes.shape)
    sums = np.zeros((changes.shape[0] + 1, changes.shape[1] + 1))
    sums[1:, 1:] = changes.cumsum(0).cumsum(1)
    inside = sums[height:, width:] - sums[:-height, width:]
    inside = inside - sums[height:, :-width] + sums[:-height, :-width]
    inside = inside[::SCALE, ::SCALE]
    row, column = np.unravel_index(int(inside.argmax()), inside.shape)
    return Box(int(column) * SCALE, int(row) * SCALE, width, height)


def busiest_within(changes: NDArray[np.float64], view: Box, count: int) -> tuple[Box, ...]:
    """So many details of a view, the busiest first; none covers much of another, and where the view
    is too small for that there are fewer."""
    left = view.of(changes).copy()
    found: list[Box] = []
    while len(found) < count:
        inner = busiest(left, DETAIL)
        if found and not inner.of(left).any():
            break
        found.append(Box(view.left + inner.left, view.top + inner.top, inner.width, inner.height))
        inner.of(left)[:] = 0
    return tuple(found)


def difference_between(reference: Image, image: Image, view: Box) -> Difference:
    """Of two (H, W, 3) uint8 images."""
    levels = np.abs(reference.astype(np.int16) - image.astype(np.int16))
    per_pixel = levels.max(2)
    most = int(per_pixel.max())
    return Difference(
        levels=view.of(per_pixel).astype(np.uint8),
        most=most,
        mean=float(levels.mean()),
        share=float((per_pixel > 0).mean()),
        end=next(end for end in LEVELS if most <= end),
    )
