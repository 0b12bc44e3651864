"""Perceptual losses on untrained backbones: values, where gradients go, files that are refused."""

from __future__ import annotations

import copy
import pickle
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from srtool.errors import AssetError, DataError, UsageError
from srtool.train.perceptual import (
    CONVOLUTIONS,
    LPIPS_MIN_SIDE,
    VGG_MIN_SIDE,
    LpipsLoss,
    VggLoss,
    backbone_from_file,
    load_lpips,
    load_vgg,
    lpips_loss,
    vgg_loss,
)

Complains = Callable[..., Any]
State = dict[str, Tensor]

ALEXNET, VGG19 = "alexnet-owt-7be5be79.pth", "vgg19-dcbb9e9d.pth"
# VGG19 by its paper's table E; a number is the channels of a 3x3 convolution and its ReLU.
VGG_TABLE = [64, 64, "M", 128, 128, "M", *[256] * 4, "M", *[512] * 4, "M", *[512] * 4, "M"]


def untrained(features: nn.Module) -> State:
    """Random weights that keep the size of the values, and biases, as torchvision names them."""
    state = {}
    for name, layer in features.named_modules():
        if isinstance(layer, nn.Conv2d):
            inward = layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1]
            spread = (2 / inward) ** 0.5
            state[f"features.{name}.weight"] = torch.randn(layer.weight.shape) * spread
            state[f"features.{name}.bias"] = torch.randn(layer.out_channels) * 0.1
    return state


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of assets with untrained networks in place of torchvision's."""
    from torchvision.models import alexnet, vgg19

    folder = tmp_path_factory.mktemp("assets")
    torch.manual_seed(0)
    for build, file in ((alexnet, ALEXNET), (vgg19, VGG19)):
        with torch.device("meta"):
            features = build(weights=None).features
        state = untrained(features)
        state["classifier.6.bias"] = torch.zeros(1000)  # the real files hold the classifier too
        torch.save(state, folder / file)
    return folder


@pytest.fixture(scope="module")
def lpips(assets: Path) -> LpipsLoss:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SRTOOL_ASSETS", str(assets))
        return lpips_loss()


@pytest.fixture(scope="module")
def vgg(assets: Path) -> VggLoss:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SRTOOL_ASSETS", str(assets))
        return vgg_loss()


@pytest.fixture(params=["lpips", "vgg"])
def loss(request: pytest.FixtureRequest) -> nn.Module:
    found: nn.Module = request.getfixturevalue(request.param)
    return found


def batch(height: int = 48, width: int = 40) -> tuple[Tensor, Tensor]:
    """SR and HR images, (2, 3, height, width) in 0..1; SR is a little outside, as nets are."""
    torch.manual_seed(1)
    hr = torch.rand(2, 3, height, width)
    return hr + 0.1 * torch.randn_like(hr), hr


def package(assets: Path) -> Any:
    """The lpips package, used directly."""
    import lpips

    state = torch.load(assets / ALEXNET, weights_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    for number in range(1, 6):
        for name, layer in getattr(model.net, f"slice{number}").named_children():
            for part in layer.state_dict():
                getattr(layer, part).data.copy_(state[f"features.{name}.{part}"])
    return model


def vgg_features(state: State, image: Tensor) -> Tensor:
    """conv5_4 before its activation, layer by layer from the table."""
    mean = torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1)
    x = (image - mean) / torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1)
    convolutions = [name for name in state if name.endswith("weight") and "features" in name]
    for row in VGG_TABLE:
        if row == "M":
            x = F.max_pool2d(x, 2)
            continue
        name = convolutions.pop(0)
        x = F.conv2d(x, state[name], state[name.replace("weight", "bias")], padding=1)
        if not convolutions:
            break
        x = x.relu()
    return x


# Values


def test_lpips_is_that_of_the_package(lpips: LpipsLoss, assets: Path) -> None:
    for size in ((48, 40), (31, 31)):
        sr, hr = batch(*size)
        expected = package(assets)(2 * sr - 1, 2 * hr - 1)
        assert expected.shape == (2, 1, 1, 1)
        assert expected.min() > 1e-3
        found = lpips(sr, hr)
        assert (found.shape, found.dtype) == ((), torch.float32)
        assert found.item() == pytest.approx(expected.mean().item(), rel=1e-5)


def test_vgg_layer_by_layer(vgg: VggLoss, assets: Path) -> None:
    state = torch.load(assets / VGG19, weights_only=True)
    for size in ((48, 40), (16, 17)):
        sr, hr = batch(*size)
        a, b = vgg_features(state, sr), vgg_features(state, hr)
        assert a.shape == (2, 512, size[0] // 16, size[1] // 16)
        assert (a < 0).any()  # not activated
        expected = (a - b).abs().mean().item()
        found = vgg(sr, hr)
        assert (found.shape, found.dtype) == ((), torch.float32)
        assert found.item() == pytest.approx(expected, rel=1e-4)


def test_is_zero_only_for_equal_images(loss: nn.Module) -> None:
    sr, hr = batch()
    assert loss(hr, hr) == 0
    assert loss(sr, hr) > loss((sr + 3 * hr) / 4, hr) > 0


def test_the_linear_weights_of_lpips_are_the_trained_ones(lpips: LpipsLoss) -> None:
    for layer in lpips.model.lins:
        for weights in layer.state_dict().values():
            assert weights.min() >= 0  # they are trained to be, random ones are not


# Training with them


def test_gradients_reach_sr_and_nothing_else(loss: nn.Module) -> None:
    sr, hr = (image.requires_grad_() for image in batch())
    loss(sr, hr).backward()
    assert sr.grad is not None
    assert sr.grad.isfinite().all()
    assert (sr.grad.abs().amax(dim=(1, 2, 3)) > 0).all()
    assert hr.grad is None
    assert list(loss.parameters())
    assert not any(p.requires_grad or p.grad is not None for p in loss.parameters())


def test_a_gradient_step_reduces_it(loss: nn.Module) -> None:
    sr, hr = batch()
    sr.requires_grad_()
    before = loss(sr, hr)
    (gradient,) = torch.autograd.grad(before, sr)
    after = loss(sr - 1e-3 * gradient / gradient.abs().max(), hr)
    assert after < before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_around_it_does_not_reach_it(loss: nn.Module, dtype: torch.dtype) -> None:
    sr, hr = batch()
    with torch.autocast("cpu", dtype):
        found = loss(sr, hr)
        low = loss(sr.to(dtype), hr)
    assert found.dtype == low.dtype == torch.float32
    assert torch.equal(found, loss(sr, hr))
    assert torch.equal(low, loss(sr.to(dtype).float(), hr))


def test_training_mode_changes_nothing(loss: nn.Module) -> None:
    sr, hr = batch()
    expected = loss(sr, hr)
    nn.ModuleList([loss]).train()
    assert torch.equal(loss(sr, hr), expected)


def test_a_flat_patch_has_a_gradient(lpips: LpipsLoss) -> None:
    """LPIPS divides by the length of AlexNet's features. Where no channel is active that is the
    root of 0, whose derivative is no number; it must not get past the activation before it."""
    model = copy.deepcopy(lpips.model)
    for name, parameter in model.net.named_parameters():
        if name.endswith("bias"):
            parameter.fill_(-1.5)
    sr, hr = batch()
    sr[:, :, :24] = 0.5
    assert (model.net(model.scaling_layer(2 * sr - 1)).relu1.amax(1) == 0).any()
    sr.requires_grad_()
    LpipsLoss(model)(sr, hr).backward()
    assert sr.grad is not None
    assert sr.grad.isfinite().all()
    assert (sr.grad != 0).any()


# What is refused


def test_patches_that_are_too_small(lpips: LpipsLoss, vgg: VggLoss, complains: Complains) -> None:
    for loss, side in ((lpips, LPIPS_MIN_SIDE), (vgg, VGG_MIN_SIDE)):
        small = torch.rand(1, 3, side - 1, 64)
        with complains(UsageError, f"{side} x {side}", f"{side - 1} x 64", "recipe"):
            loss(small, small)
        loss(torch.rand(1, 3, side, side), torch.rand(1, 3, side, side))


def test_batches_that_do_not_fit(loss: nn.Module) -> None:
    sr, hr = batch()
    for a, b in ((sr, hr[:1]), (sr[0], hr[0]), (sr[:, :1], hr[:, :1])):
        with pytest.raises(ValueError, match="two"):
            loss(a, b)


def test_without_the_files_nothing_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, complains: Complains
) -> None:
    monkeypatch.setenv("SRTOOL_ASSETS", str(tmp_path))
    with complains(AssetError, ALEXNET, "`srtool assets fetch alexnet`"):
        lpips_loss()
    with complains(AssetError, VGG19, "`srtool assets fetch vgg19`"):
        vgg_loss()


def test_without_the_packages(
    assets: Path, monkeypatch: pytest.MonkeyPatch, complains: Complains
) -> None:
    for module, load, file in (
        ("lpips", load_lpips, ALEXNET),
        ("torchvision.models", load_vgg, VGG19),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with complains(UsageError, module.partition(".")[0], "pip install 'srtool[train]'"):
            load(assets / file)


@pytest.mark.parametrize(
    ("load", "asset", "first", "shape", "second"),
    [
        (load_lpips, "alexnet", "features.0.weight", (64, 3, 11, 11), "features.0.bias"),
        (load_vgg, "vgg19", "features.0.weight", (64, 3, 3, 3), "features.0.bias"),
    ],
)
def test_files_that_are_another_network(
    tmp_path: Path,
    complains: Complains,
    load: Callable[[Path], nn.Module],
    asset: str,
    first: str,
    shape: tuple[int, ...],
    second: str,
) -> None:
    path, command = tmp_path / "weights.pth", f"srtool assets fetch {asset}"
    with complains(DataError, path, "FileNotFoundError", command):
        load(path)
    path.write_bytes(b"not weights")
    with complains(DataError, path, command):
        load(path)
    torch.save({first: torch.zeros(shape)}, path)
    with complains(DataError, path, second, command):
        load(path)
    for content in ([1, 2], {first: 1}):
        torch.save(content, path)
        with complains(DataError, path, first, command):
            load(path)


def test_one_network_in_place_of_the_other(
    assets: Path, tmp_path: Path, complains: Complains
) -> None:
    with complains(DataError, assets / VGG19, "AlexNet", ALEXNET):
        load_lpips(assets / VGG19)
    with complains(DataError, assets / ALEXNET, "VGG19", VGG19):
        load_vgg(assets / ALEXNET)


@pytest.mark.parametrize(("load", "file"), [(load_lpips, ALEXNET), (load_vgg, VGG19)])
def test_layers_of_another_size(
    assets: Path, tmp_path: Path, complains: Complains, load: Callable[[Path], Any], file: str
) -> None:
    path, state = tmp_path / "other.pth", torch.load(assets / file, weights_only=True, mmap=True)
    wrong = {name: torch.zeros(()).expand(value.shape) for name, value in state.items()}
    wrong["features.0.weight"] = torch.zeros(8, 3, 5, 5)
    torch.save(wrong, path)
    with complains(DataError, path, "size mismatch"):
        load(path)


@pytest.mark.gpu
def test_on_the_gpu(loss: nn.Module) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU here")
    sr, hr = batch()
    expected = loss(sr, hr).item()
    try:
        with torch.autocast("cuda", torch.float16):
            found = loss.cuda()(sr.cuda(), hr.cuda())
    finally:
        loss.cpu()
    assert found.item() == pytest.approx(expected, rel=1e-2)  # TensorFloat-32


# Files of backbones


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
