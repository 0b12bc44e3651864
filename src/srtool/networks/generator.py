"""The structure-guided generator: an SR branch, a gradient branch and their fusion, x4.

    LR image ──────► head ─► RRDB ... RRDB ─► trunk ─► upsampler ──┐
       │                      │ taps    │                          ├─► fusion ─► HR image
       └─ gradient map ─► head ─► gradient blocks ─► upsampler ────┘
                                                          └─► HR gradient map

That is the paper's layout, with everything after the upsamplers at HR size. The fast layout keeps
the branches, the taps and the fusion but does all of it at LR size, with plain residual blocks; a
pixel shuffle makes the image and another the HR gradient map.

Two equivalent heads: the training form takes the LR image nearest-upsampled to HR size and
un-shuffles it (3 -> 48 channels), so that augmentations may mix LR and HR pixels; the
deployed form takes the LR image itself. `fold_head` turns the first into the second, exactly.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCALE = 4
RESIDUAL_SCALE = 0.2


def gradient_map(image: Tensor) -> Tensor:
    """Return the gradient magnitude of every channel on its own.

    Central differences with kernels [-1, 0, 1] horizontally and vertically, zero padding,
    sqrt(v^2 + h^2 + 1e-6); the constant keeps the derivative finite on flat areas. It is
    subnormal in half precision, so a float16 input is refused: cast to float32 first.

    image: (N, C, H, W) floating point, any range.
    Returns (N, C, H, W), same dtype. Source: the paper's M(.), as in SPSR.
    """
    if image.dtype is torch.float16:
        raise TypeError("gradient_map needs float32 or wider: 1e-6 is subnormal in float16")
    padded = F.pad(image, (1, 1, 1, 1))
    vertical = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    horizontal = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    return torch.sqrt(vertical * vertical + horizontal * horizontal + 1e-6)


@dataclass(frozen=True)
class GeneratorConfig:
    """All sizes of a generator, in channels unless said otherwise.

    features, growth, blocks: the SR branch (channels, dense growth, number of RRDB).
    taps: after which block (1-based) the SR feature enters the gradient branch; one gradient
        block for each. Empty: no gradient branch and nothing to fuse (the paper's ablation).
    gradient_features, gradient_growth: the gradient branch.
    hr_features, fusion_growth: everything after upsampling. It runs at HR resolution, 16 times
        the pixels, and dominates the cost.
    image_skip: add the input image, nearest-upsampled, to the output, so that the network
        predicts the difference only. The paper has none. Small networks gain twice: they
        converge sooner, and low-precision engines keep the image itself in float32.
    head: "unshuffle" (training form, HR-size input) or "plain" (deployed form, LR input).
    layout: "paper", or "fast": residual blocks in place of RRDBs, and the fusion before one pixel
        shuffle in place of two upsamplers. growth, gradient_growth, hr_features and fusion_growth
        say nothing then.
    """

    features: int = 64
    growth: int = 32
    blocks: int = 23
    taps: tuple[int, ...] = (5, 10, 15, 20)
    gradient_features: int = 64
    gradient_growth: int = 32
    hr_features: int = 64
    fusion_growth: int = 32
    image_skip: bool = False
    head: Literal["unshuffle", "plain"] = "unshuffle"
    layout: Literal["paper", "fast"] = "paper"

    def __post_init__(self) -> None:
        object.__setattr__(self, "taps", tuple(self.taps))
        for name, size in vars(self).items():
            if isinstance(size, int) and name != "image_skip" and size < 1:
                raise ValueError(f"{name} is {size}, expected at least 1")
        ascending = list(self.taps) == sorted(set(self.taps))
        if not ascending or not all(1 <= tap <= self.blocks for tap in self.taps):
            raise ValueError(
                f"taps {self.taps} must be ascending block numbers between 1 and {self.blocks}"
            )

    def as_dict(self) -> dict[str, Any]:
        """The config as plain values, for checkpoints and manifests."""
        return asdict(self)


PRESETS: dict[str, GeneratorConfig] = {
    "full": GeneratorConfig(),
    "lite": GeneratorConfig(
        features=32,
        growth=16,
        blocks=5,
        taps=(2, 4),
        gradient_features=16,
        gradient_growth=8,
        hr_features=16,
        fusion_growth=8,
        image_skip=True,
    ),
    "fast": GeneratorConfig(
        blocks=16,
        taps=(4, 8, 12, 16),
        gradient_features=32,
        image_skip=True,
        head="plain",
        layout="fast",
    ),
}


class GeneratorOutput(NamedTuple):
    """image: (N, 3, H, W), nominally 0..1, not clamped. gradient: (N, 3, H, W), the predicted
    HR gradient map of the gradient branch, None where the generator has no such branch."""

    image: Tensor
    gradient: Tensor | None


def conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    """3x3 convolution, stride 1, zero padding 1."""
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)


class DenseBlock(nn.Module):
    """Five densely connected convolutions whose scaled sum is added to the input."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv3x3(features + i * growth, growth) for i in range(4))
        self.last = conv3x3(features + 4 * growth, features)
        self.scale = RESIDUAL_SCALE

    def forward(self, x: Tensor) -> Tensor:
        features = x
        for conv in self.convs:
            features = torch.cat((features, leaky(conv(features))), 1)
        out: Tensor = self.last(features)
        return (out if self.scale == 1 else out * self.scale) + x

    def fold_scale(self) -> None:
        """Have the last convolution do the scaling, in place."""
        for values in self.last.parameters():
            values.data.mul_(self.scale)
        self.scale = 1.0


class RRDB(nn.Module):
    """Residual in residual dense block (ESRGAN): three dense blocks and an outer skip."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.dense = nn.Sequential(*(DenseBlock(features, growth) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.dense(x)
        return out * RESIDUAL_SCALE + x


class Upsampler(nn.Module):
    """Two nearest-x2 + conv steps and two convs at HR size."""

    def __init__(self, features: int, hr_features: int) -> None:
        super().__init__()
        self.up1 = conv3x3(features, hr_features)
        self.up2 = conv3x3(hr_features, hr_features)
        self.hr1 = conv3x3(hr_features, hr_features)
        self.hr2 = conv3x3(hr_features, hr_features)

    def forward(self, x: Tensor) -> Tensor:
        for conv in (self.up1, self.up2):
            x = leaky(conv(F.interpolate(x, scale_factor=2.0, mode="nearest")))
        out: Tensor = self.hr2(leaky(self.hr1(x)))
        return out


class GradientBlock(nn.Module):
    """Fuse the gradient feature with the SR feature of one tap."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        width = config.gradient_features + config.features
        self.rrdb = RRDB(width, config.gradient_growth)
        self.conv = conv3x3(width, config.gradient_features)

    def forward(self, gradient: Tensor, tapped: Tensor) -> Tensor:
        out: Tensor = self.conv(self.rrdb(torch.cat((gradient, tapped), 1)))
        return out


class Fusion(nn.Module):
    """One RRDB on both HR features, then three convs to the image."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        width = config.hr_features
        if config.taps:
            self.rrdb = RRDB(2 * width, config.fusion_growth)
            self.reduce = conv3x3(2 * width, width)
        self.conv = conv3x3(width, width)
        self.image = conv3x3(width, 3)

    def forward(self, gradient: Tensor | None, image: Tensor) -> Tensor:
        if gradient is not None:
            image = self.reduce(self.rrdb(torch.cat((gradient, image), 1)))
        out: Tensor = self.image(leaky(self.conv(image)))
        return out


class ResidualBlock(nn.Module):
    """Two convolutions, of a feature and of `others` more channels, added to the feature."""

    def __init__(self, features: int, others: int = 0) -> None:
        super().__init__()
        self.conv1 = conv3x3(features + others, features)
        self.conv2 = conv3x3(features, features)

    def forward(self, feature: Tensor, other: Tensor | None = None) -> Tensor:
        both = feature if other is None else torch.cat((feature, other), 1)
        out: Tensor = self.conv2(leaky(self.conv1(both)))
        return feature + out


class FastFusion(nn.Module):
    """Join both features at LR size; a convolution and a pixel shuffle make the image of it."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        if config.taps:
            self.join = ResidualBlock(config.features, config.gradient_features)
        self.image = conv3x3(config.features, 3 * SCALE**2)

    def forward(self, gradient: Tensor | None, image: Tensor) -> Tensor:
        if gradient is not None:
            image = self.join(image, gradient)
        return F.pixel_shuffle(self.image(image), SCALE)


class Generator(nn.Module):
    """x4 generator with two branches.

    Input: (N, 3, H, W) RGB, 0..1; LR for the plain head, LR nearest-upsampled x4 for the
    un-shuffle head (H and W multiples of 4). Output: see GeneratorOutput. Source: the paper's
    section on the generator; topology of the branches as in SPSR.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        fast = config.layout == "fast"
        channels = 3 * SCALE**2 if config.head == "unshuffle" else 3
        self.head = conv3x3(channels, config.features)
        self.trunk = nn.ModuleList(
            ResidualBlock(config.features) if fast else RRDB(config.features, config.growth)
            for _ in range(config.blocks)
        )
        self.trunk_conv = conv3x3(config.features, config.features)
        if config.taps:
            self.gradient_head = conv3x3(channels, config.gradient_features)
            self.gradient_blocks = nn.ModuleList(
                ResidualBlock(config.gradient_features, config.features)
                if fast
                else GradientBlock(config)
                for _ in config.taps
            )
            self.gradient_conv = conv3x3(config.gradient_features, config.gradient_features)
        if not fast:
            self.upsampler = Upsampler(config.features, config.hr_features)
        if config.taps and not fast:
            self.gradient_upsampler = Upsampler(config.gradient_features, config.hr_features)
            self.gradient_out = nn.Conv2d(config.hr_features, 3, 1)
        elif config.taps:
            self.gradient_out = conv3x3(config.gradient_features, 3 * SCALE**2)
        self.fusion = FastFusion(config) if fast else Fusion(config)
        self.initialise()

    def initialise(self) -> None:
        """Kaiming initialisation, scaled by 0.1 inside dense blocks (ESRGAN), where a residual
        joins, and before the image, where the sum should start close to the skip."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=0.2)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        small = [self.fusion.image] if self.config.image_skip else []
        for module in self.modules():
            if isinstance(module, DenseBlock):
                small += [m for m in module.modules() if isinstance(m, nn.Conv2d)]
            elif isinstance(module, ResidualBlock):
                small.append(module.conv2)
        for conv in small:
            conv.weight.data.mul_(0.1)

    def forward(self, x: Tensor) -> GeneratorOutput:
        unshuffle = self.config.head == "unshuffle"
        low = F.pixel_unshuffle(x, SCALE) if unshuffle else x
        image, gradient = self.branches(low, gradient_map(low) if self.config.taps else None)
        if self.config.image_skip:
            image = image + (x if unshuffle else F.interpolate(x, scale_factor=4.0, mode="nearest"))
        return GeneratorOutput(image, gradient)

    def branches(self, low: Tensor, low_gradient: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Everything between the pixels and the image skip: the part that an exporter may run
        in half precision. Takes the head's input and its gradient map, (N, 3 or 48, h, w);
        without a gradient branch there is no map."""
        x = shallow = self.head(low)
        gradient = gradient_shallow = (
            None if low_gradient is None else self.gradient_head(low_gradient)
        )
        blocks = iter(self.gradient_blocks if self.config.taps else ())
        for number, block in enumerate(self.trunk, start=1):
            x = block(x)
            if number in self.config.taps:
                gradient = next(blocks)(gradient, x)
        fast = self.config.layout == "fast"
        x = shallow + self.trunk_conv(x)
        x = x if fast else self.upsampler(x)
        if gradient is None:
            return self.fusion(None, x), None
        gradient = gradient_shallow + self.gradient_conv(gradient)
        gradient = gradient if fast else self.gradient_upsampler(gradient)
        image, hr_gradient = self.fusion(gradient, x), self.gradient_out(gradient)
        return image, F.pixel_shuffle(hr_gradient, SCALE) if fast else hr_gradient


def fold_head(generator: Generator) -> Generator:
    """Return the deployed form of a generator: the same function of the LR image.

    Nearest-upsampling and then un-shuffling repeats each LR channel SCALE^2 times, so a
    48-channel convolution sums its 16 kernels of each colour. The sums are made in float64.
    A generator with a plain head is returned as it is.
    """
    if generator.config.head == "plain":
        return generator
    folded = Generator(replace(generator.config, head="plain"))
    state = generator.state_dict()
    for name in ("head.weight", "gradient_head.weight"):
        if name not in state:  # no gradient branch
            continue
        weight = state[name]
        kernels = weight.double().unflatten(1, (3, SCALE**2))
        state[name] = kernels.sum(2).to(weight.dtype)
    folded.to(next(generator.parameters()).dtype)
    folded.load_state_dict(state)
    return folded.train(generator.training)


def deployed(generator: Generator) -> Generator:
    """A copy in eval mode with a plain head and all scales folded into convolutions: what
    exporters start from, and what validation runs."""
    with torch.random.fork_rng(devices=[]):  # fold_head makes a generator, of random weights first
        made = copy.deepcopy(fold_head(generator)).eval()
    for module in made.modules():
        if isinstance(module, DenseBlock):
            module.fold_scale()
    return made
