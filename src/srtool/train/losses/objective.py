"""What the networks are asked for in one step: the terms of each side, by name.

The generator's terms never put a gradient on a discriminator (their parameters are frozen
meanwhile, and HR features are computed without one); the discriminators' terms never put one on
the generator (they get detached images).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from srtool.networks.generator import SCALE, GeneratorOutput
from srtool.networks.gradient import gradient_map
from srtool.train.discriminators import Judgement
from srtool.train.losses import terms as losses
from srtool.train.recipe import LossWeights

Terms = dict[str, Tensor]

# Stage 1 is L1 alone.
PRETRAIN = LossWeights(
    adversarial=0,
    lpips=0,
    vgg=0,
    feature_matching=0,
    pixel=1,
    gradient_adversarial=0,
    gradient_pixel=0,
    gradient_branch=0,
)


@dataclass(frozen=True)
class Discriminators:
    """D_U on images and D_GM on gradient maps; None where no term needs it."""

    image: nn.Module | None = None
    gradient: nn.Module | None = None

    def modules(self) -> dict[str, nn.Module]:
        both = {"discriminator": self.image, "gradient_discriminator": self.gradient}
        return {name: module for name, module in both.items() if module is not None}

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Without gradients on any parameter, while the generator learns."""
        for module in self.modules().values():
            module.requires_grad_(False)
        try:
            yield
        finally:
            for module in self.modules().values():
                module.requires_grad_(True)


def generator_terms(
    output: GeneratorOutput,
    hr: Tensor,
    weights: LossWeights,
    discriminators: Discriminators,
    perceptual: Mapping[str, nn.Module],
    batch_mean: losses.BatchMean = losses.mean_of,
    shift: tuple[int, int] | None = None,
) -> Terms:
    """The terms of L_G whose weight is not 0, unweighted, by the names of LossWeights.

    hr: (N, 3, H, W) float32, 0..1. perceptual: the losses "lpips" and "vgg", where asked for.
    shift: how many rows and columns, 0 to 3, LPIPS leaves out before its crop of 4 pixels less
    each way. AlexNet moves in strides of 4, as a pixel shuffle does: where the two always stand
    in step, a grid of period 4 costs LPIPS little.
    """
    sr = output.image.float()
    terms: Terms = {}
    if weights.pixel:
        terms["pixel"] = losses.pixel_loss(sr, hr)
    if weights.squared:
        terms["squared"] = losses.squared_loss(sr, hr)
    if weights.gradient_pixel or weights.gradient_branch or weights.gradient_adversarial:
        hr_map = gradient_map(hr)
    if weights.gradient_branch and output.gradient is not None:
        terms["gradient_branch"] = losses.gradient_branch_loss(output.gradient, hr_map)
    if weights.gradient_pixel or weights.gradient_adversarial:
        sr_map = gradient_map(sr)
    if weights.gradient_pixel:
        terms["gradient_pixel"] = losses.gradient_pixel_loss(sr_map, hr_map)
    for name, loss in perceptual.items():
        if getattr(weights, name):
            cut = shift if name == "lpips" else None
            terms[name] = loss(_shifted(sr, cut), _shifted(hr, cut))
    if weights.phase:
        terms["phase"] = losses.phase_loss(sr, hr)
    if discriminators.image is not None and (weights.adversarial or weights.feature_matching):
        fake: Judgement = discriminators.image(sr)
        if weights.adversarial:
            terms["adversarial"] = losses.adversarial_loss(fake)
        if weights.feature_matching:
            with torch.no_grad():
                real: Judgement = discriminators.image(hr)
            terms["feature_matching"] = losses.feature_matching_loss(fake.features, real.features)
    if discriminators.gradient is not None and weights.gradient_adversarial:
        with torch.no_grad():
            real_logits = discriminators.gradient(hr_map)
        terms["gradient_adversarial"] = losses.relativistic_generator_loss(
            discriminators.gradient(sr_map), real_logits, batch_mean
        )
    return terms


def _shifted(image: Tensor, shift: tuple[int, int] | None) -> Tensor:
    if shift is None:
        return image
    (top, left), (height, width) = shift, image.shape[2:]
    return image[:, :, top : top + height - SCALE, left : left + width - SCALE]


def discriminator_terms(
    sr: Tensor,
    hr: Tensor,
    mask: Tensor | None,
    discriminators: Discriminators,
    batch_mean: losses.BatchMean = losses.mean_of,
) -> Terms:
    """The terms of L_DU and of D_GM's loss: encoder, decoder, consistency, gradient_relativistic.

    sr, hr: (N, 3, H, W) float32; sr is detached here. mask: (N, 1, H, W), 1 where HR shows in
    the CutMix; None mixes nothing.
    """
    sr = sr.detach()
    terms: Terms = {}
    if discriminators.image is not None:
        images = [hr, sr] if mask is None else [hr, sr, mask * hr + (1 - mask) * sr]
        # One pass over all: a network wrapped for several processes allows one for each backward.
        judged: Judgement = discriminators.image(torch.cat(images))
        of_image = judged.image.chunk(len(images))
        terms["encoder"] = losses.hinge_loss(of_image[0], of_image[1])
        if judged.pixels is not None:
            of_pixels = judged.pixels.chunk(len(images))
            terms["decoder"] = losses.hinge_loss(of_pixels[0], of_pixels[1])
            if mask is not None:
                terms["consistency"] = losses.consistency_loss(
                    of_pixels[2], of_pixels[0], of_pixels[1], mask
                )
    if discriminators.gradient is not None:
        both = torch.cat((gradient_map(hr), gradient_map(sr)))
        real, fake = discriminators.gradient(both).chunk(2)
        terms["gradient_relativistic"] = losses.relativistic_discriminator_loss(
            real, fake, batch_mean
        )
    return terms
