"""The losses: every term of the paper's as a function that returns a float32 scalar, and which of
them a step asks of each side.

    L_G  = w1 L_adv + w2 L_LPIPS + w3 L_fm + w4 L_pix + w5 L_adv_GM + w6 L_GMpix + w7 L_GBpix
    L_DU = L_enc + L_dec + L_cons
    L_DG = relativistic average loss on gradient maps

Logits and features may be bfloat16 or float16: they are widened first. Where a mean over the
batch stands *inside* a non-linear function (the relativistic losses), it is taken by
`batch_mean`, which several processes replace by a mean over all of them; all other terms are
plain means, which equal shares of a batch may average afterwards.

Both sides learn from one judgement of HR and one of SR: their gradients are taken at the same
weights. The generator's terms take what is said of HR as given, and whoever runs them backward
names the parameters that learn; so no term of one side reaches the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srtool.networks.generator import SCALE, GeneratorOutput, gradient_map
from srtool.train.discriminators import Judgement
from srtool.train.recipe import LossWeights

BatchMean = Callable[[Tensor], Tensor]
Terms = dict[str, Tensor]


# Terms of the generator


def l1_loss(a: Tensor, b: Tensor) -> Tensor:
    """L_pix of two images, L_GMpix of their gradient maps, L_GBpix of the gradient branch's output
    and M(HR): mean absolute difference, (N, 3, H, W)."""
    return F.l1_loss(a.float(), b.float())


def squared_loss(sr: Tensor, hr: Tensor) -> Tensor:
    """Mean squared difference of two images, (N, 3, H, W), 0..1: what PSNR is made of. Not a term
    of the paper. L1 punishes faint texture in smooth areas as hard as a wrong edge, level for
    level; this hardly does, and holds PSNR all the same."""
    return F.mse_loss(sr.float(), hr.float())


def phase_loss(sr: Tensor, hr: Tensor) -> Tensor:
    """What of the error repeats every SCALE pixels. Not a term of the paper.

    The error is averaged over windows of 8x8 blocks of SCALE x SCALE pixels, each place within a
    block by itself; the mean absolute deviation of the SCALE^2 averages from their own mean is 0
    for errors that know nothing of the blocks, and grows with the grid that a pixel shuffle
    leaves. sr, hr: (N, C, H, W), whole blocks; smaller images are one window.
    """
    error = F.pixel_unshuffle(sr.float() - hr.float(), SCALE)
    window = min(8, *error.shape[2:])
    pooled = F.avg_pool2d(error, window, stride=4)
    places = pooled.reshape(pooled.shape[0], -1, SCALE**2, *pooled.shape[2:])
    deviation: Tensor = places - places.mean(2, keepdim=True)
    return deviation.abs().mean()


def adversarial_loss(fake: Judgement) -> Tensor:
    """L_adv = -E[D_enc(SR) + D_dec(SR)]; without a decoder its term is absent."""
    loss = -fake.image.float().mean()
    if fake.pixels is not None:
        loss = loss - fake.pixels.float().mean()
    return loss


def feature_matching_loss(fake: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """L_fm: mean absolute difference between D_U's features of SR and of HR, averaged over all
    blocks. No gradient flows into the features of HR."""
    terms = [F.l1_loss(f.float(), r.detach().float()) for f, r in zip(fake, real, strict=True)]
    return torch.stack(terms).mean()


def relativistic_loss(wanted: Tensor, other: Tensor, batch_mean: BatchMean = torch.mean) -> Tensor:
    """-(E[log s(C(w) - E C(o))] + E[log(1 - s(C(o) - E C(w)))]) / 2, s the sigmoid: the loss of
    whoever wants the logits w above the logits o. L_adv_GM wants those of SR above those of HR,
    L_DG the reverse.

    wanted, other: (N, 1) logits of gradient maps. The half is that of the public SPSR code. Source:
    relativistic average GAN (Jolicoeur-Martineau, 2018), as in ESRGAN and SPSR.
    """
    wanted, other = wanted.float(), other.float()
    # -log s(x) = softplus(-x) and -log(1 - s(x)) = softplus(x), without overflow
    return (
        F.softplus(other - batch_mean(wanted)).mean()
        + F.softplus(batch_mean(other) - wanted).mean()
    ) / 2


# Terms of the discriminators


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """L_enc and L_dec: -E[min(0, -1 + D(HR))] - E[min(0, -1 - D(SR))], over all logits."""
    return F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean()


def consistency_loss(mixed: Tensor, real: Tensor, fake: Tensor, mask: Tensor) -> Tensor:
    """L_cons: squared error between D_dec of a CutMix and the CutMix of D_dec's outputs.

    mixed: D_dec(mask * HR + (1 - mask) * SR). mask: (N, 1, H, W), 1 where HR shows.
    Source: CutMix consistency of the U-Net discriminator.
    """
    mask = mask.float()
    expected = mask * real.float() + (1 - mask) * fake.float()
    return F.mse_loss(mixed.float(), expected)


def cutmix_masks(random: np.random.Generator, batch: int, side: int) -> Tensor:
    """One box for each image: (N, 1, side, side) float32, 1 inside the box on half of the images
    and outside it on the other, by chance. The box covers a uniformly drawn share of the image,
    its centre is uniform and it is cut off at the edges (CutMix, Yun et al. 2019)."""
    masks = np.zeros((batch, 1, side, side), np.float32)
    for mask in masks:
        half = np.sqrt(1 - random.uniform()) * side / 2
        y, x = random.integers(side, size=2)
        top, left = max(0, round(y - half)), max(0, round(x - half))
        mask[:, top : round(y + half), left : round(x + half)] = 1
        if random.integers(2):
            np.subtract(1, mask, out=mask)
    return torch.from_numpy(masks)


# A step


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
    batch_mean: BatchMean = torch.mean


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
        terms["pixel"] = l1_loss(sr, hr)
    if weights.squared:
        terms["squared"] = squared_loss(sr, hr)
    if weights.gradient_pixel or weights.gradient_branch:
        hr_map = gradient_map(hr)
    if weights.gradient_branch and output.gradient is not None:
        terms["gradient_branch"] = l1_loss(output.gradient, hr_map)
    if weights.gradient_pixel:
        terms["gradient_pixel"] = l1_loss(gradient_map(sr), hr_map)
    for name, loss in objective.perceptual.items():
        if getattr(weights, name):
            cut = shift if name == "lpips" else None
            terms[name] = loss(_shifted(sr, cut), _shifted(hr, cut))
    if weights.phase:
        terms["phase"] = phase_loss(sr, hr)
    if fake.image is not None and weights.adversarial:
        terms["adversarial"] = adversarial_loss(fake.image)
    if fake.image is not None and real.image is not None and weights.feature_matching:
        features = fake.image.features, real.image.features
        terms["feature_matching"] = feature_matching_loss(*features)
    if fake.gradient is not None and real.gradient is not None and weights.gradient_adversarial:
        terms["gradient_adversarial"] = relativistic_loss(
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
    batch_mean: BatchMean = torch.mean,
) -> Terms:
    """The terms of L_DU and of D_GM's loss: encoder, decoder, consistency, gradient_relativistic.

    real, fake: what is said of HR and of SR.
    """
    terms: Terms = {}
    if real.image is not None and fake.image is not None:
        terms["encoder"] = hinge_loss(real.image.image, fake.image.image)
        if real.image.pixels is not None and fake.image.pixels is not None:
            pixels = real.image.pixels, fake.image.pixels
            terms["decoder"] = hinge_loss(*pixels)
            if mixed is not None:
                terms["consistency"] = consistency_loss(mixed.pixels, *pixels, mixed.mask)
    if real.gradient is not None and fake.gradient is not None:
        terms["gradient_relativistic"] = relativistic_loss(real.gradient, fake.gradient, batch_mean)
    return terms
