"""Training data: what is read, how patches are drawn, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import torch
from numpy.typing import NDArray

from srtool.errors import DataError
from srtool.train.data import Pair, Patches, image_files, load_dataset, load_pair, read_rgb
from srtool.train.resize import make_lr, mod_crop


def random_image(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_rgb_rgba_gray_and_gray_with_alpha_are_read_as_rgb(tmp_path: Path, write_png: Any) -> None:
    pixels = random_image(20, 30, 4)
    for wanted, image in (
        (pixels[..., :3], pixels[..., :3]),
        (pixels[..., :3], pixels),
        (pixels[..., [0, 0, 0]], pixels[..., 0]),
        (pixels[..., [0, 0, 0]], pixels[..., :2]),
    ):
        read = read_rgb(write_png(tmp_path / "x.png", image))
        assert read.dtype == np.uint8
        assert np.array_equal(read, wanted)


@pytest.mark.parametrize("bands", [1, 3, 4])
def test_16_bits_are_rounded_to_8(tmp_path: Path, write_png: Any, bands: int) -> None:
    levels = np.array([0, 128, 129, 255, 256, 385, 386, 32767, 32768, 65406, 65407, 65535])
    expected = [0, 0, 1, 1, 1, 1, 2, 127, 128, 254, 255, 255]
    levels = np.concatenate((levels, 257 * np.arange(256))).astype(np.uint16)
    image = np.repeat(levels[None, :, None], bands, 2)
    read = read_rgb(write_png(tmp_path / "x.png", image))
    assert read.shape == (1, len(levels), 3)
    for channel in range(3):
        assert read[0, :, channel].tolist() == [*expected, *range(256)]


def test_palettes_and_single_bits_are_read(tmp_path: Path, write_png: Any) -> None:
    image = np.zeros((8, 8), np.uint8)
    image[2:5] = 255
    plain = pyvips.Image.new_from_file(str(write_png(tmp_path / "x.png", image)))
    plain.write_to_file(str(tmp_path / "one.png"), bitdepth=1)
    plain.colourspace("srgb").write_to_file(str(tmp_path / "palette.png"), palette=True)
    for name in ("one.png", "palette.png"):
        assert np.array_equal(read_rgb(tmp_path / name), np.stack([image] * 3, -1))


def test_broken_images_are_named_in_one_line(
    tmp_path: Path, write_png: Any, complains: Any
) -> None:
    whole = write_png(tmp_path / "whole.png", random_image(64, 64, 3)).read_bytes()
    for name, content in (
        ("text.png", b"no image at all"),
        ("empty.jpg", b""),
        ("truncated.png", whole[: len(whole) // 2]),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with complains(DataError, path, "cannot be read as an image"):
            read_rgb(path)
    floats = tmp_path / "float.tif"
    pyvips.Image.new_from_array(np.zeros((4, 4), np.float32)).write_to_file(str(floats))
    with complains(DataError, floats, "float", "8 or 16 bits"):
        read_rgb(floats)


def test_one_broken_image_stops_the_loading_of_a_folder(photographs: Path, complains: Any) -> None:
    (photographs / "sub").mkdir()
    broken = photographs / "sub" / "broken.png"
    broken.write_text("text")
    with complains(DataError, broken):
        Patches(photographs, 16, 2, 0)


def test_only_image_files_are_listed(photographs: Path, write_png: Any) -> None:
    deep = write_png(photographs / "a" / "b" / "DEEP.PNG", random_image(8, 8, 3))
    (photographs / "notes.txt").write_text("x")
    (photographs / "folder.png").mkdir()
    (photographs / ".srtool-half.png").write_text("half-written")
    assert image_files(photographs) == [photographs / f"{n}.png" for n in range(3)] + [deep]


def test_folders_without_usable_images_are_refused(
    tmp_path: Path, photographs: Path, complains: Any
) -> None:
    empty = tmp_path / "empty"
    with complains(DataError, empty, "no such folder"):
        image_files(empty)
    empty.mkdir()
    with complains(DataError, empty, "holds no images"):
        Patches(empty, 16, 2, 0)
    with complains(DataError, photographs, "all 3 images", "patch 64"):
        Patches(photographs, 64, 2, 0)


def test_images_smaller_than_the_patch_are_left_out(photographs: Path, write_png: Any) -> None:
    write_png(photographs / "dot.png", random_image(2, 3, 3))
    patches = Patches(photographs, 48, 2, 0)
    assert [pair.path.name for pair in patches.pairs] == ["0.png"]
    assert patches.skipped == 3


def test_pairs_are_cropped_and_resized_as_a_whole(photographs: Path) -> None:
    path = photographs / "1.png"
    pair = load_pair(path)
    assert np.array_equal(pair.hr, mod_crop(read_rgb(path)))
    assert pair.hr.shape == (60, 44, 3)
    assert np.array_equal(pair.lr, make_lr(read_rgb(path)))


def test_dataset_takes_lr_files_or_makes_them(photographs: Path, write_png: Any) -> None:
    bare = load_dataset(photographs)
    assert [pair.path.name for pair in bare] == ["0.png", "1.png", "2.png"]
    folder = photographs.parent / "dataset"
    folder.mkdir()
    photographs.rename(folder / "HR")
    given = random_image(12, 16, 3)
    write_png(folder / "LRx4" / "0.png", given)
    pairs = load_dataset(folder)
    assert np.array_equal(pairs[0].lr, given)
    for pair, other in zip(pairs[1:], bare[1:], strict=True):
        assert np.array_equal(pair.lr, other.lr)
        assert np.array_equal(pair.hr, other.hr)


def test_an_lr_file_of_another_size_is_refused(
    photographs: Path, write_png: Any, complains: Any
) -> None:
    folder = photographs.parent / "dataset"
    folder.mkdir()
    photographs.rename(folder / "HR")
    wrong = write_png(folder / "LRx4" / "1.png", random_image(16, 11, 3))
    with complains(DataError, wrong, "11x16", "11x15", folder / "HR" / "1.png"):
        load_dataset(folder)


def views(image: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """The four quarter turns of an image and of its mirror image."""
    return [np.rot90(mirror, turns) for mirror in (image, image[:, ::-1]) for turns in range(4)]


def locate(pair: Pair, patch: NDArray[np.uint8]) -> tuple[int, int, int] | None:
    """Where in the LR image, and in which of eight views, an HR patch was cut."""
    side = len(patch)
    for top in range(0, pair.hr.shape[0] - side + 1, 4):
        for left in range(0, pair.hr.shape[1] - side + 1, 4):
            crop = pair.hr[top : top + side, left : left + side]
            for view, image in enumerate(views(crop)):
                if np.array_equal(image, patch):
                    return top // 4, left // 4, view
    return None


def test_lr_and_hr_patches_show_the_same_place(photographs: Path) -> None:
    patches = Patches(photographs, 16, 4, seed=3)
    seen, corners = set(), set()
    for step in range(1, 16):
        lr, hr = patches.at(step)
        assert lr.shape == (4, 3, 4, 4)
        assert hr.shape == (4, 3, 16, 16)
        assert lr.dtype == hr.dtype == torch.uint8
        for low, high in zip(lr.permute(0, 2, 3, 1), hr.permute(0, 2, 3, 1), strict=True):
            places = [(p, locate(p, high.numpy())) for p in patches.pairs]
            ((pair, place),) = [(p, place) for p, place in places if place]
            whole = make_lr(read_rgb(pair.path))
            top, left, view = place
            expected = views(whole[top : top + 4, left : left + 4])[view]
            assert np.array_equal(low.numpy(), expected)
            seen.add(view)
            corners.add((pair.path.name, top, left))
    assert seen == set(range(8))
    assert len(corners) > 40


def test_the_last_row_and_column_can_be_drawn(tmp_path: Path, write_png: Any) -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    image[-1, -1] = 255
    write_png(tmp_path / "x.png", image)
    patches = Patches(tmp_path, 16, 8, seed=0)
    found = [(patches.at(step)[1] == 255).flatten(1).any(1).float().mean() for step in range(30)]
    assert np.mean(found) == pytest.approx(0.25, abs=0.08)  # one of four places


def test_images_are_drawn_by_their_area(tmp_path: Path, write_png: Any) -> None:
    write_png(tmp_path / "small.png", np.full((32, 32, 3), 10, np.uint8))
    write_png(tmp_path / "large.png", np.full((96, 32, 3), 200, np.uint8))
    patches = Patches(tmp_path, 16, 32, seed=0)
    large = np.mean([(patches.at(step)[1] == 200).float().mean() for step in range(25)])
    assert large == pytest.approx(0.75, abs=0.05)


def test_a_batch_depends_on_seed_and_step_alone(photographs: Path) -> None:
    first, again = Patches(photographs, 16, 4, seed=1), Patches(photographs, 16, 4, seed=1)
    again.at(3)
    for a, b in zip(first.at(7), again.at(7), strict=True):
        assert torch.equal(a, b)
    others = (first.at(8), Patches(photographs, 16, 4, seed=2).at(7))
    assert not any(torch.equal(first.at(7)[1], other[1]) for other in others)


@pytest.mark.parametrize(("first", "last"), [(1, 30), (3, 11), (4, 12), (5, 5), (6, 5)])
def test_batches_are_those_of_every_step_in_order(photographs: Path, first: int, last: int) -> None:
    patches = Patches(photographs, 16, 2, seed=0)
    found = list(patches.batches(first, last))
    expected = [patches.at(step) for step in range(first, last + 1)]
    assert len(found) == len(expected)
    for pair, wanted in zip(found, expected, strict=True):
        assert torch.equal(pair[0], wanted[0])
        assert torch.equal(pair[1], wanted[1])
