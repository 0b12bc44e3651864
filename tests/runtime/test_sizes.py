"""Results of any size: what is asked for, in memory, in bands, and where the network runs twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import srtool
from srtool.errors import UsageError
from srtool.images.metadata import Metadata
from srtool.images.picture import Picture, Size, resized
from srtool.images.reading import read_image
from srtool.images.writing import RowWriter, shape_of
from srtool.runtime import checks
from srtool.runtime.folder import upscale_images
from srtool.runtime.inputs import Job
from srtool.runtime.upscaling import Options, passes


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ({"scale": 4}, (480, 360)),
        ({"scale": 1.5}, (180, 135)),
        ({"scale": 0.001}, (1, 1)),
        ({"width": 1000}, (1000, 750)),
        ({"height": 1000}, (1333, 1000)),
        ({"long_side": 3840}, (3840, 2880)),
        ({"fit": (1000, 300)}, (400, 300)),
        ({"fit": (100, 300)}, (100, 75)),
        ({"megapixels": 3}, (2000, 1500)),
    ],
    ids=str,
)
def test_of_an_image_of_120x90(size: Any, expected: tuple[int, int]) -> None:
    assert Size(**size).of(120, 90) == expected


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"width": 3, "height": 4},
        {"scale": 0},
        {"scale": -2},
        {"scale": float("nan")},
        {"width": 1 << 30},
        {"fit": (0, 5)},
    ],
    ids=str,
)
def test_what_is_no_size(given: Any) -> None:
    with pytest.raises(UsageError) as caught:
        Size(**given)
    assert caught.value.parameter
    assert caught.value.found


def test_how_often_the_network_runs() -> None:
    assert [passes(100, (side, side), 4) for side in (100, 400, 401, 1600, 5000)] == [1, 1, 2, 2, 2]
    assert passes(100, (500, 500), 1) == 1


def smooth(height: int, width: int, channels: int = 3, dtype: Any = np.uint8) -> NDArray[Any]:
    """A picture without edges, whose reductions are known but for rounding."""
    y, x = (np.mgrid[0:height, 0:width] + 0.5) / np.array([height, width]).reshape(2, 1, 1)
    planes = np.stack([x, y, (x + y) / 2, 0.5 + y / 2][:channels], -1)
    if dtype == np.float32:
        return planes.astype(np.float32)
    return np.rint(planes * np.iinfo(dtype).max).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("size", [(60, 40), (45, 31), (13, 80), (300, 200)])
def test_a_reduction_keeps_the_picture(dtype: Any, channels: int, size: tuple[int, int]) -> None:
    image = smooth(120, 180, channels, dtype)
    alpha = np.ascontiguousarray(image[..., 3]) if channels == 4 else None
    picture = Picture(np.ascontiguousarray(image[..., :3]), alpha)
    found = resized(picture, size)
    assert found.pixels.dtype == dtype
    assert found.pixels.shape == (size[1], size[0], 3)
    expected = smooth(size[1], size[0], channels, np.float32)
    peak = 1 if dtype == np.float32 else np.iinfo(dtype).max
    inner = np.s_[2:-2, 2:-2]
    gap = np.abs(found.pixels / peak - expected[..., :3])
    assert gap[inner].max() < 0.02
    if channels == 4:
        assert found.alpha is not None
        assert np.abs(found.alpha / peak - expected[..., 3])[inner].max() < 0.02


@pytest.mark.parametrize("share", [0.9, 0.4, 0.24, 0.1, 0.05])
@pytest.mark.parametrize("height", [300, 700, 2000])
def test_a_reduction_of_rows_that_come_once(tmp_path: Path, height: int, share: float) -> None:
    image = smooth(height, 900)
    size = (round(900 * share), round(height * share))
    shape = shape_of(Picture(image))
    writer = RowWriter(tmp_path / "x.png", shape, Metadata(), None, 1 << 30, size)
    writer.feed(image, None)
    writer.end()
    writer.write()
    expected = resized(Picture(image), size).pixels
    assert np.array_equal(read_image(tmp_path / "x.png").pixels, expected)


def test_what_is_transparent_leaves_no_fringe() -> None:
    colours = np.full((80, 80, 3), 255, np.uint8)
    alpha = np.full((80, 80), 255, np.uint8)
    colours[:, 40:], alpha[:, 40:] = 0, 0  # black under nothing
    found = resized(Picture(colours, alpha), (30, 30))
    assert found.alpha is not None
    assert found.pixels[found.alpha > 16].min() > 240


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize(
    ("size", "sides"),
    [(Size(scale=4), (240, 160)), (Size(scale=2), (120, 80)), (Size(width=90), (90, 60)),
     (Size(scale=8), (480, 320)), (Size(long_side=30), (30, 20))],
)  # fmt: skip
def test_of_the_api(nearest_onnx: Any, dtype: Any, size: Size, sides: tuple[int, int]) -> None:
    image = smooth(40, 60, 3, dtype)
    found = srtool.upscale(image, nearest_onnx(), Options(size=size))
    assert found.dtype == dtype
    assert found.shape == (sides[1], sides[0], 3)
    peak = 1 if dtype == np.float32 else np.iinfo(dtype).max
    assert np.abs(found / peak - smooth(sides[1], sides[0], 3, np.float32)).max() < 0.06


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
@pytest.mark.parametrize("size", [Size(scale=2), Size(long_side=133), Size(scale=6)], ids=str)
def test_in_bands_it_is_the_same_picture(
    nearest_onnx: Any,
    tmp_path: Path,
    write_png: Any,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
    size: Size,
) -> None:
    random = np.random.default_rng(0)
    channels = 4 if suffix in (".png", ".tif") else 3
    kind = np.uint16 if suffix == ".png" else np.uint8
    image = random.integers(1, np.iinfo(kind).max, (90, 70, channels), kind)
    source = write_png(tmp_path / "in.png", image)
    whole, banded = (tmp_path / f"{name}{suffix}" for name in ("whole", "banded"))
    options = Options(size=size, tile=24, halo=2)
    with srtool.open_engine(nearest_onnx(), "onnxruntime") as engine:
        (event,) = upscale_images([Job(source, whole)], engine, options)
        assert event.kind == "done", event.message
        monkeypatch.setattr(checks, "LARGE", 30_000)  # that of the second pass is beyond it
        found = list(upscale_images([Job(source, banded)], engine, options))
    if size.scale == 6:
        assert [event.kind for event in found] == ["failed"]  # the first result is too large
        monkeypatch.setattr(checks, "LARGE", 700_000)
        with srtool.open_engine(nearest_onnx(), "onnxruntime") as engine:
            found = list(upscale_images([Job(source, banded)], engine, options))
    assert [event.kind for event in found] == ["done"], found[0].message
    width, height = size.of(70, 90)
    assert (event.pixels_out, found[0].pixels_out) == (width * height, width * height)
    one, other = read_image(whole), read_image(banded)
    assert one.pixels.shape == other.pixels.shape == (height, width, 3)
    assert np.array_equal(one.pixels, other.pixels)
    if channels == 4:
        assert one.alpha is not None
        assert other.alpha is not None
        assert np.array_equal(one.alpha, other.alpha)


def test_the_command(nearest_onnx: Any, tmp_path: Path, write_png: Any, run: Any) -> None:
    engine = nearest_onnx()
    write_png(Path("in/a.png"), smooth(30, 40))
    call = ["infer", "in", "--engine", engine, "-o", "out", "--overwrite"]
    for options, sides in (
        (["--scale", "1.5"], (60, 45)),
        (["--width", "100"], (100, 75)),
        (["--height", "30"], (40, 30)),
        (["--long-side", "640"], (640, 480)),
        (["--fit", "50x50"], (50, 38)),
        (["--megapixels", "0.03"], (200, 150)),
    ):
        result = run(*call, *options)
        assert result.code == 0, result.err
        height, width = read_image(Path("out/a.png")).pixels.shape[:2]
        assert (width, height) == sides
    assert "--fit" in run(*call, "--fit", "50").complaint
    assert "--height" in run(*call, "--width", "5", "--height", "7").complaint
