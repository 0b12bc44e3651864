"""What is read as a photograph, what is refused, and the LR images that belong to it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from numpy.typing import NDArray

from srtool.errors import DataError
from srtool.images.imresize import make_lr, mod_crop
from srtool.images.photographs import (
    digest,
    image_files,
    image_size,
    load_dataset,
    load_pair,
    load_photographs,
    read_rgb,
    training_files,
)


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
    with complains(DataError, tmp_path / "text.png", "cannot be read as an image"):
        image_size(tmp_path / "text.png")
    floats = tmp_path / "float.tif"
    pyvips.Image.new_from_array(np.zeros((4, 4), np.float32)).write_to_file(str(floats))
    with complains(DataError, floats, "float", "8 or 16 bits"):
        read_rgb(floats)


def test_only_image_files_are_listed(photographs: Path, write_png: Any) -> None:
    deep = write_png(photographs / "a" / "b" / "DEEP.PNG", random_image(8, 8, 3))
    (photographs / "notes.txt").write_text("x")
    (photographs / "folder.png").mkdir()
    (photographs / ".srtool-half.png").write_text("half-written")
    assert image_files(photographs) == [photographs / f"{n}.png" for n in range(3)] + [deep]


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


def test_folders_without_images_are_refused(tmp_path: Path, complains: Any) -> None:
    empty = tmp_path / "empty"
    with complains(DataError, empty, "no such folder"):
        image_files(empty)
    empty.mkdir()
    with complains(DataError, empty, "holds no images"):
        image_files(empty)


def test_the_head_of_a_file_gives_its_size(photographs: Path) -> None:
    assert [image_size(path) for path in image_files(photographs)] == [(48, 64), (61, 47), (64, 40)]


def test_photographs_are_loaded_with_what_is_known_of_them(photographs: Path) -> None:
    found = load_photographs(photographs)
    assert [photo.name for photo in found.photographs] == ["0.png", "1.png", "2.png"]
    assert found.owners == (0, 1, 2)
    photo, pair = found.photographs[1], found.pairs[1]
    hr = mod_crop(read_rgb(photographs / "1.png"))
    assert (photo.height, photo.width) == hr.shape[:2]
    assert photo.sha256 == digest(pair) == hashlib.sha256(hr.tobytes()).digest()


def test_one_broken_image_stops_the_loading_of_a_folder(photographs: Path, complains: Any) -> None:
    (photographs / "sub").mkdir()
    broken = photographs / "sub" / "broken.png"
    broken.write_text("text")
    with complains(DataError, broken):
        load_photographs(photographs)


def test_training_takes_all_lr_files_or_makes_all(
    photographs: Path, write_png: Any, complains: Any
) -> None:
    folder = photographs.parent / "dataset"
    folder.mkdir()
    photographs.rename(folder / "HR")
    assert [lr for _, lr in training_files(folder)] == [None] * 3
    given = []
    for name, shape in (("0.png", (12, 16, 3)), ("1.png", (15, 11, 3)), ("2.png", (16, 10, 3))):
        if given:
            with complains(DataError, folder / "LRx4", name, f"{3 - len(given)} of 3"):
                training_files(folder)
        given.append(random_image(*shape))
        write_png(folder / "LRx4" / name, given[-1])
    found = load_photographs(folder)
    assert [photo.name for photo in found.photographs] == ["0.png", "1.png", "2.png"]
    assert all(np.array_equal(p.lr, lr) for p, lr in zip(found.pairs, given, strict=True))


def test_lr_files_without_an_hr_folder_are_no_photographs(
    photographs: Path, write_png: Any, complains: Any
) -> None:
    write_png(photographs / "LRx4" / "0.png", random_image(12, 16, 3))
    with complains(DataError, photographs, "LRx4/ but no HR/"):
        training_files(photographs)
