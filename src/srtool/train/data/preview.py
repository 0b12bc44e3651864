"""A picture of training batches, for the eye: what the augmentations do to input and target."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
import pyvips
from numpy.typing import NDArray

from srtool.errors import ImageError
from srtool.files import whole_file
from srtool.train.data.augment import KINDS, Image, Kind, Mixture, forced, mixing_from_random

Sample = tuple[str, Image, Image]

SMALLEST = 96  # pixels; smaller patches are shown enlarged, each pixel a square
DRAWS = 9  # of each kind, to show a typical one
GAP = 4  # pixels between the LR and the HR image of one sample
MARGIN = 12  # pixels around names and samples


def batches_of_every_kind(config: Mixture, lr: Image, hr: Image, seed: int) -> list[Sample]:
    """The same batch without augmentation and with each one made certain, named.

    lr, hr: (N, p, p, 3) RGB uint8, LR nearest-upsampled to HR size, not augmented; N of at least
    2 shows what the mixing kinds do. Of DRAWS draws of a kind the one is taken that changes the
    LR input by the median amount: a single draw may hardly change anything. The result is for
    `picture_of_batches` or `save_batches`.
    """
    kinds: tuple[Kind, ...] = ("none", *KINDS)
    batches: list[Sample] = []
    for number, kind in enumerate(kinds):
        random = np.random.default_rng([seed, number])
        drawn = [_mixed(forced(config, kind), random, lr, hr) for _ in range(DRAWS)]
        drawn.sort(key=lambda batch: float(np.abs(np.subtract(batch[0], lr, dtype=int)).mean()))
        batches.append((kind, *drawn[DRAWS // 2]))
    return batches


def _mixed(
    config: Mixture, random: np.random.Generator, lr: Image, hr: Image
) -> tuple[Image, Image]:
    mixing = mixing_from_random(config, random, len(lr), lr.shape[1])
    mixed = [
        mixing.apply(index, lr[index], hr[index], lr[partner], hr[partner])
        for index, partner in enumerate(mixing.partners)
    ]
    lows, highs = zip(*mixed, strict=True)
    return np.stack(lows), np.stack(highs)


def picture_of_batches(batches: Sequence[Sample]) -> Image:
    """Lay batches out on white: one row each, its name at the left, then for every sample the LR
    input beside the HR target.

    batches: (name, lr, hr) each, lr and hr (N, p, p, 3) RGB uint8 of one shape throughout, LR as
    the network sees it, at HR size. Returns (H, W, 3) RGB uint8. Sizes differ between machines by
    those of the font.
    """
    assert all(lr.shape == hr.shape == batches[0][1].shape for _, lr, hr in batches)
    count, side = batches[0][1].shape[:2]
    zoom = -(-SMALLEST // side)
    cell = side * zoom
    names = [written(name) for name, _, _ in batches]
    headings = [written("LR input"), written("HR target")]
    left = MARGIN + max(name.shape[1] for name in names) + MARGIN
    top = MARGIN + max(heading.shape[0] for heading in headings) + MARGIN
    columns = [left + sample * (2 * cell + GAP + MARGIN) for sample in range(count)]
    rows = [top + row * (cell + MARGIN) for row in range(len(batches))]
    height, width = rows[-1] + cell + MARGIN, columns[-1] + 2 * cell + GAP + MARGIN
    picture = np.full((height, width, 3), 255, np.uint8)
    for x in columns:
        _put(picture, MARGIN, x, headings[0][:, :cell])
        _put(picture, MARGIN, x + cell + GAP, headings[1][:, :cell])
    for y, name, (_, lr, hr) in zip(rows, names, batches, strict=True):
        _put(picture, y + (cell - name.shape[0]) // 2, MARGIN, name)
        for x, low, high in zip(columns, lr, hr, strict=True):
            _put(picture, y, x, _enlarged(low, zoom))
            _put(picture, y, x + cell + GAP, _enlarged(high, zoom))
    return picture


def save_batches(path: Path, batches: Sequence[Sample]) -> None:
    """Write `picture_of_batches` as a PNG file, whole or not at all. ImageError if the suffix is
    not .png or the file cannot be written."""
    if path.suffix.lower() != ".png":
        raise ImageError(f"{path}: the picture of a batch is a PNG, give a name that ends in .png")
    image = pyvips.Image.new_from_array(picture_of_batches(batches)).copy(interpretation="srgb")
    try:
        with whole_file(path) as temporary:
            temporary.write_bytes(image.pngsave_buffer())
    except OSError as error:
        raise ImageError(
            f"{path}: cannot be written ({error.strerror}), expected a folder with write "
            "permission and free space"
        ) from error


def written(words: str) -> Image:
    """Black words on white, (h, w, 3)."""
    # libvips reads its text as markup
    ink: NDArray[np.uint8] = pyvips.Image.text(escape(words), font="sans 12", dpi=72).numpy()
    return np.repeat(255 - ink[..., None], 3, axis=2)


def _enlarged(image: Image, zoom: int) -> Image:
    return image.repeat(zoom, axis=0).repeat(zoom, axis=1)


def _put(picture: Image, top: int, left: int, image: Image) -> None:
    picture[top : top + image.shape[0], left : left + image.shape[1]] = image
