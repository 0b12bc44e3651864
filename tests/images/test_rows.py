"""Pictures read and written in bands of rows: the same as in one piece, in bounded memory."""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from numpy.typing import NDArray

from srtool.errors import ImageError
from srtool.images.metadata import Metadata, signal_from_codes
from srtool.images.picture import Picture
from srtool.images.reading import ImageFile, read_image
from srtool.images.rows import TiffOfRows
from srtool.images.writing import RowWriter, shape_of, write_image


def picture(dtype: Any, bands: int, height: int = 83, width: int = 37) -> Picture:
    random = np.random.default_rng(bands)
    top = np.iinfo(dtype).max
    pixels = random.integers(0, top, (height, width, 3), dtype, endpoint=True)
    alpha = random.integers(0, top, (height, width), dtype, endpoint=True)
    if bands < 3:
        pixels = pixels[..., :1].repeat(3, 2)
    meta = Metadata(exif=None, xmp=b"<x/>", resolution=(4.0, 5.0), signal=signal_from_codes(12, 13))
    return Picture(pixels, alpha if bands in (2, 4) else None, bands < 3, meta)


def written_in_bands(path: Path, given: Picture, heights: list[int]) -> None:
    writer = RowWriter(path, shape_of(given), given.metadata, None, 1)
    errors: list[BaseException] = []

    def write() -> None:
        try:
            writer.write()
        except ImageError as error:
            errors.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    top = 0
    for height in heights:
        alpha = None if given.alpha is None else given.alpha[top : top + height]
        writer.feed(given.pixels[top : top + height], alpha)
        top += height
    writer.end()
    thread.join()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_bands_give_the_file_of_the_whole(
    suffix: str, bands: int, dtype: Any, tmp_path: Path
) -> None:
    if suffix == ".jpg" and bands in (2, 4):
        pytest.skip("JPEG holds no alpha")
    given = picture(dtype, bands)
    write_image(tmp_path / f"whole{suffix}", given)
    written_in_bands(tmp_path / f"bands{suffix}", given, [1, 40, 2, 40])
    whole, made = (read_image(tmp_path / f"{name}{suffix}") for name in ("whole", "bands"))
    assert np.array_equal(made.pixels, whole.pixels)
    assert (made.alpha is None) == (whole.alpha is None)
    assert made.alpha is None or np.array_equal(made.alpha, whole.alpha)
    assert (made.gray, made.metadata) == (whole.gray, whole.metadata)
    sizes = [(tmp_path / f"{name}{suffix}").stat().st_size for name in ("whole", "bands")]
    assert abs(sizes[1] - sizes[0]) < 500


@pytest.mark.parametrize("heights", [[], [82], [40, 2]])
def test_a_picture_that_is_given_up_leaves_no_file(heights: list[int], tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(ImageError):
        written_in_bands(path, picture(np.uint8, 3), heights)
    assert list(tmp_path.iterdir()) == []


def test_feeding_ends_where_writing_has_failed(tmp_path: Path) -> None:
    given = picture(np.uint8, 3, 4000, 3000)
    (tmp_path / "file").touch()
    writer = RowWriter(tmp_path / "file" / "a.png", shape_of(given), Metadata(), None, 1)

    def write() -> None:
        with pytest.raises(ImageError):
            writer.write()

    thread = threading.Thread(target=write)
    thread.start()
    with pytest.raises(ImageError, match="encoded"):
        writer.feed(given.pixels, None)
    thread.join()
    assert writer.has_failed


@pytest.mark.parametrize(("width", "height"), [(1, 1), (7, 3000), (90000, 5)])
def test_the_tiff_of_rows_is_one(width: int, height: int) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    parts: queue.Queue[bytes] = queue.Queue()
    for top in range(0, height, 100):
        parts.put(rows[top : top + 100].tobytes())
    tiff = TiffOfRows(width, height, 3, 1, parts.get)
    content = b""
    while part := tiff.read(1 << 16):
        content += part
    assert tiff.missing == 0
    assert np.array_equal(pyvips.Image.new_from_buffer(content, "").numpy(), rows)


def interlaced(path: Path, pixels: NDArray[Any]) -> None:
    pyvips.Image.new_from_array(pixels).pngsave(path, interlace=True)


def rotated(path: Path, pixels: NDArray[Any]) -> None:
    image = pyvips.Image.new_from_array(pixels).copy()
    image.set_type(pyvips.GValue.gint_type, "orientation", 6)
    image.tiffsave(path, compression="deflate")


def tiled(path: Path, pixels: NDArray[Any]) -> None:
    pyvips.Image.new_from_array(pixels).tiffsave(path, tile=True, tile_width=16, tile_height=16)


def progressive(path: Path, pixels: NDArray[Any]) -> None:
    pyvips.Image.new_from_array(pixels).jpegsave(path, interlace=True)


@pytest.mark.parametrize("make", [interlaced, rotated, tiled, progressive, write_image])
def test_rows_are_those_of_the_whole(make: Any, tmp_path: Path) -> None:
    pixels = picture(np.uint8, 3).pixels
    path = tmp_path / f"a{'.jpg' if make is progressive else '.png'}"
    make(path, Picture(pixels) if make is write_image else pixels)
    whole = read_image(path).pixels
    with ImageFile(path) as file:
        rows = file.rows()
        for start, stop in ((0, 10), (5, 30), (29, 31), (31, file.height)):
            found, alpha = rows.read(start, stop)
            assert np.array_equal(found, whole[start:stop])
            assert alpha is None


def test_a_large_rotated_picture_goes_through_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = picture(np.uint8, 3).pixels
    rotated(tmp_path / "a.tif", pixels)
    whole = read_image(tmp_path / "a.tif").pixels
    monkeypatch.setattr("srtool.images.reading.MANY_BYTES", 100)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with ImageFile(tmp_path / "a.tif") as file:
        found, _ = file.rows().read(0, file.height)
    assert np.array_equal(found, whole)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]
