"""The picture of training batches: what stands where, and how it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from numpy.typing import NDArray

from srtool.errors import ImageError
from srtool.train.data.augment import KINDS, Mixture
from srtool.train.data.patches import (
    Patches,
    batches_of_every_kind,
    picture_of_batches,
    save_batches,
)


def random_batch(count: int, side: int, seed: int = 0) -> NDArray[np.uint8]:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, side, side, 3), np.uint8)


def found(picture: NDArray[np.uint8], image: NDArray[np.uint8]) -> tuple[int, int]:
    """The top left corner of the only place where the picture shows the image."""
    height, width = image.shape[:2]
    corners = np.argwhere((picture == image[0, 0]).all(2)).tolist()
    ((top, left),) = [
        (top, left)
        for top, left in corners
        if np.array_equal(picture[top : top + height, left : left + width], image)
    ]
    return top, left


def test_samples_stand_in_rows_lr_left_of_hr() -> None:
    lr, hr = random_batch(4, 100, seed=1), random_batch(4, 100, seed=2)
    picture = picture_of_batches([("first", lr[:2], hr[:2]), ("second", lr[2:], hr[2:])])
    assert picture.dtype == np.uint8
    lows, highs = [found(picture, image) for image in lr], [found(picture, image) for image in hr]
    assert [low[0] for low in lows] == [high[0] for high in highs]
    assert lows[0][0] == lows[1][0]
    assert lows[2][0] == lows[3][0] >= lows[0][0] + 100
    for low, high in zip(lows, highs, strict=True):
        assert low[1] + 100 <= high[1] <= low[1] + 110
    assert lows[1][1] >= highs[0][1] + 100
    assert lows[0][1] == lows[2][1]


def test_names_are_written_beside_their_rows() -> None:
    batch = random_batch(1, 100)
    picture = picture_of_batches([("long name", batch, batch), ("<&>", batch, batch)])
    left = int(np.flatnonzero((picture == batch[0, 0, 0]).all(2).any(0))[0])
    column = picture[:, : left - 1].min(axis=(1, 2))
    rows = np.flatnonzero((picture == batch[0, 0, 0]).all(2).any(1))
    for top in (rows[0], rows[-1]):
        ink = np.flatnonzero(column[top : top + 100] < 100)
        line = picture[top + ink, : left - 1]
        assert (line < 128).mean() < 0.4  # letters, not a black bar
        assert len(ink) >= 4
        assert 30 < ink.mean() < 70  # at half height
    assert column[: rows[0]].min() == 255
    assert picture[: rows[0], left:].min() < 100  # the headings


def test_small_patches_are_enlarged_to_squares() -> None:
    batch = random_batch(1, 20)
    picture = picture_of_batches([("x", batch, 255 - batch)])
    assert found(picture, batch[0].repeat(5, axis=0).repeat(5, axis=1))
    assert found(picture, (255 - batch[0]).repeat(5, axis=0).repeat(5, axis=1))


def test_every_kind_is_shown_on_the_same_batch(photographs: Path) -> None:
    patches = Patches(photographs, 32, 3, seed=3)
    low, hr = (images.permute(0, 2, 3, 1).numpy() for images in patches.at(1))
    lr = low.repeat(4, axis=1).repeat(4, axis=2)
    batches = batches_of_every_kind(patches, Mixture.model_validate({"probability": 0.2}))
    assert [name for name, _, _ in batches] == ["none", *KINDS]
    for name, low, high in batches:
        assert low.shape == high.shape == lr.shape
        assert np.array_equal(low, lr) == (name == "none")
        assert np.array_equal(high, hr) == (name in ("none", "cutout", "cutblur"))
    again = batches_of_every_kind(patches, Mixture())
    for one, other in zip(batches, again, strict=True):
        assert np.array_equal(one[1], other[1])
        assert np.array_equal(one[2], other[2])


def test_the_file_holds_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "new" / "batch.png"
    batches = [("none", random_batch(2, 32), random_batch(2, 32, seed=1))]
    save_batches(path, batches)
    read = pyvips.Image.new_from_file(str(path))
    assert read.interpretation == "srgb"
    assert np.array_equal(read.numpy(), picture_of_batches(batches))
    assert list(path.parent.iterdir()) == [path]


def test_files_that_cannot_be_written_are_named(tmp_path: Path, complains: Any) -> None:
    batches = [("none", random_batch(1, 32), random_batch(1, 32))]
    with complains(ImageError, tmp_path / "batch.jpg", ".png"):
        save_batches(tmp_path / "batch.jpg", batches)
    (tmp_path / "file").write_text("x")
    with complains(ImageError, tmp_path / "file" / "batch.png", "cannot be written"):
        save_batches(tmp_path / "file" / "batch.png", batches)
    (tmp_path / "folder.png").mkdir()
    with complains(ImageError, tmp_path / "folder.png", "cannot be written"):
        save_batches(tmp_path / "folder.png", batches)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png"]


@pytest.mark.parametrize("side", [8, 40])
def test_one_sample_is_enough(side: int, photographs: Path) -> None:
    assert len(batches_of_every_kind(Patches(photographs, side, 1, seed=0), Mixture())) == 8
