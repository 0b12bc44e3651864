"""Random aligned LR/HR patches of photographs, made ahead of the training step that needs them, and
a picture of them, for the eye: what the augmentations do to input and target."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from srtool.errors import DataError, ImageError
from srtool.images.datasets import SCALE, load_photographs
from srtool.images.picture import Picture
from srtool.images.vips import libvips
from srtool.images.writing import write_image
from srtool.train.data.augment import (
    KINDS,
    Image,
    Kind,
    Mixing,
    Mixture,
    forced,
    mixing_from_random,
)
from srtool.train.data.packed import open_packed

AHEAD = 8  # batches
THREADS = 2

SMALLEST = 96  # pixels; smaller patches are shown enlarged, each pixel a square
DRAWS = 9  # of each kind, to show a typical one
GAP = 4  # pixels between the LR and the HR image of one sample
MARGIN = 12  # pixels around names and samples

Batch = tuple[str, Image, Image]  # what it is called, LR and HR


@dataclass(frozen=True)
class Draw:
    """All random decisions of one global batch. Arrays (N,): numbers of pairs, the corners of the
    patches in LR pixels, quarter turns 0..3, and 1 to flip from left to right afterwards."""

    numbers: NDArray[np.intp]
    tops: NDArray[np.int64]
    lefts: NDArray[np.int64]
    turns: NDArray[np.int64]
    flips: NDArray[np.int64]
    mixing: Mixing | None


class Patches:
    """Random aligned patches, with flips and quarter turns, of a folder of photographs, which is
    then held in memory, or of a packed file, of which only the patches are read.

    A batch is a pure function of (seed, step): training resumes at any step with the very same
    data, on any number of threads, and each of several processes makes its own share of it. A
    photograph is drawn with a probability in proportion to its area. LR images are made of whole
    photographs, so patches carry no borders of their own.

    pairs: what patches are cut from. photographs: how many photographs these come from. skipped:
    how many were left out, since the patch does not fit into them or into their sub-images.
    digests: SHA-256 of the HR pixels of every photograph that patches are cut from, as
    `datasets.digest` gives it for a validation image.
    waited: seconds that the consumers of `batches` have waited for data so far.
    """

    def __init__(
        self, source: Path, patch: int, batch: int, seed: int, mixture: Mixture | None = None
    ) -> None:
        """source: a folder of images, a folder with HR/ and perhaps LRx4/, or a packed file.
        patch: side of the HR patch in pixels, a multiple of 4. mixture: the augmentations to draw
        from. DataError where the source cannot be used."""
        assert patch % SCALE == 0
        self.patch, self.batch, self.seed, self.mixture = patch, batch, seed, mixture
        self.waited = 0.0
        found = open_packed(source) if source.is_file() else load_photographs(source)
        fitting = [n for n, pair in enumerate(found.pairs) if min(pair.hr.shape[:2]) >= patch]
        if not fitting:
            what, advice = "images", ""
            if source.is_file():
                what, advice = "sub-images", "; choose a smaller patch or pack larger ones"
            count = len(found.pairs)
            raise DataError(
                f"{source}: all {count} {what} are smaller than the patch {patch}{advice}"
            )
        self.pairs = [found.pairs[n] for n in fitting]
        owners = np.array([found.owners[n] for n in fitting])
        self.digests = frozenset(found.photographs[owner].sha256 for owner in owners)
        self.photographs = len(np.unique(owners))
        self.skipped = len(found.photographs) - self.photographs
        # The sub-images of a photograph overlap, share its area and all have the same size.
        areas = np.array([photo.height * photo.width for photo in found.photographs], np.float64)
        chances = (areas / np.bincount(owners, minlength=len(areas)).clip(1))[owners]
        self._cumulated = (chances / chances.sum()).cumsum()
        self._cumulated /= self._cumulated[-1]
        self._places = np.array([pair.lr.shape[:2] for pair in self.pairs]) - patch // SCALE + 1

    def draw(self, step: int) -> Draw:
        """The random decisions of the whole batch of one step."""
        random = np.random.default_rng([self.seed, step])
        numbers = self._cumulated.searchsorted(random.random(self.batch), side="right")
        orders = np.broadcast_to([4, 2], (self.batch, 2))
        highs = np.concatenate((self._places[numbers], orders), 1)
        tops, lefts, turns, flips = random.integers(highs).T
        mixing = None
        if self.mixture is not None:
            mixing = mixing_from_random(self.mixture, random, self.batch, self.patch)
        return Draw(numbers, tops, lefts, turns, flips, mixing)

    def at(self, step: int, share: slice | None = None) -> tuple[Tensor, Tensor]:
        """The batch of one step, or those of its samples that `share` takes.

        Returns LR (n, 3, p / 4, p / 4) and HR (n, 3, p, p), RGB uint8. With a mixture LR is at HR
        size, (n, 3, p, p), nearest-upsampled and then mixed. Both lie in memory as one block in
        torch.channels_last order.
        """
        draw = self.draw(step)
        members = range(self.batch)[share if share else slice(None)]
        if draw.mixing is None:
            return self._plain(draw, members)
        return self._mixed(draw, draw.mixing, members)

    def _plain(self, draw: Draw, members: Sequence[int]) -> tuple[Tensor, Tensor]:
        side = self.patch // SCALE
        lows = np.empty((len(members), side, side, 3), np.uint8)
        highs = np.empty((len(members), self.patch, self.patch, 3), np.uint8)
        for place, index in enumerate(members):
            low, high = self._sample(draw, index)
            _copy(low, lows[place])
            _copy(high, highs[place])
        return _nchw(lows), _nchw(highs)

    def _mixed(self, draw: Draw, mixing: Mixing, members: range) -> tuple[Tensor, Tensor]:
        needed = sorted({*members, *(mixing.partners[index] for index in members)})
        place_of = {index: place for place, index in enumerate(needed)}
        low, high = (_nhwc(images) for images in self._plain(draw, needed))
        low = _enlarged(low, SCALE)
        lows = np.empty((len(members), self.patch, self.patch, 3), np.uint8)
        highs = np.empty_like(lows)
        for place, index in enumerate(members):
            one, other = place_of[index], place_of[mixing.partners[index]]
            mixed = mixing.apply(index, low[one], high[one], low[other], high[other])
            lows[place], highs[place] = mixed
        return _nchw(lows), _nchw(highs)

    def _sample(self, draw: Draw, index: int) -> tuple[Image, Image]:
        """One sample, LR (p / 4, p / 4, 3) and HR (p, p, 3), as views of its pair."""
        pair, side = self.pairs[draw.numbers[index]], self.patch // SCALE
        top, left = int(draw.tops[index]), int(draw.lefts[index])
        turns, flip = int(draw.turns[index]), bool(draw.flips[index])
        low = pair.lr[top : top + side, left : left + side]
        top, left = top * SCALE, left * SCALE
        high = pair.hr[top : top + self.patch, left : left + self.patch]
        return _turned(low, turns, flip), _turned(high, turns, flip)

    def batches(
        self, first_step: int, last_step: int, share: slice | None = None
    ) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Batches of first_step..last_step (inclusive), made ahead in background threads."""
        pool = ThreadPoolExecutor(THREADS)
        try:
            queue: deque[Future[tuple[Tensor, Tensor]]] = deque()
            for step in range(first_step, last_step + 1 + AHEAD):
                if step <= last_step:
                    queue.append(pool.submit(self.at, step, share))
                if queue and step >= first_step + AHEAD:
                    start = time.perf_counter()
                    batch = queue.popleft().result()
                    self.waited += time.perf_counter() - start
                    yield batch
        finally:
            pool.shutdown(cancel_futures=True)


def _turned(image: Image, turns: int, flip: bool) -> Image:
    """Quarter turns to the left, then a flip from left to right; a view."""
    if turns & 1:
        image = image.swapaxes(0, 1)[::-1]
    if turns & 2:
        image = image[::-1, ::-1]
    return image[:, ::-1] if flip else image


def _copy(image: Image, out: Image) -> None:
    """out[...] = image; numpy is slow where rows are no longer runs of bytes, unless it is given
    one channel at a time."""
    if image.strides[1] == 3:
        out[...] = image
        return
    for channel in range(3):
        out[..., channel] = image[..., channel]


def _nchw(images: Image) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def _nhwc(images: Tensor) -> Image:
    array: Image = images.permute(0, 2, 3, 1).numpy()
    return array


def _enlarged(images: Image, zoom: int) -> Image:
    """Each pixel of (..., H, W, 3) a square of that side."""
    return images.repeat(zoom, axis=-2).repeat(zoom, axis=-3)


# What is shown


def batches_of_every_kind(patches: Patches, config: Mixture) -> list[Batch]:
    """The first batch without augmentation and with each one made certain, named.

    patches: without a mixture of their own; a batch of at least 2 shows what the mixing kinds do.
    Of DRAWS draws of a kind the one is taken that changes the LR input by the median amount: a
    single draw may hardly change anything. The result is for `picture_of_batches` or
    `save_batches`.
    """
    low, hr = (_nhwc(images) for images in patches.at(1))
    lr = _enlarged(low, SCALE)
    kinds: tuple[Kind, ...] = ("none", *KINDS)
    batches: list[Batch] = []
    for number, kind in enumerate(kinds):
        random = np.random.default_rng([patches.seed, number])
        drawn = [_augmented(forced(config, kind), random, lr, hr) for _ in range(DRAWS)]
        drawn.sort(key=lambda batch: float(np.abs(np.subtract(batch[0], lr, dtype=int)).mean()))
        batches.append((kind, *drawn[DRAWS // 2]))
    return batches


def _augmented(
    config: Mixture, random: np.random.Generator, lr: Image, hr: Image
) -> tuple[Image, Image]:
    mixing = mixing_from_random(config, random, len(lr), lr.shape[1])
    mixed = [
        mixing.apply(index, lr[index], hr[index], lr[partner], hr[partner])
        for index, partner in enumerate(mixing.partners)
    ]
    lows, highs = zip(*mixed, strict=True)
    return np.stack(lows), np.stack(highs)


def picture_of_batches(batches: Sequence[Batch]) -> Image:
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


def save_batches(path: Path, batches: Sequence[Batch]) -> None:
    """Write `picture_of_batches` as a PNG file, whole or not at all. ImageError if the suffix is
    not .png or the file cannot be written."""
    if path.suffix.lower() != ".png":
        raise ImageError(f"{path}: the picture of a batch is a PNG, give a name that ends in .png")
    write_image(path, Picture(picture_of_batches(batches)))


def written(words: str) -> Image:
    """Black words on white, (h, w, 3)."""
    # libvips reads its text as markup
    ink: Image = libvips().Image.text(escape(words), font="sans 12", dpi=72).numpy()
    return np.repeat(255 - ink[..., None], 3, axis=2)


def _put(picture: Image, top: int, left: int, image: Image) -> None:
    picture[top : top + image.shape[0], left : left + image.shape[1]] = image
