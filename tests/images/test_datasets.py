"""What is read as a photograph, what is refused, and the LR images that belong to it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from srtool.errors import DataError, ImageError
from srtool.images.datasets import (
    Sample,
    dataset_from_folder,
    digest,
    fingerprint,
    image_files,
    load_dataset,
    load_pair,
    load_photographs,
)
from srtool.images.imresize import make_lr, mod_crop
from srtool.images.reading import image_size, read_rgb


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
    image = np.repeat(np.stack([levels] * 2)[..., None], bands, 2)
    read = read_rgb(write_png(tmp_path / "x.png", image))
    assert read.shape == (2, len(levels), 3)
    for channel in range(3):
        assert read[0, :, channel].tolist() == [*expected, *range(256)]


def test_only_image_files_are_listed(photographs: Path, write_png: Any) -> None:
    deep = write_png(photographs / "a" / "b" / "DEEP.PNG", random_image(8, 8, 3))
    (photographs / "notes.txt").write_text("x")
    (photographs / "folder.png").mkdir()
    (photographs / ".srtool-half.png").write_text("half-written")
    assert image_files(photographs) == [photographs / f"{n}.png" for n in range(3)] + [deep]


def test_pairs_are_cropped_and_resized_as_a_whole(photographs: Path) -> None:
    path = photographs / "1.png"
    pair = load_pair(Sample(path.name, path, None))
    assert np.array_equal(pair.hr, mod_crop(read_rgb(path)))
    assert pair.hr.shape == (60, 44, 3)
    assert np.array_equal(pair.lr, make_lr(read_rgb(path)))


def as_dataset(photographs: Path) -> Path:
    folder = photographs.parent / "dataset"
    folder.mkdir()
    photographs.rename(folder / "HR")
    return folder


def test_an_lr_file_of_another_size_is_refused(
    photographs: Path, write_png: Any, complains: Any
) -> None:
    folder = as_dataset(photographs)
    for name, shape in (("0.png", (12, 16)), ("2.png", (16, 10)), ("1.png", (16, 11))):
        wrong = write_png(folder / "LRx4" / name, random_image(*shape, 3))
    with complains(ImageError, wrong, "11x16", "11x15", folder / "HR" / "1.png"):
        load_dataset(folder)


def test_folders_without_images_are_refused(tmp_path: Path, complains: Any) -> None:
    empty = tmp_path / "empty"
    with complains(DataError, empty, "no such folder"):
        image_files(empty)
    empty.mkdir()
    with complains(DataError, empty, "holds no images"):
        image_files(empty)


def test_the_head_of_a_file_gives_its_size(photographs: Path, complains: Any) -> None:
    assert [image_size(path) for path in image_files(photographs)] == [(48, 64), (61, 47), (64, 40)]
    (photographs / "text.png").write_text("no image at all")
    with complains(ImageError, photographs / "text.png", "no known format"):
        image_size(photographs / "text.png")


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
    with complains(ImageError, broken):
        load_photographs(photographs)


def test_all_lr_files_are_taken_or_all_made(
    photographs: Path, write_png: Any, complains: Any
) -> None:
    folder = as_dataset(photographs)
    assert [sample.lr for sample in dataset_from_folder(folder).samples] == [None] * 3
    given = []
    for name, shape in (("0.png", (12, 16, 3)), ("1.png", (15, 11, 3)), ("2.png", (16, 10, 3))):
        if given:
            with complains(DataError, folder / "LRx4", name, f"{3 - len(given)} of 3"):
                dataset_from_folder(folder)
        given.append(random_image(*shape))
        write_png(folder / "LRx4" / name, given[-1])
    found = load_photographs(folder)
    assert [photo.name for photo in found.photographs] == ["0.png", "1.png", "2.png"]
    assert all(np.array_equal(p.lr, lr) for p, lr in zip(found.pairs, given, strict=True))


HR_NAMES = ("a_1", "b_2")

# HR folder, LR folder, what follows an LR file's name; the folder of the data set is "Set"
RIGHT = [
    ("HR", "LRx4", ""),
    ("HR", "LRx4", "x4"),
    ("HR", "LR", ""),
    ("hr", "lrx4", "_x4"),
    ("HR", "LR_bicubic/X4", "x4"),
    ("HR", "LR_bicubic_X4", "x4"),
    ("DIV2K_train_HR", "DIV2K_train_LR_bicubic/X4", "x4"),
    ("DIV2K_valid_HR", "DIV2K_valid_LR_bicubic_X4", "x4"),
    ("Flickr2K_HR", "Flickr2K_LR_bicubic/X4", "x4"),
    ("GTmod12", "LRbicx4", ""),
    ("GT", "LR/x4", ""),
    ("original", "LRx4", ""),
]


def write_dataset(
    folder: Path, layout: tuple[str, str, str], write_png: Any, names: tuple[str, ...] = HR_NAMES
) -> None:
    hr, lr, ending = layout
    for name in names:
        write_png(folder / hr / f"{name}.png", random_image(16, 24, 3))
        write_png(folder / lr / f"{name}{ending}.png", random_image(4, 6, 3))


@pytest.mark.parametrize("layout", RIGHT, ids=lambda layout: "-".join(layout))
def test_layouts_in_circulation(
    layout: tuple[str, str, str], tmp_path: Path, write_png: Any, complains: Any
) -> None:
    folder = tmp_path / "Set"
    write_dataset(folder, layout, write_png)
    hr, lr, ending = layout
    for named in (folder, folder / hr):
        samples = dataset_from_folder(named).samples
        assert [sample.name for sample in samples] == [f"{name}.png" for name in HR_NAMES]
        expected = [(folder / lr / f"{name}{ending}.png").resolve() for name in HR_NAMES]
        assert [sample.lr.resolve() for sample in samples if sample.lr] == expected
    (folder / lr / f"{HR_NAMES[0]}{ending}.png").rename(folder / lr / "other.png")
    with complains(DataError, folder / lr, folder / hr / f"{HR_NAMES[0]}.png", "1 of 2", "other"):
        dataset_from_folder(folder)


@pytest.mark.parametrize("layout", [("HR", "LRx2", ""), ("HR", "LR_bicubic/X2", "x2")])
def test_lr_images_of_other_scales_do_not_matter(
    layout: tuple[str, str, str], tmp_path: Path, write_png: Any
) -> None:
    write_dataset(tmp_path, layout, write_png)
    assert [sample.lr for sample in dataset_from_folder(tmp_path).samples] == [None, None]


def test_train_and_valid_of_div2k_are_two_data_sets(
    tmp_path: Path, write_png: Any, complains: Any
) -> None:
    for part in ("train", "valid"):
        layout = (f"DIV2K_{part}_HR", f"DIV2K_{part}_LR_bicubic/X4", "x4")
        write_dataset(tmp_path, layout, write_png, (f"{part}_1",))
    with complains(DataError, tmp_path, "DIV2K_train_HR", "DIV2K_valid_HR"):
        dataset_from_folder(tmp_path)
    found = dataset_from_folder(tmp_path / "DIV2K_valid_HR")
    assert found.name == "DIV2K_valid"
    assert [sample.lr and sample.lr.name for sample in found.samples] == ["valid_1x4.png"]


def test_pairs_in_one_folder_are_told_apart(tmp_path: Path, write_png: Any, complains: Any) -> None:
    for folder in (tmp_path / "Urban100", tmp_path / "Set" / "image_SRF_4"):
        for number in (1, 2):
            name = f"img_{number:03}_SRF_4"
            write_png(folder / f"{name}_HR.png", random_image(16, 16, 3))
            write_png(folder / f"{name}_LR.png", random_image(4, 4, 3))
    for folder in (tmp_path / "Urban100", tmp_path / "Set"):
        samples = dataset_from_folder(folder).samples
        assert [(s.hr.stem[-2:], s.lr.stem[-2:]) for s in samples if s.lr] == [("HR", "LR")] * 2
    gone = tmp_path / "Urban100" / "img_002_SRF_4_LR.png"
    gone.unlink()
    with complains(DataError, gone.name, "img_002_SRF_4_HR.png"):
        dataset_from_folder(gone.parent)


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (("a.png", "LRx4/a.png"), "LRx4"),
        (("LRx4/a.png",), "LRx4"),
        (("Set5/LR_bicubic/X4/ax4.png", "Set5/x/a.png"), "LR_bicubic"),
        (("DIV2K_train_LR_bicubic/X4/0001x4.png",), "DIV2K_train_LR_bicubic"),
        (("0001.png", "0001x4.png"), "0001x4.png"),
        (("a_SRF_4_LR.png",), "a_SRF_4_LR.png"),
        (("a_SRF_4_HR.png", "a_SRF_4_LR.png", "b.png"), "b.png"),
        (("HR/0001.png", "HR/0001x4.png"), "0001x4.png"),
        (("HR/a.png", "LRx4/b.png"), "b.png"),
        (("HR/a.png", "LRx4/a.png", "LR/a.png"), "LRx4"),
        (("HR/a.png", "LRx4/notes.txt"), "LRx4"),
    ],
    ids=" ".join,
)
def test_lr_images_are_never_taken_for_hr(
    names: tuple[str, ...], word: str, tmp_path: Path, write_png: Any, complains: Any
) -> None:
    for name in names:
        if name.endswith(".png"):
            write_png(tmp_path / "top" / name, random_image(16, 16, 3))
        else:
            (tmp_path / "top" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "top" / name).write_text("x")
    with complains(DataError, word):
        load_photographs(tmp_path / "top")


def test_names_that_only_look_like_lr_are_photographs(tmp_path: Path, write_png: Any) -> None:
    names = ("4x4.png", "car_x4.png", "album lrz/mix4.png", "alrite/IMG_LR.png")
    for name in names:
        write_png(tmp_path / "photos" / name, random_image(16, 16, 3))
    found = dataset_from_folder(tmp_path / "photos")
    assert sorted(sample.name for sample in found.samples) == sorted(names)
    assert all(sample.lr is None for sample in found.samples)


def test_bmp_files_are_hr_images(tmp_path: Path) -> None:
    from PIL import Image

    pixels = random_image(16, 24, 3)
    (tmp_path / "HR").mkdir()
    Image.fromarray(pixels).save(tmp_path / "HR" / "I03.BMP")
    (pair,) = load_dataset(tmp_path)
    assert np.array_equal(pair.hr, pixels)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_a_pipe_is_not_read_for_its_fingerprint(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.png")
    assert fingerprint(tmp_path / "p.png") == fingerprint(tmp_path / "none.png")
