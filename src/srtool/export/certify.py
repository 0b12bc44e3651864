"""Certification: real images through PyTorch FP32 and through the written file, compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from srtool.errors import DataError, ExportError
from srtool.export.compare import Compared, fidelity_from_images
from srtool.images.colour import to_levels
from srtool.images.datasets import dataset_from_folder
from srtool.images.imresize import make_lr, mod_crop
from srtool.images.reading import read_rgb
from srtool.networks.network import Network
from srtool.parity import EXPORTED, Fidelity
from srtool.runtime.engine import Engine
from srtool.runtime.tiling import Tiling, upscale_tiled

# LR height and width of each shipped sample: seconds, not minutes, for the largest networks, and
# sizes that are no multiple of anything among them.
SIZES = ((64, 64), (61, 47), (64, 96), (53, 70))
MIN_SIDE = 32  # HR pixels of a certification image
HALOS = (4, 8, 12, 16, 20, 24, 32, 48, 64)
STRIP = (32, 192)  # LR height and width of the image that the halo is measured on
SEEN = 40.0  # dB: a picture in tiles that is farther from the same picture whole has seams
GLOBAL_HALO, GLOBAL_TILE = 32, 128  # where every pixel looks at all others


Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Sample:
    """One certification image: LR and HR, and what the PyTorch network makes of the LR, all
    (H, W, 3) RGB uint8."""

    lr: NDArray[np.uint8]
    hr: NDArray[np.uint8]
    reference: NDArray[np.uint8]
    name: str = ""


def samples_from_images(network: Network, folder: Path | None = None) -> list[Sample]:
    """Make LR images of the HR images in a folder and run the reference on them.

    Without a folder, the middles of the photographs that srtool ships are taken.
    """
    return [
        replace(sample, reference=reference(network, sample.lr))
        for sample in pairs(network.scale, folder)
    ]


def pairs(scale: int, folder: Path | None = None) -> list[Sample]:
    """The same without a reference: LR images in its place. DataError where one is too small."""
    samples = []
    paths = [sample.hr for sample in dataset_from_folder(folder or _shipped()).samples]
    for path, size in zip(paths, cycle(SIZES), strict=False):
        image = read_rgb(path)
        if folder is None:
            image = _middle(image, size[0] * scale, size[1] * scale)
        hr = mod_crop(image, scale)
        if min(hr.shape[:2]) < MIN_SIDE:
            raise DataError(
                f"{folder}: an image of {image.shape[1]}x{image.shape[0]} pixels is too small to "
                f"certify with, expected at least {MIN_SIDE} a side"
            )
        lr = make_lr(hr, scale) if scale > 1 else hr
        samples.append(Sample(lr, hr, lr, path.name))
    return samples


def _shipped() -> Path:
    return Path(str(resources.files("srtool") / "samples" / "HR"))


def _middle(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    top, left = (
        max(0, (side - to) // 2) for side, to in zip(image.shape[:2], (height, width), strict=True)
    )
    return image[top : top + height, left : left + width]


def reference(network: Network, lr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """PyTorch FP32 eager: (H, W, 3) uint8 -> (scale * H, scale * W, 3) uint8."""
    x = torch.from_numpy(lr).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        out = network.upscale(x)[0].permute(1, 2, 0)
    if not out.isfinite().all():
        raise ExportError(
            f"{network.path}: the network makes NaN or infinite values of a photograph; "
            "its weights are damaged, or its training went wrong"
        )
    levels: NDArray[np.uint8] = to_levels(out.numpy(), np.uint8)
    return levels


def fidelity(engine: Engine, samples: list[Sample], dataset: str = "") -> Fidelity:
    """Compare an engine's output with the reference, over all values of all samples."""
    images = (
        Compared(sample.name, engine.upscale_batch(sample.lr[None])[0], sample.reference, sample.hr)
        for sample in samples
    )
    return fidelity_from_images(images, engine.facts.scale, dataset)


def check(precision: str, found: Fidelity, path: Path) -> None:
    """ExportError unless the file keeps what is asked of files of its precision."""
    if missed := found.misses(EXPORTED[precision]):
        raise ExportError(
            f"{path}: the {precision} file does not do what the network does: "
            f"{', '.join(missed)}; {_next_step(precision)}",
            path=path,
            found=", ".join(missed),
            remedy={"force": ""},
        )


def check_emulated(found: Fidelity, path: Path) -> None:
    """ExportError unless an fp16 file is faithful with each of its values in float16."""
    if not found.passed:
        missed = ", ".join(found.misses(found.gates))
        raise ExportError(
            f"{path}: the fp16 file does not do what the network does where its values are "
            f"float16, as they are on a GPU: {missed}; {_next_step('fp16')}",
            path=path,
            found=missed,
            remedy={"force": ""},
        )


def _next_step(precision: str) -> str:
    if precision == "fp32":
        return "nothing was written"
    return "nothing was written; of a file that is, `srtool verify` can find what fails and mend it"


@dataclass(frozen=True)
class Cut:
    """How images may be cut into tiles. halo, tile: see `ModelFacts`. seam: dB between an image in
    tiles and the same image whole, None where they are equal."""

    halo: int
    tile: int | None
    seam: float | None


def measured_cut(engine: Engine, strips: Sequence[Pixels] = ()) -> Cut:
    """The smallest halo with which a cut through a photograph stays invisible: on 99.9 % of the
    values within 16 pixels of the cut at most one level of difference, and in the smallest tiles
    several photographs are to SEEN what they are as a whole. Where none does, since every pixel
    looks at the whole image, or all of it decides what is computed, the tile that it then is about,
    and how far from whole images its pictures are. strips: wide photographs, default of those that
    ship."""
    scale, step = engine.facts.scale, engine.facts.multiple_of
    strips = strips or _strips(step)
    cut, near = strips[0].shape[1] // 2 // step * step, 16
    whole = engine.upscale_batch(strips[0][None])[0].astype(np.int16)
    for least in HALOS:
        halo = -(-least // step) * step
        if cut + halo >= strips[0].shape[1]:
            break
        piece = engine.upscale_batch(strips[0][None, :, : cut + halo])[0]
        kept = slice(max(0, cut - near) * scale, cut * scale)
        gap = np.abs(whole[:, kept] - piece[:, kept])
        if float((gap > 1).mean()) <= 1e-3:
            seam = _seam(engine, strips, halo)
            if seam is None or seam >= SEEN:
                return Cut(halo, None, seam)
    halo, tile = (-(-side // step) * step for side in (GLOBAL_HALO, GLOBAL_TILE))
    return Cut(halo, tile, _seam(engine, strips, halo, tile))


def _seam(engine: Engine, strips: Sequence[Pixels], halo: int, tile: int = 0) -> float | None:
    """dB between a strip in tiles, default the smallest, and the whole strip, of the one where that
    is least; None where all are equal."""
    least = 2 * halo + max(16, engine.facts.multiple_of)
    found = []
    for strip in strips:
        tiled = upscale_tiled(strip, engine, Tiling(max(tile, least), halo)).astype(np.int64)
        squares = float(((tiled - engine.upscale_batch(strip[None])[0]) ** 2).mean())
        if squares:
            found.append(round(10 * float(np.log10(255**2 / squares)), 1))
    return min(found, default=None)


def _strips(step: int) -> list[Pixels]:
    """A wide piece of each shipped photograph, (H, W, 3), of sides that a network takes."""
    height, width = (-(-side // step) * step for side in STRIP)
    strips = []
    for path in sorted(sample.hr for sample in dataset_from_folder(_shipped()).samples):
        lr = make_lr(mod_crop(read_rgb(path), 2), 2)
        tall, wide = min(height, lr.shape[0]), min(width, lr.shape[1])
        lr = _middle(lr, tall, wide)
        strips.append(np.pad(lr, ((0, height - tall), (0, width - wide), (0, 0)), mode="symmetric"))
    return strips
