"""A packed file holds what its folder holds, is whole or absent, and is checked when opened."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from srtool.errors import DataError, ImageError, UsageError
from srtool.images.datasets import Collection, Pair, digest, load_dataset
from srtool.train.data import packed
from srtool.train.data.packed import LR_GIVEN, LR_MADE, Progress, open_packed, pack, starts


@pytest.fixture
def dataset(photographs: Path, write_png: Any) -> Path:
    """The photographs as HR/, with LRx4/ that no resize would make."""
    folder = photographs.parent / "dataset"
    folder.mkdir()
    photographs.rename(folder / "HR")
    random = np.random.default_rng(0)
    for pair in load_dataset(folder):
        lr = random.integers(0, 256, pair.lr.shape, np.uint8)
        write_png(folder / "LRx4" / pair.path.name, lr)
    return folder


def put_together(found: Collection, path: Path) -> list[Pair]:
    """The photographs from their sub-images, which must agree where they overlap."""
    with h5py.File(path) as file:
        table = file["subimages"][:].tolist()
    whole = []
    for photo in found.photographs:
        hr = np.full((photo.height, photo.width, 3), -1)
        whole.append((hr, np.full((photo.height // 4, photo.width // 4, 3), -1)))
    for (number, top, left, height, width), pair in zip(table, found.pairs, strict=True):
        assert pair.hr.shape == (height, width, 3)
        for image, part, scale in zip(whole[number], (pair.hr, pair.lr), (1, 4), strict=True):
            rows = slice(top // scale, (top + height) // scale)
            columns = slice(left // scale, (left + width) // scale)
            before = image[rows, columns]
            assert np.array_equal(before[before >= 0], part[before >= 0])
            image[rows, columns] = part
    names = [Path(photo.name) for photo in found.photographs]
    return [Pair(name, hr, lr) for name, (hr, lr) in zip(names, whole, strict=True)]


@pytest.mark.parametrize("side", [8, 16, 28, 60, 480])
def test_sub_images_cover_the_photographs_exactly(photographs: Path, side: int) -> None:
    out = photographs.parent / "packed.h5"
    found = pack(photographs, out, side)
    pairs = load_dataset(photographs)
    for pair, whole, photo in zip(pairs, put_together(found, out), found.photographs, strict=True):
        assert pair.path.name == photo.name
        assert photo.sha256 == digest(pair)
        assert np.array_equal(pair.hr, whole.hr)
        assert np.array_equal(pair.lr, whole.lr)
    for pair, owner in zip(found.pairs, found.owners, strict=True):
        photo = found.photographs[owner]
        assert pair.hr.shape[:2] == (min(photo.height, side), min(photo.width, side))


def test_pieces_cover_every_length_evenly() -> None:
    for side in (4, 12, 20):
        for length in range(0, 200, 4):
            found = starts(length, side)
            ends = [start + min(side, length) for start in found]
            assert all(start % 4 == 0 for start in found)
            assert all(start <= end for start, end in zip(found[1:], ends, strict=False))
            assert (found[:1], ends[-1:]) == (([0], [length]) if length else ([], []))
            assert len(found) == -(-length // side)


def test_given_lr_images_are_packed(dataset: Path) -> None:
    out = dataset.parent / "packed.h5"
    found = pack(dataset, out, side=32)
    with h5py.File(out) as file:
        assert file.attrs["lr"].decode() == LR_GIVEN
    for pair, whole in zip(load_dataset(dataset), put_together(found, out), strict=True):
        assert np.array_equal(pair.hr, whole.hr)
        assert np.array_equal(pair.lr, whole.lr)


def test_lr_images_that_do_not_fit_are_refused_before_any_work(
    dataset: Path, write_png: Any, complains: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "load_pair", None)
    wrong = write_png(dataset / "LRx4" / "1.png", np.zeros((16, 11, 3), np.uint8))
    out = dataset.parent / "packed.h5"
    with complains(ImageError, wrong, "11x16", "11x15", dataset / "HR" / "1.png"):
        pack(dataset, out)
    (dataset / "HR" / "0.png").write_text("text")
    with complains(ImageError, dataset / "HR" / "0.png", "no known format"):
        pack(dataset, out)
    assert not out.exists()


def test_the_file_is_plain_hdf5(photographs: Path) -> None:
    (photographs / "2.png").rename(photographs / "äé.png")
    out = photographs.parent / "packed.h5"
    pack(photographs, out, side=48)
    pairs = load_dataset(photographs)
    with h5py.File(out) as file:
        attributes = dict(file.attrs)
        assert (attributes["scale"], attributes["side"], attributes["version"]) == (4, 48, 1)
        assert attributes["lr"].decode() == LR_MADE
        names = [name.decode() for name in file["photographs/name"][:]]
        assert names == ["0.png", "1.png", "äé.png"]
        assert file["photographs/sha256"][1].tobytes() == digest(pairs[1])
        for name in ("hr", "lr"):
            assert file[name].dtype == np.uint8
            assert file[name].chunks is None
        assert np.array_equal(file["lr"][: 12 * 12].reshape(12, 12, 3), pairs[0].lr[:, :12])
        assert np.array_equal(file["hr"][: 48 * 48].reshape(48, 48, 3), pairs[0].hr[:, :48])


def test_pixels_are_read_only_and_outlive_the_file_name(photographs: Path) -> None:
    out = photographs.parent / "packed.h5"
    pair = pack(photographs, out).pairs[0]
    with pytest.raises(ValueError, match="read-only"):
        pair.hr[0, 0, 0] = 1
    out.unlink()
    assert np.array_equal(pair.hr, load_dataset(photographs)[0].hr)


def test_few_pixels_are_in_work_at_a_time(
    photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "AHEAD", 1)
    reports: list[Progress] = []
    pack(photographs, photographs.parent / "packed.h5", report=reports.append)
    assert [(r.path.name, r.done, r.count) for r in reports] == [
        (f"{n}.png", n + 1, 3) for n in range(3)
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("before", [None, b"old"])
def test_an_interrupt_leaves_what_was_there(
    photographs: Path, before: bytes | None, error: type[BaseException]
) -> None:
    out = photographs.parent / "out" / "packed.h5"
    out.parent.mkdir()
    if before:
        out.write_bytes(before)

    def report(progress: Progress) -> None:
        if progress.done == 2:
            raise error

    with pytest.raises(error):
        pack(photographs, out, overwrite=True, report=report)
    assert [path.read_bytes() for path in out.parent.iterdir()] == ([before] if before else [])


def test_an_image_that_breaks_off_leaves_no_file(
    photographs: Path, write_png: Any, complains: Any
) -> None:
    grain = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = write_png(photographs / "9.png", grain)
    path.write_bytes(path.read_bytes()[:4000])
    out = photographs.parent / "out" / "packed.h5"
    with complains(ImageError, path, "cannot be decoded"):
        pack(photographs, out)
    assert list(out.parent.iterdir()) == []


def test_an_image_that_changes_meanwhile_leaves_no_file(
    photographs: Path, write_png: Any, complains: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "AHEAD", 1)
    last, out = photographs / "2.png", photographs.parent / "out" / "packed.h5"

    def report(progress: Progress) -> None:
        write_png(last, np.zeros((40, 40, 3), np.uint8))

    with complains(DataError, last, "changed while it was packed"):
        pack(photographs, out, report=report)
    assert list(out.parent.iterdir()) == []


def test_an_existing_file_is_overwritten_only_when_asked(photographs: Path, complains: Any) -> None:
    out = photographs.parent / "packed.h5"
    pack(photographs, out, side=16)
    with complains(UsageError, out, "exists"):
        pack(photographs, out, side=32)
    assert open_packed(out).pairs[0].hr.shape == (16, 16, 3)
    assert pack(photographs, out, side=32, overwrite=True).pairs[0].hr.shape == (32, 32, 3)


def test_what_cannot_be_packed_is_refused(
    tmp_path: Path, photographs: Path, write_png: Any, complains: Any
) -> None:
    out = tmp_path / "packed.h5"
    for side in (0, -4, 30):
        with complains(UsageError, side, "multiple of 4"):
            pack(photographs, out, side)
    with complains(UsageError, photographs, "is a folder"):
        pack(photographs, photographs)
    with complains(DataError, tmp_path / "nowhere", "no such folder"):
        pack(tmp_path / "nowhere", out)
    dots = write_png(tmp_path / "dots" / "dot.png", np.zeros((3, 9, 3), np.uint8)).parent
    with complains(DataError, dots, "all 1 images are smaller than 4 pixels"):
        pack(dots, out)
    with complains(DataError, photographs / "0.png" / "x.h5", "cannot be written"):
        pack(photographs, photographs / "0.png" / "x.h5")
    assert not out.exists()


def test_a_full_disk_is_one_line(
    photographs: Path, complains: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = photographs.parent / "out" / "packed.h5"
    usage = shutil.disk_usage(photographs)._replace(free=1000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: usage)
        with complains(DataError, out, "the disk is full", "MB"):
            pack(photographs, out)

    def fill(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "Can't write data (file write failed:\n errno = 28)")

    monkeypatch.setattr(packed, "_write_pixels", fill)
    with complains(DataError, out, "the disk is full", "MB"):
        pack(photographs, out)
    assert list(out.parent.iterdir()) == []


def test_other_files_are_named(tmp_path: Path, complains: Any) -> None:
    path = tmp_path / "packed.h5"
    with complains(DataError, path, "no such file"):
        open_packed(path)
    for content in (b"", b"text", b"\x89PNG\r\n\x1a\n" + bytes(100)):
        path.write_bytes(content)
        with complains(DataError, path, "is no packed file"):
            open_packed(path)
    with h5py.File(path, "w") as file:
        file["hr"] = np.zeros((4, 3), np.uint8)
    with complains(DataError, path, "HDF5 file of another kind"):
        open_packed(path)


def test_newer_files_and_other_scales_are_named(photographs: Path, complains: Any) -> None:
    out = photographs.parent / "packed.h5"
    pack(photographs, out)
    with h5py.File(out, "r+") as file:
        file.attrs["scale"] = 2
    with complains(DataError, out, "scale x2", "expected x4"):
        open_packed(out)
    with h5py.File(out, "r+") as file:
        file.attrs["version"] = 2
    with complains(DataError, out, "format version 2", "reads version 1", "update"):
        open_packed(out)


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.attrs.pop("version"),
        lambda file: file.pop("lr"),
        lambda file: file["photographs"].pop("size"),
        lambda file: file["subimages"].__setitem__((0, 0), 99),
        lambda file: file["subimages"].__setitem__((0, 1), 4),
        lambda file: file["subimages"].__setitem__((0, 2), -4),
        lambda file: file["subimages"].__setitem__((0, 3), 0),
        lambda file: file["subimages"].__setitem__((0, 3), 44),
        lambda file: file["subimages"].__setitem__((0, 4), 30),
        lambda file: file.attrs.__setitem__("side", 16),
        lambda file: compress(file, "hr"),
    ],
)
def test_damaged_files_are_named(photographs: Path, complains: Any, damage: Any) -> None:
    out = photographs.parent / "packed.h5"
    pack(photographs, out)
    with h5py.File(out, "r+") as file:
        damage(file)
    with complains(DataError, out, "is damaged", "pack the photographs again"):
        open_packed(out)


def compress(file: h5py.File, name: str) -> None:
    pixels = file.pop(name)[:]
    file.create_dataset(name, data=pixels, compression="gzip")


def test_truncated_files_and_bad_bytes_are_named(photographs: Path, complains: Any) -> None:
    out = photographs.parent / "packed.h5"
    pack(photographs, out)
    whole = out.read_bytes()
    for content in (whole[:100], whole[: len(whole) // 2], whole[:-1]):
        out.write_bytes(content)
        with complains(DataError, out, "is damaged"):
            open_packed(out)
    at = whole.index(b"format")
    out.write_bytes(whole[:at] + b"farmat" + whole[at + 6 :])
    with complains(DataError, out, "is damaged", "checksum"):
        open_packed(out)
