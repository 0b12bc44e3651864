"""Pictures: which parts are shown, their figures, and what is said of inputs that do not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srtool.benchmarks.report import pictures
from srtool.benchmarks.report.page import colour_scale, difference_map, png_uri
from srtool.benchmarks.report.pictures import (
    Box,
    busiest,
    busiest_within,
    difference_between,
    pictures_from_images,
    pictures_from_photographs,
)
from srtool.errors import DataError, EngineError, UsageError
from srtool.images.colour import psnr_y
from srtool.images.imresize import imresize, make_lr
from srtool.images.reading import read_rgb


@pytest.fixture(autouse=True)
def no_assets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SRTOOL_ASSETS", str(tmp_path / "assets"))


def test_the_busiest_part() -> None:
    changes = np.zeros((100, 140))
    changes[50, 77] = changes[57, 82] = 1
    box = busiest(changes, 12)
    assert (box.left % 4, box.top % 4, box.width, box.height) == (0, 0, 12, 12)
    assert box.of(changes).sum() == 2


@pytest.mark.parametrize("corner", [(0, 0), (0, -1), (-1, 0), (-1, -1)])
def test_parts_are_inside(corner: tuple[int, int]) -> None:
    changes = np.zeros((64, 48))
    changes[corner] = 1
    box = busiest(changes, 40)
    assert box.of(changes).shape == (40, 40)
    assert box.of(changes).sum() == 1


def test_an_image_smaller_than_the_part() -> None:
    assert busiest(np.ones((24, 200)), 88) == Box(0, 0, 88, 24)
    assert busiest(np.zeros((24, 16)), 88) == Box(0, 0, 16, 24)


def test_equal_images_have_a_black_map() -> None:
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    found = difference_between(image, image, Box(0, 0, 4, 4))
    assert (found.most, found.mean, found.share, found.end) == (0, 0.0, 0.0, 4)
    assert len(np.unique(difference_map(found).reshape(-1, 3), axis=0)) == 1
    assert [level for level, _ in colour_scale(found)] == [0, 1, 2, 3, 4]


def test_a_difference() -> None:
    """Of which one is outside the view, and negative."""
    one = np.full((8, 8, 3), 100, np.uint8)
    two = one.copy()
    two[1, 2] = (100, 103, 101)
    two[7, 7] = 91
    found = difference_between(one, two, Box(0, 0, 4, 4))
    assert (found.most, found.end) == (9, 16)
    assert found.mean == pytest.approx((3 + 1 + 27) / 192)
    assert found.share == pytest.approx(2 / 64)
    assert found.levels.shape == (4, 4)
    assert found.levels[1, 2] == 3
    assert found.levels.sum() == 3
    shades = difference_map(found)
    assert (shades[1, 2] != shades[0, 0]).any()
    scale = colour_scale(found)
    assert [level for level, _ in scale] == [0, 4, 8, 12, 16]
    assert scale[0][1] == "#" + bytes(shades[0, 0]).hex()


def test_embedding_keeps_every_value() -> None:
    import base64

    import pyvips

    image = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
    uri = png_uri(image)
    data = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    assert (pyvips.Image.new_from_buffer(data, "").numpy() == image).all()


def test_bicubic_pytorch_engine_and_hr(
    compact_engine: Path, compact_weights: Path, photographs: Path
) -> None:
    lines: list[str] = []
    found = pictures_from_images(photographs, [compact_engine], compact_weights, 2, lines.append)
    assert [picture.name for picture in found] == ["0.png", "1.png"]
    assert lines == ["0.png (1 of 2)", "1.png (2 of 2)"]
    first = found[0]
    names = [version.name for version in first.versions]
    assert names == ["bicubic", "PyTorch", "x4.onnx", "HR"]
    assert (first.view, first.details) == (Box(0, 0, 64, 48), (Box(0, 0, 64, 48),))
    hr = first.versions[-1].whole
    bicubic = np.asarray(imresize(make_lr(hr), 4))
    assert first.versions[0].psnr == pytest.approx(psnr_y(bicubic, hr))
    assert first.versions[-1].psnr is None
    assert [version.niqe for version in first.versions] == [None] * 4
    assert "srtool assets fetch niqe" in first.remark
    assert first.difference is not None
    assert first.difference.most <= 1
    assert found[1].versions[-1].whole.shape == (60, 44, 3)  # a multiple of 4


def test_weights_alone(compact_weights: Path, photographs: Path) -> None:
    (picture,) = pictures_from_images(photographs, [], compact_weights, 1)
    assert [version.name for version in picture.versions] == ["bicubic", "PyTorch", "HR"]
    assert picture.difference is None


def test_the_part_of_a_large_image(
    compact_engine: Path, compact_weights: Path, photographs: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(pictures, "VIEW", 40)
    monkeypatch.setattr(pictures, "DETAIL", 16)
    (picture,) = pictures_from_images(photographs, [compact_engine], compact_weights, 1)
    view, (detail,) = picture.view, picture.details
    assert (view.width, view.height, detail.width, detail.height) == (40, 40, 16, 16)
    assert view.left <= detail.left <= view.left + view.width - detail.width
    assert view.top <= detail.top <= view.top + view.height - detail.height
    assert picture.difference is not None
    assert picture.difference.levels.shape == (40, 40)


def test_shipped_photographs(monkeypatch: Any, compact_weights: Path) -> None:
    (picture,) = pictures_from_images(None, [], compact_weights, 1)
    assert picture.name == "astronaut.png"
    assert picture.view.width == pictures.VIEW


def test_an_engine_of_other_weights(
    compact_engine: Path, overflowing_weights: Path, photographs: Path, complains: Any
) -> None:
    with complains(UsageError, compact_engine, "compact.pth", overflowing_weights, "--model"):
        pictures_from_images(photographs, [compact_engine], overflowing_weights, 1)


def test_two_engines(compact_engine: Path, photographs: Path, complains: Any) -> None:
    with complains(UsageError, "no checkpoint", "--model"):
        pictures_from_images(photographs, [compact_engine], compact_engine, 1)


def test_another_scale(compact_engine: Path, photographs: Path, complains: Any) -> None:
    import onnx

    sidecar = compact_engine.with_name("x4.onnx.json")
    manifest = json.loads(sidecar.read_text())
    model = onnx.load(compact_engine)
    for item in model.metadata_props:
        item.value = item.value.replace('"scale":4', '"scale":2').replace(
            '"scale": 4', '"scale": 2'
        )
    onnx.save(model, compact_engine)
    sidecar.unlink()
    assert manifest["model"]["scale"] == 4
    with complains(UsageError, compact_engine, "x2", "x4"):
        pictures_from_images(photographs, [compact_engine], None, 1)


def test_no_images(
    compact_engine: Path, tmp_path: Path, photographs: Path, write_png: Any, complains: Any
) -> None:
    with complains(UsageError, photographs, "--engine"):
        pictures_from_images(photographs, [], None, 1)
    with complains(DataError, tmp_path / "none", "no such folder"):
        pictures_from_images(tmp_path / "none", [compact_engine], None, 1)
    with complains(EngineError, tmp_path / "none.onnx", "no such engine"):
        pictures_from_images(photographs, [tmp_path / "none.onnx"], None, 1)
    write_png(tmp_path / "lr" / "LRx4" / "a.png", np.zeros((16, 16, 3), np.uint8))
    with complains(DataError, tmp_path / "lr", "no HR/"):
        pictures_from_images(tmp_path / "lr", [compact_engine], None, 1)
    (tmp_path / "lr" / "HR").mkdir()
    with complains(DataError, tmp_path / "lr" / "HR", "holds no images"):
        pictures_from_images(tmp_path / "lr", [compact_engine], None, 1)


# Photographs, of which there is no HR


def test_details_are_where_the_versions_differ_most() -> None:
    changes = np.zeros((200, 300))
    changes[20:30, 40:50] = 1
    changes[150:160, 250:260] = 3
    kept = changes.copy()
    details = busiest_within(changes, Box(0, 0, 300, 200), pictures.DETAIL, 3)
    assert [float(box.of(changes).sum()) for box in details] == [300, 100]  # no third place
    assert np.array_equal(changes, kept)


def test_photographs_before_and_after(
    compact_engine: Path, photographs: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(compact_engine.parent, tmp_path / "other") / compact_engine.name
    one = photographs / "0.png"
    found = pictures_from_photographs([one, photographs], [compact_engine, other], 2)
    assert [picture.name for picture in found] == ["0.png", "0.png"]
    names = [version.name for version in found[0].versions]
    assert names == ["bicubic", f"{compact_engine.parent.name}/x4.onnx", "other/x4.onnx"]
    height, width = read_rgb(one).shape[:2]
    assert {version.whole.shape for version in found[0].versions} == {(4 * height, 4 * width, 3)}
    assert {version.psnr for version in found[0].versions} == {None}
    assert (found[0].difference, found[0].remark) == (None, "")


def test_a_broken_photograph_is_left_out(
    compact_engine: Path, photographs: Path, tmp_path: Path, complains: Any
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    shutil.copy(photographs / "0.png", mine / "b.png")
    (mine / "a.png").write_bytes((photographs / "0.png").read_bytes()[:300])
    said: list[str] = []
    found = pictures_from_photographs([mine], [compact_engine], 2, leave_out=said.append)
    assert [picture.name for picture in found] == ["b.png"]
    assert len(said) == 1
    assert str(mine / "a.png") in said[0]
    with complains(DataError, mine):
        pictures_from_photographs([mine / "a.png"], [compact_engine], 2)


def test_of_a_large_photograph_the_part_that_differs_is_upscaled(
    compact_engine: Path, tmp_path: Path, write_png: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(pictures, "WHOLE", 100 * 100)
    monkeypatch.setattr(pictures, "REGION", 40)
    monkeypatch.setattr(pictures, "LOOK", 24)
    image = np.full((160, 200, 3), 90, np.uint8)
    image[120:130, 150:162] = np.random.default_rng(0).integers(0, 256, (10, 12, 3))
    write_png(tmp_path / "large.png", image)
    (picture,) = pictures_from_photographs([tmp_path / "large.png"], [compact_engine], 1)
    assert {version.whole.shape for version in picture.versions} == {(160, 160, 3)}
    assert picture.versions[0].whole.std() > 10  # the busy part is in it
    assert "of 200×160" in picture.remark


def test_a_folder_without_photographs(compact_engine: Path, tmp_path: Path, complains: Any) -> None:
    with complains(DataError, tmp_path, "no images"):
        pictures_from_photographs([tmp_path], [compact_engine], 1)
