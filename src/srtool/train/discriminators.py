"""The discriminators: they judge images as a whole, pixel by pixel, and by their gradient maps.

    image ─► encoder block ─► encoder block ─► ... ─► bottom ─► image logits
                  │ skip           │ skip               │
    pixel logits ◄─ decoder block ◄─ decoder block ◄────┘

None has batch normalisation: its statistics would tie the loss to how a batch is divided over
processes, and spectral normalisation does the job of keeping the discriminator smooth.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BaseModel, Field
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

LEVELS = 4  # halvings of the U-Net and of the plain encoder
GRADIENT_LEVELS = 5
ENDS = ("first", "image_logits", "pixel_logits", "logits")  # layers without normalisation
DIVISOR = 2**GRADIENT_LEVELS  # patches are multiples of this, so that every level halves evenly


class DiscriminatorConfig(BaseModel, extra="forbid", frozen=True):
    """Sizes of the image discriminator D_U.

    kind: "unet", or "encoder" for the same encoder without a decoder (the paper's ablation).
    features: channels at full resolution; they double with each halving, up to 8 times.
    spectral_norm: divide each inner weight by its largest singular value.
    image_output: "one" logit for an image, as in U-Net GAN (our reading of the paper), or one for
        each of its "patches" of 16x16 pixels.
    """

    kind: Literal["unet", "encoder"] = "unet"
    features: int = Field(64, ge=1)
    spectral_norm: bool = True
    image_output: Literal["one", "patches"] = "one"


class GradientDiscriminatorConfig(BaseModel, extra="forbid", frozen=True):
    """Sizes of the discriminator of gradient maps D_GM: features as in DiscriminatorConfig."""

    features: int = Field(64, ge=1)
    spectral_norm: bool = True


class Judgement(NamedTuple):
    """What D_U says of images, as logits (positive: real).

    image: (N, 1, 1, 1) or, of patches, (N, 1, H / 16, W / 16), of the encoder. pixels:
    (N, 1, H, W), of the decoder; None for the plain encoder. features: the output of every block,
    from first to last.
    """

    image: Tensor
    pixels: Tensor | None
    features: tuple[Tensor, ...]


def _widths(features: int, levels: int) -> list[int]:
    return [features * min(2**level, 8) for level in range(levels + 1)]


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)


class EncoderBlock(nn.Module):
    """Halve height and width (4x4 convolution, stride 2), then look around (3x3)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)
        self.conv = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return _leaky(self.conv(_leaky(self.down(x))))


class DecoderBlock(nn.Module):
    """Double height and width (bilinear: no checkerboards), join the encoder's feature."""

    def __init__(self, inputs: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs + skip, outputs, 3, padding=1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        return _leaky(self.conv(torch.cat((x, skip), 1)))


class Discriminator(nn.Module):
    """D_U: judges images as a whole (encoder) and, for kind "unet", pixel by pixel (decoder).

    Input: (N, 3, H, W) RGB, nominally 0..1, H and W multiples of 16. A 128x128 image gets one
    image logit, of the mean over its 8x8 features, and 128x128 pixel logits. Source: the paper's
    U-Net discriminator, after Schönfeld et al., "A U-Net based discriminator for generative
    adversarial networks" (2020).
    """

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        widths = _widths(config.features, LEVELS)
        self.first = nn.Conv2d(3, widths[0], 3, padding=1)
        pairs = list(pairwise(widths))
        self.encoder = nn.ModuleList(EncoderBlock(low, high) for low, high in pairs)
        side = 3 if config.image_output == "patches" else 1
        self.image_logits = nn.Conv2d(widths[-1], 1, side, padding=side // 2)
        if config.kind == "unet":
            self.decoder = nn.ModuleList(
                DecoderBlock(high, low, low) for low, high in reversed(pairs)
            )
            self.pixel_logits = nn.Conv2d(widths[0], 1, 3, padding=1)
        _initialise(self, config.spectral_norm)

    def forward(self, x: Tensor) -> Judgement:
        features = [_leaky(self.first(x))]
        for block in self.encoder:
            features.append(block(features[-1]))
        bottom = features[-1]
        if self.config.image_output == "one":
            bottom = bottom.mean((2, 3), keepdim=True)
        logits: Tensor = self.image_logits(bottom)
        if self.config.kind == "encoder":
            return Judgement(logits, None, tuple(features))
        skips = features[-2::-1]
        for decoder, skip in zip(self.decoder, skips, strict=True):
            features.append(decoder(features[-1], skip))
        return Judgement(logits, self.pixel_logits(features[-1]), tuple(features))


class GradientDiscriminator(nn.Module):
    """D_GM: a VGG-style classifier of gradient maps, relativistic losses.

    Input: (N, 3, patch, patch) gradient maps M(image), `patch` a multiple of 32: the linear
    layers depend on it. Output: (N, 1) logits; a 128x128 map is reduced to 4x4 before the two
    linear layers. Source: SPSR's gradient discriminator, with spectral instead of batch
    normalisation.
    """

    def __init__(self, config: GradientDiscriminatorConfig, patch: int) -> None:
        super().__init__()
        if patch < DIVISOR or patch % DIVISOR:
            raise ValueError(f"patch is {patch}, expected a multiple of {DIVISOR}")
        widths = _widths(config.features, GRADIENT_LEVELS - 1)
        self.first = nn.Conv2d(3, widths[0], 3, padding=1)
        inputs = [widths[0], *widths]
        self.blocks = nn.ModuleList(
            EncoderBlock(low, high) for low, high in zip(inputs, widths, strict=False)
        )
        side = patch // DIVISOR
        self.hidden = nn.Linear(widths[-1] * side * side, 100)
        # Relativistic losses see differences of logits only: a bias would never learn.
        self.logits = nn.Linear(100, 1, bias=False)
        _initialise(self, config.spectral_norm)

    def forward(self, gradient: Tensor) -> Tensor:
        x = _leaky(self.first(gradient))
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.logits(_leaky(self.hidden(x.flatten(1))))
        return out


def _initialise(module: nn.Module, normalised: bool) -> None:
    """Kaiming initialisation; spectral normalisation between pixels and logits where it is asked
    for. The layers at both ends stay free, so that logits are not all but 0 at the start."""
    layers = {n: m for n, m in module.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    for name, layer in layers.items():
        nn.init.kaiming_normal_(layer.weight, a=0.2)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
        if normalised and name not in ENDS:
            spectral_norm(layer)
    for normalised_layer in _normalised([module]):
        normalised_layer.parametrizations.weight.eval()


@contextmanager
def normalised_once(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Within, weights are divided by their largest singular values once and not in every pass; in
    float32, which autocast would not do."""
    with parametrize.cached():
        for layer in _normalised(modules):
            layer.weight  # noqa: B018  put into the cache
        yield


@torch.no_grad()
def iterate_powers(modules: Iterable[nn.Module]) -> None:
    """One power iteration towards the largest singular value of every normalised weight: once an
    update, as the weights move. Passes leave the vectors alone."""
    for layer in _normalised(modules):
        layer.parametrizations.weight.train()
        layer.parametrizations.weight()
        layer.parametrizations.weight.eval()


def _normalised(modules: Iterable[nn.Module]) -> list[Any]:
    layers = (layer for module in modules for layer in module.modules())
    return [layer for layer in layers if parametrize.is_parametrized(layer, "weight")]
