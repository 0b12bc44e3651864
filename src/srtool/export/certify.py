"""Certification: real images through PyTorch FP32 and through the written file, compared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from srtool.errors import DataError, ExportError
from srtool.images.colour import psnr_y, to_levels
from srtool.images.datasets import dataset_from_folder
from srtool.images.folders import SAMPLES
from srtool.images.imresize import make_lr, mod_crop
from srtool.images.reading import read_rgb
from srtool.parity import FAITHFUL, Fidelity, Gates, WorstTile
from srtool.runtime.engine import Engine
from srtool.runtime.tiling import Tiling, upscale_tiled

if TYPE_CHECKING:
    from srtool.networks.network import Network

# LR height and width of each shipped sample: seconds, not minutes, for the largest networks, and
# sizes that are no multiple of anything among them.
SIZES = ((64, 64), (61, 47), (64, 96), (53, 70))
TILE = 32  # LR pixels: the side of the tiles among which the worst is named
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

    lr: Pixels
    hr: Pixels
    reference: Pixels
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
    paths = [sample.hr for sample in dataset_from_folder(folder or SAMPLES / "HR").samples]
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


def _middle(image: Pixels, height: int, width: int) -> Pixels:
    top, left = (
        max(0, (side - to) // 2) for side, to in zip(image.shape[:2], (height, width), strict=True)
    )
    return image[top : top + height, left : left + width]


def reference(network: Network, lr: Pixels) -> Pixels:
    """PyTorch FP32 eager: (H, W, 3) uint8 -> (scale * H, scale * W, 3) uint8."""
    import torch

    x = torch.from_numpy(lr).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        out = network.upscale(x)[0].permute(1, 2, 0)
    if not out.isfinite().all():
        raise ExportError(
            f"{network.path}: the network makes NaN or infinite values of a photograph; "
            "its weights are damaged, or its training went wrong"
        )
    levels: Pixels = to_levels(out.numpy(), np.uint8)
    return levels


def fidelity(engine: Engine, samples: list[Sample], dataset: str = "") -> Fidelity:
    """Compare an engine's output with the reference, over all values of all samples."""
    images = ((sample, engine.upscale_batch(sample.lr[None])[0]) for sample in samples)
    return fidelity_from_images(images, engine.facts.scale, dataset)


def fidelity_from_images(
    images: Iterable[tuple[Sample, Pixels]],
    scale: int,
    dataset: str = "",
    gates: Gates = FAITHFUL,
) -> Fidelity:
    """Compare what an engine makes of samples with their references, over all values of all images,
    which are looked at one at a time.

    scale: of the engine, for the tiles. dataset, gates: recorded with the result.
    """
    count = values = different = over_1 = largest = 0
    total = squares = worst_squares = 0.0
    worst: WorstTile | None = None
    deltas = []
    names = []
    for sample, output in images:
        gap = np.abs(output.astype(np.int16) - sample.reference)
        count += 1
        names.append(sample.name)
        values += gap.size
        different += int((gap > 0).sum())
        over_1 += int((gap > 1).sum())
        largest = max(largest, int(gap.max()))
        total += float(gap.sum())
        tiles = _squares_of_tiles(gap, TILE * scale)
        squares += float(tiles.sum())
        if tiles.max() > worst_squares:
            worst_squares = float(tiles.max())
            worst = _worst_tile(sample.name, gap, tiles, scale)
        engine, reference = (psnr_y(image, sample.hr) for image in (output, sample.reference))
        deltas.append(0.0 if engine == reference else engine - reference)  # both may be infinite
    return Fidelity(
        images=count,
        max_difference=largest,
        mean_difference=total / values,
        share_different=different / values,
        share_over_1=over_1 / values,
        psnr_between=_psnr(squares, values) if squares else None,
        delta_psnr=float(np.mean(deltas)),
        worst_delta_psnr=float(min(deltas)),
        worst_tile=worst,
        dataset=dataset,
        names=tuple(names),
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        gates=gates,
    )


def _squares_of_tiles(gap: NDArray[np.int16], side: int) -> NDArray[np.int64]:
    """Sums of squares over tiles of side x side pixels; those at the right and bottom edge may be
    smaller."""
    squares = (gap.astype(np.int64) ** 2).sum(-1)
    rows, columns = (np.arange(0, length, side) for length in squares.shape)
    sums: NDArray[np.int64] = np.add.reduceat(np.add.reduceat(squares, rows, 0), columns, 1)
    return sums


def _worst_tile(
    name: str, gap: NDArray[np.int16], tiles: NDArray[np.int64], scale: int
) -> WorstTile:
    row, column = (int(index) for index in np.unravel_index(tiles.argmax(), tiles.shape))
    side = TILE * scale
    inside = gap[row * side : (row + 1) * side, column * side : (column + 1) * side]
    decibels = _psnr(float(tiles[row, column]), inside.size)
    return WorstTile(image=name, left=column * TILE, top=row * TILE, psnr=decibels)


def _psnr(squares: float, values: int) -> float:
    return 10 * math.log10(255**2 * values / squares)


def check(found: Fidelity, gates: Gates, path: Path, what: str, where: str = "") -> None:
    """ExportError unless a file keeps what is asked of it. what: "fp16 file"; where: it fails."""
    if missed := ", ".join(found.misses(gates)):
        mend = "; of a file that is, `srtool verify` can find what fails and mend it"
        raise ExportError(
            f"{path}: the {what} does not do what the network does{where}: {missed}; nothing was "
            f"written{mend if what == 'fp16 file' else ''}",
            path=path,
            found=missed,
            remedy={"force": ""},
        )


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
    for path in sorted(sample.hr for sample in dataset_from_folder(SAMPLES / "HR").samples):
        lr = make_lr(mod_crop(read_rgb(path), 2), 2)
        tall, wide = min(height, lr.shape[0]), min(width, lr.shape[1])
        lr = _middle(lr, tall, wide)
        strips.append(np.pad(lr, ((0, height - tall), (0, width - wide), (0, 0)), mode="symmetric"))
    return strips
