"""Pages of TIFF files, and numbers of EXIF that are none."""

from __future__ import annotations

import io
import struct
import time
from pathlib import Path

import numpy as np
import pytest

from srtool.images.containers import full_page, ratio
from srtool.images.reading import read_image


def tiff(order: str, pages: list[tuple[int | None, int]]) -> bytes:
    """Gray pages: (NewSubfileType or None, side); the samples of each are its side."""
    content = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    for number, (kind, side) in enumerate(pages):
        entries = [(254, 4, kind)] if kind is not None else []
        entries += [(256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, 1), (262, 3, 1)]
        start = len(content) + 2 + 12 * (len(entries) + 4) + 4
        entries += [(273, 4, start), (277, 3, 1), (278, 4, side), (279, 4, side * side)]
        content += struct.pack(order + "H", len(entries))
        for tag, form, value in entries:
            packed = struct.pack(order + ("I" if form == 4 else "Hxx"), value)
            content += struct.pack(order + "HHI", tag, form, 1) + packed
        last = number == len(pages) - 1
        content += struct.pack(order + "I", 0 if last else start + side * side)
        content += bytes([side]) * side**2
    return content


@pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])
@pytest.mark.parametrize(
    ("pages", "side", "count"),
    [
        ([(None, 20)], 20, 1),
        ([(None, 20), (None, 30)], 20, 2),
        ([(1, 10), (0, 40)], 40, 1),
        ([(1, 10), (None, 40), (1, 20)], 40, 1),
        ([(0, 40), (1, 10)], 40, 1),
        ([(4, 10), (2, 40), (2, 30)], 40, 2),
        ([(1, 10), (1, 20)], 10, 2),
    ],
)
def test_thumbnails_and_masks_are_no_pages(
    order: str, pages: list[tuple[int | None, int]], side: int, count: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(order, pages))
    picture = read_image(path)
    assert np.array_equal(picture.pixels, np.full((side, side, 3), side))
    assert picture.pages == count


def test_damaged_directories_end_the_search() -> None:
    whole = tiff("<", [(1, 10), (0, 40)])
    for size in range(8, len(whole), 7):
        page, count = full_page(io.BytesIO(whole[:size]))
        assert 0 <= page <= 1
        assert count >= 1


@pytest.mark.parametrize(
    ("text", "value"),
    [("300", 300), ("300/1", 300), ("1/3", 1 / 3), ("", 0), ("x", 0), ("1/0", 0), ("1/x", 0)],
)
def test_ratios(text: str, value: float) -> None:
    assert ratio(text) == value


@pytest.mark.parametrize("text", ["1e999999999", "1e400/1e400", "9" * 100_000, "1/1e-999999999"])
def test_numbers_that_would_take_for_ever_take_no_time(text: str) -> None:
    start = time.perf_counter()
    ratio(text)
    assert time.perf_counter() - start < 1
