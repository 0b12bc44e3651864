"""The pictures of the report: what engines make of images, beside bicubic, PyTorch and HR, or of
photographs, of which there is no HR.

A photograph of many megapixels is not upscaled as a whole: a few busy parts of it are, and the one
in which the engines differ most is shown.
"""

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
from srtool.errors import DataError, EngineError, ImageError, UsageError, in_a_line
from srtool.files import sha256
from srtool.images.colour import luma
from srtool.images.datasets import (
    BORDER,
    SCALE,
    Image,
    Sample,
    dataset_from_folder,
    image_files,
    load_pair,
)
from srtool.images.imresize import imresize
from srtool.images.reading import read_rgb
from srtool.manifest import read_manifest
from srtool.runtime.engine import Engine
from srtool.runtime.opening import CHECKPOINTS, open_engine
from srtool.runtime.tiling import upscale_tiled

Value = TypeVar("Value", bound=np.generic)

VIEW = 480  # HR pixels of a side of what is shown, at most
DETAIL = 88  # the same of what is shown enlarged
WHOLE = 512 * 512  # LR pixels of a photograph that is upscaled as a whole
REGION = 256  # LR pixels of a side of the part that is shown of a larger one
LOOKS, LOOK = 9, 96  # parts that are tried, and their side
METRICS = ("psnr", "niqe")
LEVELS = (4, 8, 16, 32, 64, 128, 255)  # that a difference map ends with


@dataclass(frozen=True)
class Box:
    """A part of an image, in its pixels."""

    left: int
    top: int
    width: int
    height: int

    def of(self, image: NDArray[Value]) -> NDArray[Value]:
        """(H, W, ...) -> (height, width, ...)."""
        return image[self.top : self.top + self.height, self.left : self.left + self.width]

    def __str__(self) -> str:
        return f"{self.width}×{self.height} at {self.left},{self.top}"


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
    differ."""

    levels: NDArray[np.uint8]
    most: int
    mean: float
    share: float

    @property
    def end(self) -> int:
        """Level that the colours end with."""
        return next(end for end in LEVELS if self.most <= end)


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

    @property
    def has_hr(self) -> bool:
        return self.versions[-1].name == "HR"


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
    folder = images or Path(str(resources.files("srtool") / "samples"))
    samples = dataset_from_folder(folder).samples[:count]
    with _all_opened(engines, model, device) as opened:
        pictures = []
        for number, sample in enumerate(samples):
            report(f"{sample.name} ({number + 1} of {len(samples)})")
            pictures.append(_of_sample(sample, opened))
    return pictures


def pictures_from_photographs(
    paths: Sequence[Path],
    engines: Sequence[Path],
    count: int,
    report: Callable[[str], None] = lambda line: None,
    device: int | None = None,
    leave_out: Callable[[str], None] = lambda why: None,
) -> list[Picture]:
    """Upscale parts of the first `count` photographs of files and folders by each engine. device:
    see `open_engine`. leave_out: told why a file is passed over that cannot be read.

    DataError where there is no photograph that can be read; EngineError and UsageError as in
    `pictures_from_images`.
    """
    files = [file for path in paths for file in (image_files(path) if path.is_dir() else [path])]
    if not files:
        raise DataError(f"{paths[0]}: holds no photographs; expected files like photo.jpg")
    with _all_opened(engines, None, device) as opened:
        pictures: list[Picture] = []
        for path in files:
            if len(pictures) == count:
                break
            report(f"{path.name} ({len(pictures) + 1} of {min(count, len(files))})")
            try:
                photograph = read_rgb(path)
            except ImageError as error:
                leave_out(str(error))
            else:
                pictures.append(_of_photograph(path.name, photograph, opened))
    if not pictures:
        raise DataError(f"{paths[0]}: holds no photograph that can be read")
    return pictures


@contextmanager
def _all_opened(
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


def _of_sample(sample: Sample, engines: dict[str, Engine]) -> Picture:
    pair = load_pair(sample, BORDER)
    made = _upscaled_by_all(pair.lr, engines, sample.name)
    changes = _changes(made)
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
    details = busiest_within(changes, view, DETAIL, 1)
    return Picture(sample.name, tuple(versions), view, details, difference, remark)


def _of_photograph(name: str, photograph: Image, engines: dict[str, Engine]) -> Picture:
    """photograph: (H, W, 3) RGB uint8, as it is; its region becomes (4 h, 4 w, 3)."""
    region = _region(photograph, engines, name)
    made = _upscaled_by_all(region.of(photograph), engines, name)
    changes = _changes(made)
    view = busiest(changes, VIEW)
    height, width = photograph.shape[:2]
    remark = ""
    if (region.width, region.height) != (width, height):
        remark = (
            f"The {region.width}×{region.height} pixels at {region.left},{region.top} of "
            f"{width}×{height}: where the engines differ most, of {LOOKS} busy parts."
        )
    versions = tuple(Version(key, image) for key, image in made.items())
    return Picture(name, versions, view, busiest_within(changes, view, DETAIL, 3), remark=remark)


def _region(photograph: Image, engines: dict[str, Engine], name: str) -> Box:
    """Of a large photograph the part that is worth showing, in its own pixels."""
    height, width = photograph.shape[:2]
    if height * width <= WHOLE:
        return Box(0, 0, width, height)
    y = luma(photograph, rounded=False)
    energy: NDArray[np.float64] = np.zeros(y.shape)
    energy[:, 1:] += np.abs(np.diff(y, axis=1))
    energy[1:] += np.abs(np.diff(y, axis=0))

    def change(look: Box) -> float:
        return float(_changes(_upscaled_by_all(look.of(photograph), engines, name)).mean())

    best = max(busiest_within(energy, Box(0, 0, width, height), LOOK, LOOKS), key=change)
    wide, high = min(REGION, width), min(REGION, height)
    left = min(max(0, best.left + best.width // 2 - REGION // 2), width - wide)
    top = min(max(0, best.top + best.height // 2 - REGION // 2), height - high)
    return Box(left, top, wide, high)


def _upscaled_by_all(lr: Image, engines: dict[str, Engine], name: str) -> dict[str, Image]:
    """Bicubic first. EngineError where an engine fails, with the name of the image."""
    lr = np.ascontiguousarray(lr)
    made = {"bicubic": np.asarray(imresize(lr, SCALE, "clamp"))}
    try:
        for key, engine in engines.items():
            made[key] = np.asarray(upscale_tiled(lr, engine))
    except (RuntimeError, MemoryError) as error:
        raise EngineError(f"{engine.path}: fails on {name} ({in_a_line(error)})") from None
    return made


def _changes(made: dict[str, Image]) -> NDArray[np.float64]:
    """(H, W): how far the last two are apart in Y: two engines, or an engine and bicubic."""
    one, other = (luma(made[name], rounded=False) for name in list(made)[-2:])
    return np.abs(one - other)


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


def busiest_within(
    changes: NDArray[np.float64], view: Box, side: int, count: int
) -> tuple[Box, ...]:
    """So many squares of a view, the busiest first; none covers much of another, and where the view
    is too small for that there are fewer."""
    left = view.of(changes).copy()
    found: list[Box] = []
    while len(found) < count:
        inner = busiest(left, side)
        if found and not inner.of(left).any():
            break
        found.append(Box(view.left + inner.left, view.top + inner.top, inner.width, inner.height))
        inner.of(left)[:] = 0
    return tuple(found)


def difference_between(reference: Image, image: Image, view: Box) -> Difference:
    """Of two (H, W, 3) uint8 images."""
    levels = np.abs(reference.astype(np.int16) - image.astype(np.int16))
    per_pixel = levels.max(2)
    return Difference(
        levels=view.of(per_pixel).astype(np.uint8),
        most=int(per_pixel.max()),
        mean=float(levels.mean()),
        share=float((per_pixel > 0).mean()),
    )
