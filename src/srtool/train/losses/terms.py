"""Every term of the paper's losses, one function each; all return a float32 scalar.

    L_G  = w1 L_adv + w2 L_LPIPS + w3 L_fm + w4 L_pix + w5 L_adv_GM + w6 L_GMpix + w7 L_GBpix
    L_DU = L_enc + L_dec + L_cons
    L_DG = relativistic average loss on gradient maps

Logits and features may be bfloat16 or float16: they are widened first. Where a mean over the
batch stands *inside* a non-linear function (the relativistic losses), it is taken by
`batch_mean`, which several processes replace by a mean over all of them; all other terms are
plain means, which equal shares of a batch may average afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from srtool.networks.generator import SCALE
from srtool.train.discriminators import Judgement

BatchMean = Callable[[Tensor], Tensor]


def mean_of(x: Tensor) -> Tensor:
    """The mean over all elements of this process's batch."""
    return x.mean()


# The generator


def pixel_loss(sr: Tensor, hr: Tensor) -> Tensor:
    """L_pix: mean absolute difference of two images, (N, 3, H, W), 0..1."""
    return F.l1_loss(sr.float(), hr.float())


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


def gradient_pixel_loss(sr_map: Tensor, hr_map: Tensor) -> Tensor:
    """L_GMpix: mean absolute difference of M(SR) and M(HR), (N, 3, H, W)."""
    return F.l1_loss(sr_map.float(), hr_map.float())


def gradient_branch_loss(predicted: Tensor, hr_map: Tensor) -> Tensor:
    """L_GBpix: mean absolute difference of the gradient branch's output and M(HR)."""
    return F.l1_loss(predicted.float(), hr_map.float())


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


def relativistic_generator_loss(
    fake: Tensor, real: Tensor, batch_mean: BatchMean = mean_of
) -> Tensor:
    """L_adv_GM = -(E[log(1 - s(C(r) - E C(f)))] + E[log s(C(f) - E C(r))]) / 2, s the sigmoid.

    fake, real: (N, 1) logits of gradient maps. The half is that of the public SPSR code. Source:
    relativistic average GAN (Jolicoeur-Martineau, 2018), as in ESRGAN and SPSR.
    """
    fake, real = fake.float(), real.float()
    # -log(1 - s(x)) = softplus(x) and -log s(x) = softplus(-x), without overflow
    return (
        F.softplus(real - batch_mean(fake)).mean() + F.softplus(batch_mean(real) - fake).mean()
    ) / 2


# The discriminators


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


def relativistic_discriminator_loss(
    real: Tensor, fake: Tensor, batch_mean: BatchMean = mean_of
) -> Tensor:
    """L_DG = -(E[log s(C(r) - E C(f))] + E[log(1 - s(C(f) - E C(r)))]) / 2: the same as the
    generator's with real and fake exchanged."""
    return relativistic_generator_loss(real, fake, batch_mean)


# CutMix


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


def cutmix_probability(step: int, ramp: int, highest: float) -> float:
    """The chance that a step (1-based) mixes: a linear ramp from 0 to `highest` in `ramp` steps."""
    return highest * min(1.0, step / ramp)
