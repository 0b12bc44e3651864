"""AlexNet and VGG16 from each kind of file; LPIPS on the real ones."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from srtool.benchmarks.metrics.full_reference import lpips
from srtool.images.reading import read_rgb
from srtool.train.losses.backbones import CONVOLUTIONS, backbone_from_file
from srtool.train.losses.perceptual import load_lpips


@pytest.mark.parametrize("asset", ["alexnet", "vgg16"])
def test_the_kinds_of_files_say_the_same(asset: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    layers, state = {}, {}
    for number, place in enumerate(CONVOLUTIONS[asset]):
        kernel = random.random((3, 3, 2, 4), np.float32)  # height, width, inputs, outputs
        bias = random.random(4, np.float32)
        layers[f"Conv_{number}"] = {"kernel": kernel, "bias": bias}
        weight = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
        state |= {f"features.{place}.weight": weight}
        state |= {f"features.{place}.bias": torch.from_numpy(bias)}
    flax = tmp_path / "x.ckpt"
    name = {"alexnet": "AlexNet_0", "vgg16": "VGG16_0"}[asset]
    flax.write_bytes(pickle.dumps({name: layers, "NetLinLayer_0": {}}))
    torch.save(state, tmp_path / "x.pth")
    save_file(state, tmp_path / "x.safetensors")
    for file in (flax, tmp_path / "x.pth", tmp_path / "x.safetensors"):
        found = backbone_from_file(file, asset)
        assert found.keys() == state.keys()
        assert all(torch.equal(found[name], value) for name, value in state.items())


def test_a_pickle_of_anything_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(pickle.dumps({"AlexNet_0": Path}))
    with pytest.raises(pickle.UnpicklingError, match="no part of an array"):
        backbone_from_file(path, "alexnet")


def test_lpips_is_the_published_one(shared: Path) -> None:
    """0.722 and 0.138, as its authors print them for these pictures."""
    model = load_lpips(shared / "assets" / "alexnet_features.safetensors")
    images = {
        n: read_rgb(shared / "reference" / "lpips" / f"ex_{n}.png") for n in ("ref", "p0", "p1")
    }
    for name, expected in (("p0", 0.722), ("p1", 0.138)):
        assert lpips(images["ref"], images[name], model) == pytest.approx(expected, abs=5e-4)
