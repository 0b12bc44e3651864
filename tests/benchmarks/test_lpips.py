"""LPIPS through an asset file, against the lpips package used directly."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from srtool.assets import asset_path
from srtool.benchmarks.metrics.full_reference import lpips
from srtool.errors import ImageError
from srtool.images.reading import read_rgb
from srtool.train.perceptual import LPIPS_MIN_SIDE, load_lpips

Complains = Callable[..., Any]
Image = NDArray[np.uint8]


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with an untrained AlexNet in place of torchvision's. Returns the cache's folder."""
    shapes = [(64, 3, 11), (192, 64, 5), (384, 192, 3), (256, 384, 3), (256, 256, 3)]
    torch.manual_seed(0)
    state = {}
    for number, (out, inward, side) in zip((0, 3, 6, 8, 10), shapes, strict=True):
        spread = (2 / (inward * side * side)) ** 0.5
        state[f"features.{number}.weight"] = torch.randn(out, inward, side, side) * spread
        state[f"features.{number}.bias"] = torch.randn(out) * 0.1
    state["classifier.6.bias"] = torch.zeros(1000)  # the real file holds the classifier as well
    folder = tmp_path_factory.mktemp("assets")
    torch.save(state, folder / "alexnet-owt-7be5be79.pth")
    return folder


@pytest.fixture(scope="module")
def model(alexnet: Path) -> torch.nn.Module:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SRTOOL_ASSETS", str(alexnet))
        return load_lpips(asset_path("alexnet"))


def pair(height: int, width: int, seed: int = 0) -> tuple[Image, Image]:
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (height, width, 3))
    other = (image + random.normal(0, 40, image.shape)).clip(0, 255)
    return image.astype(np.uint8), other.astype(np.uint8)


def test_equals_the_package_with_the_same_weights(model: torch.nn.Module, alexnet: Path) -> None:
    import lpips as package

    state = torch.load(alexnet / "alexnet-owt-7be5be79.pth", weights_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        direct = package.LPIPS(net="alex", pnet_rand=True, verbose=False)
    for slice_ in range(1, 6):
        for name, layer in getattr(direct.net, f"slice{slice_}").named_children():
            for part in layer.state_dict():
                getattr(layer, part).copy_(state[f"features.{name}.{part}"])
    for size in ((64, 96), (31, 31), (75, 40)):
        a, b = pair(*size)
        tensors = [package.im2tensor(image) for image in (a, b)]
        with torch.inference_mode():
            expected = float(direct(*tensors))
        assert expected > 1e-3
        assert lpips(a, b, model) == pytest.approx(expected, rel=1e-5)


def test_is_zero_only_for_equal_images_and_symmetric(model: torch.nn.Module) -> None:
    a, b = pair(64, 80)
    assert lpips(a, a, model) == 0
    assert lpips(a, b, model) == pytest.approx(lpips(b, a, model), rel=1e-5)
    assert lpips(a, b, model) > lpips(a, ((a.astype(int) * 3 + b) // 4).astype(np.uint8), model)


def test_images_that_cannot_be_compared(model: torch.nn.Module, complains: Complains) -> None:
    a, b = pair(LPIPS_MIN_SIDE - 1, 80)
    with complains(ImageError, "31 x 31", "30 x 80"):
        lpips(a, b, model)
    with pytest.raises(ValueError, match="two"):
        lpips(a, b[:-1], model)


def test_lpips_is_the_published_one(shared: Path) -> None:
    """0.722 and 0.138, as its authors print them for these pictures."""
    model = load_lpips(shared / "assets" / "alexnet_features.safetensors")
    images = {
        n: read_rgb(shared / "reference" / "lpips" / f"ex_{n}.png") for n in ("ref", "p0", "p1")
    }
    for name, expected in (("p0", 0.722), ("p1", 0.138)):
        assert lpips(images["ref"], images[name], model) == pytest.approx(expected, abs=5e-4)
