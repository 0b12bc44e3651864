"""Mixture of augmentations (MoA): for every batch one of seven ways to mix LR and HR pixels.

Source: Yoo, Ahn, Sohn, "Rethinking Data Augmentation for Image Super-resolution", CVPR 2020, and
its official code (github.com/clovaai/cutblur: augments.py, option.py, solver.py). As there, the LR
image is nearest-upsampled to HR size first, and one draw (kind, box, weight, partners) serves the
whole batch; only the colours of blend and the pixels of cutout are each sample's own. Boxes stand
at any pixel, as published, and need not follow the 4x4 blocks that the generator's head
un-shuffles: a block on a box's edge then holds pixels of both sides, each above its own target.

One thing differs. The official code multiplies output and target by the mask of cutout before its
L1 loss. Here no mask is kept: the dropped pixels, one in a thousand, have up to fifteen copies in
the upsampled LR image, so the target stays well defined, and black dots punched into output and
target would be texture to the discriminators and the feature losses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

Kind = Literal["none", "blend", "rgb", "cutout", "mixup", "cutmix", "cutmixup", "cutblur"]
KINDS: tuple[Kind, ...] = get_args(Kind)[1:]

Image = NDArray[np.uint8]


class Strict(BaseModel):
    """Refuses unknown keys and numbers that are not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Chances(Strict):
    """One number in [0, 1] for each augmentation."""

    blend: float = Field(1.0, ge=0, le=1)
    rgb: float = Field(1.0, ge=0, le=1)
    cutout: float = Field(1.0, ge=0, le=1)
    mixup: float = Field(1.0, ge=0, le=1)
    cutmix: float = Field(1.0, ge=0, le=1)
    cutmixup: float = Field(1.0, ge=0, le=1)
    cutblur: float = Field(1.0, ge=0, le=1)


class Alphas(Strict):
    """How strong each augmentation is; rgb has no strength. Leave one out by its choice, not here:
    the official code takes alpha 0 for "off", which is refused."""

    blend: float = Field(0.6, gt=0, le=1, description="least share that the image keeps")
    cutout: float = Field(0.001, gt=0, lt=1, description="chance of a pixel to be dropped")
    mixup: float = Field(1.2, gt=0, description="a of the share, drawn from Beta(a, a)")
    cutmix: float = Field(0.7, gt=0, le=1, description="mean side of the box, in patch sides")
    cutmixup: float = Field(0.7, gt=0, le=1, description="mean side of the box, in patch sides")
    cutblur: float = Field(0.7, gt=0, le=1, description="mean side of the box, in patch sides")


class Auxiliary(Strict):
    """The mixup within cutmixup; where its chance fails, the partner stands unmixed instead."""

    probability: float = Field(1.0, ge=0, le=1)
    alpha: float = Field(1.2, gt=0, description="a of the share, drawn from Beta(a, a)")


class Mixture(Strict):
    """Which augmentations a run uses.

    A batch gets one augmentation, drawn in proportion to `choice`, and that one is applied with
    its `probability` (a single number sets all seven), else nothing is. Defaults are those of
    option.py in the official code for x4 SR of bicubic LR with large networks (EDSR, RCAN): all
    choices even, all probabilities 1. It sets probability 0.2 for the small CARN, 0.6 for
    denoising and JPEG artefacts, and for RealSR choice 0.4 for cutblur and 0.1 for each other;
    alphas are the same everywhere.
    """

    choice: Chances = Chances()
    probability: Chances = Chances()
    alpha: Alphas = Alphas()
    auxiliary: Auxiliary = Auxiliary()

    @field_validator("probability", mode="before")
    @classmethod
    def _same_for_all(cls, value: Any) -> Any:
        return dict.fromkeys(KINDS, value) if isinstance(value, int | float) else value

    @field_validator("choice")
    @classmethod
    def _something_to_choose(cls, choice: Chances) -> Chances:
        if not any(getattr(choice, kind) for kind in KINDS):
            raise ValueError("is 0 for every augmentation; leave one above 0, or set probability 0")
        return choice


def forced(config: Mixture, kind: Kind) -> Mixture:
    """The same mixture with one kind certain ("none": with nothing ever applied)."""
    if kind == "none":
        return config.model_copy(update={"probability": Chances(**dict.fromkeys(KINDS, 0.0))})
    only = Chances(**{other: float(other == kind) for other in KINDS})
    return config.model_copy(update={"choice": only, "probability": only})


@dataclass(frozen=True)
class Box:
    """A square of pixels."""

    top: int
    left: int
    side: int

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.top + self.side), slice(self.left, self.left + self.side)


@dataclass(frozen=True)
class Mixing:
    """All random decisions of one batch, so that samples can be made one by one.

    partners[i] is the sample mixed into sample i, i itself where the kind mixes nothing in.
    Each kind reads the fields it needs; the others stand at values that change nothing.
    """

    kind: Kind
    partners: tuple[int, ...]
    weight: float = 1.0  # share of the sample itself where pixels are averaged
    box: Box = Box(0, 0, 0)
    inside: bool = True  # whether the box takes the change or is spared from it
    colours: tuple[tuple[float, float, float], ...] = ()  # one a sample, each value in [0, 255)
    channels: tuple[int, int, int] = (0, 1, 2)
    dropped: tuple[tuple[int, ...], ...] = ()  # per sample: row-major numbers of pixels

    def apply(
        self, index: int, lr: Image, hr: Image, partner_lr: Image, partner_hr: Image
    ) -> tuple[Image, Image]:
        """Augment sample `index` of the batch.

        All arrays are (p, p, 3) RGB uint8, LR nearest-upsampled to HR size; the partner's are
        those of sample partners[index] before any augmentation. Returns new arrays (lr, hr) of
        the same form; inputs are not changed. Averages are rounded to the nearest level.
        """
        assert lr.shape == hr.shape == partner_lr.shape == partner_hr.shape
        match self.kind:
            case "none":
                return lr.copy(), hr.copy()
            case "blend":  # fade towards one colour
                colour = np.array(self.colours[index])
                return _mean(lr, colour, self.weight), _mean(hr, colour, self.weight)
            case "rgb":  # exchange the colour channels
                channels = list(self.channels)
                return lr[..., channels], hr[..., channels]
            case "cutout":  # blacken single pixels of LR alone
                lr = lr.copy()
                lr.reshape(-1, 3)[list(self.dropped[index])] = 0
                return lr, hr.copy()
            case "mixup":  # average with the partner
                return _mean(lr, partner_lr, self.weight), _mean(hr, partner_hr, self.weight)
            case "cutmix":  # the partner's pixels in the box
                return self._boxed(lr, partner_lr), self._boxed(hr, partner_hr)
            case "cutmixup":  # mixup in the box, or everywhere else
                return (
                    self._boxed(lr, _mean(lr, partner_lr, self.weight)),
                    self._boxed(hr, _mean(hr, partner_hr, self.weight)),
                )
            case "cutblur":
                # LR is sharp in the box, or everywhere else, by the pixels of HR, which stays. What
                # is sharp already must come out unchanged, so the network learns where to act
                return self._boxed(lr, hr), hr.copy()

    def _boxed(self, image: Image, change: Image) -> Image:
        """The image with the change in the box, or everywhere else."""
        inner, outer = (change, image) if self.inside else (image, change)
        out = outer.copy()
        out[self.box.slices] = inner[self.box.slices]
        return out


def _mean(image: Image, other: NDArray[Any], weight: float) -> Image:
    """weight x image + rest x other, another image or a colour, rounded to the nearest level."""
    return np.rint(weight * image + (1 - weight) * other).astype(np.uint8)


def mixing_from_random(
    config: Mixture, random: np.random.Generator, batch: int, patch: int
) -> Mixing:
    """Draw the decisions for a batch of `batch` patches with sides of `patch` HR pixels.

    Distributions as in the official code: the side of a box is normal with standard deviation
    0.01 around alpha (in patch sides, here clipped to the patch), its place uniform; the share of
    a blend is uniform in [alpha, 1), its colours in [0, 255); partners are a random permutation,
    in which a sample may meet itself.
    """
    choice = np.array([getattr(config.choice, kind) for kind in KINDS])
    kind = KINDS[int(random.choice(len(KINDS), p=choice / choice.sum()))]
    alone = tuple(range(batch))
    if random.random() >= getattr(config.probability, kind):
        return Mixing("none", alone)
    alpha = config.alpha
    match kind:
        case "blend":
            weight = float(random.uniform(alpha.blend, 1))
            colours = tuple((r, g, b) for r, g, b in random.uniform(0, 255, (batch, 3)).tolist())
            return Mixing(kind, alone, weight=weight, colours=colours)
        case "rgb":
            red, green, blue = random.permutation(3).tolist()
            return Mixing(kind, alone, channels=(red, green, blue))
        case "cutout":
            drops = random.random((batch, patch * patch)) < alpha.cutout
            dropped = tuple(tuple(np.flatnonzero(sample).tolist()) for sample in drops)
            return Mixing(kind, alone, dropped=dropped)
        case "mixup":
            weight = float(random.beta(alpha.mixup, alpha.mixup))
            return Mixing(kind, _partners(random, batch), weight=weight)
        case "cutmix":
            return Mixing(kind, _partners(random, batch), box=_box(random, alpha.cutmix, patch))
        case "cutmixup":
            auxiliary = config.auxiliary
            weight = float(random.beta(auxiliary.alpha, auxiliary.alpha))
            return Mixing(
                kind,
                _partners(random, batch),
                weight=weight if random.random() < auxiliary.probability else 0.0,
                box=_box(random, alpha.cutmixup, patch),
                inside=bool(random.random() < 0.5),
            )
        case _:
            box = _box(random, alpha.cutblur, patch)
            return Mixing("cutblur", alone, box=box, inside=bool(random.random() < 0.5))


def _partners(random: np.random.Generator, batch: int) -> tuple[int, ...]:
    return tuple(random.permutation(batch).tolist())


def _box(random: np.random.Generator, alpha: float, patch: int) -> Box:
    ratio = min(max(alpha + 0.01 * random.standard_normal(), 0), 1)
    side = int(patch * ratio)
    top, left = random.integers(0, patch - side + 1, 2).tolist()
    return Box(top, left, side)
