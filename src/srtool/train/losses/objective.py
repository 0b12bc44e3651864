"""What the networks are asked for in one step: the terms of each side, by name.

Both sides learn from one judgement of HR and one of SR: their gradients are taken at the same
weights. The generator's terms take what is said of HR as given, and whoever runs them backward
names the parameters that learn; so no term of one side reaches the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor, nn

from srtool.networks.generator import SCALE, GeneratorOutput, gradient_map
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


class Verdict(NamedTuple):
    """What D_U says of a batch and D_GM, (N, 1) logits, of its gradient maps; None where there is
    no such network."""

    image: Judgement | None = None
    gradient: Tensor | None = None

    def detached(self) -> Verdict:
        """The same without the graph behind it."""
        image = self.image
        if image is not None:
            pixels = None if image.pixels is None else image.pixels.detach()
            image = Judgement(
                image.image.detach(), pixels, tuple(x.detach() for x in image.features)
            )
        return Verdict(image, None if self.gradient is None else self.gradient.detach())


@dataclass(frozen=True)
class Discriminators:
    """D_U on images and D_GM on gradient maps; None where no term needs it."""

    image: nn.Module | None = None
    gradient: nn.Module | None = None

    def modules(self) -> dict[str, nn.Module]:
        both = {"discriminator": self.image, "gradient_discriminator": self.gradient}
        return {name: module for name, module in both.items() if module is not None}

    def judge(self, images: Tensor) -> Verdict:
        """images: (N, 3, H, W) float32, nominally 0..1."""
        return Verdict(
            self.image(images) if self.image is not None else None,
            self.gradient(gradient_map(images)) if self.gradient is not None else None,
        )


@dataclass(frozen=True)
class Objective:
    """What a generator is to do. perceptual: the losses "lpips" and "vgg", where asked for.
    batch_mean: over the whole batch, however many processes share it."""

    weights: LossWeights
    perceptual: Mapping[str, nn.Module] = field(default_factory=dict)
    batch_mean: losses.BatchMean = losses.mean_of


def generator_terms(
    objective: Objective,
    output: GeneratorOutput,
    hr: Tensor,
    real: Verdict,
    fake: Verdict,
    shift: tuple[int, int] | None = None,
) -> Terms:
    """The terms of L_G whose weight is not 0, unweighted, by the names of LossWeights.

    hr: (N, 3, H, W) float32, 0..1. real, fake: what is said of HR, and of the output's image.
    shift: how many rows and columns, 0 to 3, LPIPS leaves out before its crop of 4 pixels less
    each way. AlexNet moves in strides of 4, as a pixel shuffle does: where the two always stand
    in step, a grid of period 4 costs LPIPS little.
    """
    weights, real = objective.weights, real.detached()
    sr = output.image.float()
    terms: Terms = {}
    if weights.pixel:
        terms["pixel"] = losses.pixel_loss(sr, hr)
    if weights.squared:
        terms["squared"] = losses.squared_loss(sr, hr)
    if weights.gradient_pixel or weights.gradient_branch:
        hr_map = gradient_map(hr)
    if weights.gradient_branch and output.gradient is not None:
        terms["gradient_branch"] = losses.gradient_branch_loss(output.gradient, hr_map)
    if weights.gradient_pixel:
        terms["gradient_pixel"] = losses.gradient_pixel_loss(gradient_map(sr), hr_map)
    for name, loss in objective.perceptual.items():
        if getattr(weights, name):
            cut = shift if name == "lpips" else None
            terms[name] = loss(_shifted(sr, cut), _shifted(hr, cut))
    if weights.phase:
        terms["phase"] = losses.phase_loss(sr, hr)
    if fake.image is not None and weights.adversarial:
        terms["adversarial"] = losses.adversarial_loss(fake.image)
    if fake.image is not None and real.image is not None and weights.feature_matching:
        features = fake.image.features, real.image.features
        terms["feature_matching"] = losses.feature_matching_loss(*features)
    if fake.gradient is not None and real.gradient is not None and weights.gradient_adversarial:
        terms["gradient_adversarial"] = losses.relativistic_generator_loss(
            fake.gradient, real.gradient, objective.batch_mean
        )
    return terms


def _shifted(image: Tensor, shift: tuple[int, int] | None) -> Tensor:
    if shift is None:
        return image
    (top, left), (height, width) = shift, image.shape[2:]
    return image[:, :, top : top + height - SCALE, left : left + width - SCALE]


class Mixed(NamedTuple):
    """A CutMix: its mask, (N, 1, H, W), 1 where HR shows, and D_U's pixel logits of it."""

    mask: Tensor
    pixels: Tensor


def mixed_from_mask(discriminator: nn.Module, mask: Tensor, hr: Tensor, sr: Tensor) -> Mixed:
    """Have a U-Net judge the CutMix of two batches, (N, 3, H, W); sr is detached here."""
    judged: Judgement = discriminator(mask * hr + (1 - mask) * sr.detach())
    assert judged.pixels is not None, "CutMix is for U-Nets"
    return Mixed(mask, judged.pixels)


def discriminator_terms(
    real: Verdict,
    fake: Verdict,
    mixed: Mixed | None = None,
    batch_mean: losses.BatchMean = losses.mean_of,
) -> Terms:
    """The terms of L_DU and of D_GM's loss: encoder, decoder, consistency, gradient_relativistic.

    real, fake: what is said of HR and of SR.
    """
    terms: Terms = {}
    if real.image is not None and fake.image is not None:
        terms["encoder"] = losses.hinge_loss(real.image.image, fake.image.image)
        if real.image.pixels is not None and fake.image.pixels is not None:
            pixels = real.image.pixels, fake.image.pixels
            terms["decoder"] = losses.hinge_loss(*pixels)
            if mixed is not None:
                terms["consistency"] = losses.consistency_loss(mixed.pixels, *pixels, mixed.mask)
    if real.gradient is not None and fake.gradient is not None:
        terms["gradient_relativistic"] = losses.relativistic_discriminator_loss(
            real.gradient, fake.gradient, batch_mean
        )
    return terms
