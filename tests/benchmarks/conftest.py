"""Fixtures for the metrics: Set5 and Set14 upscaled bicubically, and the figures they must get."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from srtool.benchmarks.workers import Scorer

Array = NDArray[np.float64]
Bicubic = Callable[[str, str, int], tuple[Array, Array]]


def _read(path: Path) -> NDArray[np.uint8]:
    import pyvips

    return np.asarray(pyvips.Image.new_from_file(str(path)).numpy())


@pytest.fixture(scope="session")
def reference(shared: Path) -> dict[str, Any]:
    """bicubic_set5_set14.json: [method][set]["images"][n]["psnr"], ..."""
    figures: dict[str, Any] = json.loads(
        (shared / "reference" / "bicubic_set5_set14.json").read_text()
    )
    return figures


@pytest.fixture(scope="session")
def bicubic(shared: Path) -> Bicubic:
    """(method, set, n) -> shaved luma of the upscaled image and of the HR image, n from 1."""
    from srtool.images.colour import luma
    from srtool.images.imresize import imresize, mod_crop

    def upscaled(method: str, name: str, number: int) -> tuple[Array, Array]:
        folder, file = shared / "data" / name, f"img_{number:03}.png"
        hr = mod_crop(_read(folder / "HR" / file))
        if method == "lr_uint8":
            sr = imresize(_read(folder / "LRx4" / file), 4, "clamp")
        else:
            lr = imresize(hr.astype(np.float64), 1 / 4, "mirror")
            sr = np.floor(imresize(lr, 4, "mirror") + 0.5).clip(0, 255).astype(np.uint8)
        return luma(sr)[4:-4, 4:-4], luma(hr)[4:-4, 4:-4]

    return upscaled


@pytest.fixture(scope="session")
def ma_reference(shared: Path) -> dict[str, Any]:
    """ma_features_set5.json: name -> features and NIQE of the official code, and "luma" (H, W)."""
    folder = shared / "reference"
    images: dict[str, Any] = json.loads((folder / "ma_features_set5.json").read_text())["images"]
    return {
        name: {**figures, "luma": _read(folder / figures["file"]).astype(np.float64)}
        for name, figures in images.items()
    }


class _InlinePool:
    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*arguments))
        return future


@contextmanager
def _inline_scoring(workers: int, advice: str) -> Iterator[Scorer]:
    yield Scorer(cast(ProcessPoolExecutor, _InlinePool()), workers)


@pytest.fixture
def score_inline(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Make a module score in this process: the tests of bookkeeping need no pool."""
    return lambda module: monkeypatch.setattr(module, "scoring", _inline_scoring)
