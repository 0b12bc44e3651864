"""One small network with random weights of every SR architecture that spandrel knows.

Random as they are, they make pictures: their last layer is scaled and shifted until the values of
a photograph come out of it, so that a file that differs shows it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from srtool.networks.loading import load_network
from srtool.networks.network import Called, Gray, Network, unwarned
from srtool.runtime.foreign import photograph

LEVEL = 0.5  # of 0..1: the mean of a picture, and its least spread
SPREAD = 0.2


@dataclass(frozen=True)
class Small:
    """A class of spandrel's package of that architecture, and the arguments that make it small.
    gain: of each layer, below 1 where more would grow without end."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    gain: float = 1.0


_WINDOWS = {"embed_dim": 12, "depths": (2, 2), "num_heads": (2, 2), "window_size": 8}
SMALL: dict[str, Small] = {
    "ATD": Small("ATD", {**_WINDOWS, "num_tokens": 8, "upscale": 2, "upsampler": "pixelshuffle"}),
    "AuraSR": Small(
        "AuraSR",
        {
            "dim": 4,
            "image_size": None,
            "input_image_size": None,
            "style_network": {"dim_in": 16, "dim_out": 64, "depth": 2},
            "up_dim_mults": (1, 2, 2, 4, 4),
            "down_dim_mults": (2, 4, 4),
            "flash_attn": True,
            "self_attn_dim_head": 8,
            "self_attn_heads": 8,
            "attn_depths": (1, 1, 1, 1, 1),
            "mid_attn_depth": 1,
        },
    ),
    "CRAFT": Small("CRAFT", {"embed_dim": 48, "depths": [1, 1], "num_heads": [6, 6], "upscale": 4}),
    "Compact": Small("Compact", {"num_feat": 16, "num_conv": 4, "upscale": 4}),
    "DAT": Small(
        "DAT",
        {
            "embed_dim": 32,
            "split_size": [8, 16],
            "depth": [3],
            "num_heads": [2],
            "expansion_factor": 2.0,
            "upscale": 2,
        },
    ),
    "DCTLSA": Small("DCTLSA", {"nf": 20, "upscale": 4}, 0.7),
    "DITN": Small("DITN", {"dim": 12, "ITL_blocks": 2, "SAL_blocks": 2, "upscale": 4}),
    "DRCT": Small(
        "DRCT",
        {
            "embed_dim": 24,
            "depths": (6,),
            "num_heads": (2,),
            "window_size": 8,
            "gc": 8,
            "upscale": 4,
            "upsampler": "pixelshuffle",
        },
    ),
    "ESRGAN": Small("ESRGAN", {"num_filters": 16, "num_blocks": 2, "scale": 4}),
    "FDAT": Small(
        "FDAT",
        {"embed_dim": 16, "num_groups": 2, "depth_per_group": 1, "num_heads": 2, "mid_dim": 16},
    ),
    "GRL": Small(
        "GRL",
        {
            "embed_dim": 36,
            "upscale": 4,
            "upsampler": "nearest+conv",
            "depths": [2],
            "num_heads_window": [2],
            "num_heads_stripe": [2],
            "window_size": 8,
            "stripe_size": [8, 16],
            "stripe_shift": True,
            "anchor_window_down_factor": 2,
            "local_connection": True,
        },
    ),
    "HAT": Small(
        "HAT",
        {
            "embed_dim": 24,
            "depths": (2, 2),
            "num_heads": (2, 2),
            "window_size": 8,
            "squeeze_factor": 8,
            "mlp_ratio": 2.0,
            "upscale": 4,
        },
    ),
    "IPT": Small("IPT", {"n_feats": 12, "num_layers": 1, "scale": [4], "patch_size": 24}),
    "MMRealSR": Small(
        "MMRealSR",
        {
            "num_in_ch": 3,
            "num_out_ch": 3,
            "num_feat": 16,
            "num_block": 2,
            "num_grow_ch": 8,
            "num_feats": [16, 16, 16, 16],
            "num_blocks": [1, 1, 1, 1],
        },
    ),
    "MoESR": Small(
        "MoESR", {"dim": 16, "n_blocks": 2, "n_block": 2, "upsample_dim": 16, "scale": 2}
    ),
    "MoSR": Small("MoSR", {"n_block": 4, "dim": 16, "upscale": 4}),
    "OmniSR": Small("OmniSR", {"num_feat": 16, "res_num": 2, "up_scale": 4}),
    "PLKSR": Small("PLKSR", {"dim": 16, "n_blocks": 4, "upscaling_factor": 4}),
    "RCAN": Small(
        "RCAN", {"n_resgroups": 2, "n_resblocks": 2, "n_feats": 16, "reduction": 4, "scale": 4}
    ),
    "RGT": Small("RGT", {"embed_dim": 64, "depth": [3, 2], "num_heads": [2, 2], "upscale": 4}),
    "RealCUGAN": Small("UpCunet2x"),
    "SAFMN": Small("SAFMN", {"dim": 16, "n_blocks": 2, "upscaling_factor": 4}),
    "SPAN": Small("SPAN", {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 16}, 0.3),
    "SeemoRe": Small(
        "SeemoRe", {"num_layers": 2, "embedding_dim": 16, "num_experts": 3, "scale": 4}
    ),
    "SwiftSRGAN": Small("SwiftSRGAN", {"num_channels": 16, "num_blocks": 2}),
    "Swin2SR": Small("Swin2SR", {**_WINDOWS, "upscale": 2, "upsampler": "pixelshuffledirect"}),
    "SwinIR": Small("SwinIR", {**_WINDOWS, "upscale": 4, "upsampler": "nearest+conv"}),
}


def written(name: str, folder: Path) -> Path:
    """Write the weights of one, NAME.pth. The same ones each time."""
    small = SMALL[name]
    package = importlib.import_module(f"spandrel.architectures.{name}")
    path = folder / f"{name}.pth"
    with torch.random.fork_rng(devices=[]), unwarned():
        torch.manual_seed(0)
        model: nn.Module = getattr(package, small.name)(**small.arguments).eval()
        _randomise(model, small.gain)
        torch.save(model.state_dict(), path)
        if name in NOT_RUN:
            return path
        network = load_network(path)
        _make_pictures(network)
        torch.save(model_of(network).state_dict(), path)
    return path


# Refused, for what they are: nothing to make pictures with.
NOT_RUN = ("AuraSR", "IPT")


def model_of(network: Network) -> nn.Module:
    """What spandrel built, without what is put around it."""
    model = network.module
    while isinstance(model, (Called, Gray)):
        model = model.model
    return model


def _randomise(model: nn.Module, gain: float) -> None:
    """Weights that keep the size of what goes through, small shifts, and no layer that starts out
    as nothing: what trainers begin with is often the same for all pixels."""
    for module in model.modules():
        weight = getattr(module, "weight", None)
        for name, value in module.named_parameters(recurse=False):
            if not value.numel() or not value.requires_grad or _is_colour(module):
                continue
            if value is weight and value.ndim >= 2:
                inputs = value[0].numel() if not _turned(module) else value[:, 0].numel()
                nn.init.normal_(value, std=gain * inputs**-0.5)
            elif name == "bias":
                nn.init.normal_(value, std=0.05)
            elif value.max() == value.min():
                value.data += 0.1 * torch.randn_like(value)


def _is_colour(module: nn.Module) -> bool:
    """Whether a layer adds or subtracts the mean colour."""
    weight = getattr(module, "weight", None)
    if not isinstance(module, nn.Conv2d) or weight is None or weight.shape != (3, 3, 1, 1):
        return False
    return bool(torch.equal(weight[..., 0, 0], weight[..., 0, 0].diag().diag()))


def _turned(module: nn.Module) -> bool:
    return isinstance(module, nn.ConvTranspose2d)


def _make_pictures(network: Network) -> None:
    """Scale and shift the last layer: what it adds has a spread of SPREAD, the mean is LEVEL."""
    x = torch.from_numpy(photograph((64, 64)).copy()).permute(2, 0, 1)[None].float() / 255
    last = _last_layer(network, x)
    with torch.no_grad():
        weight = last.weight.clone()
        for _ in range(3):
            made = network.upscale(x)
            last.weight.zero_()
            without = network.upscale(x)
            last.weight.copy_(weight)
            weight *= SPREAD / float((made - without).std())
            last.weight.copy_(weight)
        if last.bias is not None:
            for _ in range(3):
                before = network.upscale(x).mean()
                last.bias += 0.01
                gain = (network.upscale(x).mean() - before) / 0.01
                last.bias += (LEVEL - before) / gain - 0.01


def _last_layer(network: Network, x: Tensor) -> nn.Conv2d | nn.ConvTranspose2d:
    """The layer with trained weights that is called last."""
    called: list[Any] = []
    hooks = [
        module.register_forward_hook(lambda module, given, made: called.append(module))
        for module in network.module.modules()
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and not _is_colour(module)
    ]
    with torch.no_grad():
        network.upscale(x)
    for hook in hooks:
        hook.remove()
    last: nn.Conv2d | nn.ConvTranspose2d = called[-1]
    return last
