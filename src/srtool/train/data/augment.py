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
            case "blend":
                colour = self.colours[index]
                return blend(lr, colour, self.weight), blend(hr, colour, self.weight)
            case "rgb":
                return rgb(lr, self.channels), rgb(hr, self.channels)
            case "cutout":
                return cutout(lr, self.dropped[index]), hr.copy()
            case "mixup":
                return mixup(lr, partner_lr, self.weight), mixup(hr, partner_hr, self.weight)
            case "cutmix":
                return cutmix(lr, partner_lr, self.box), cutmix(hr, partner_hr, self.box)
            case "cutmixup":
                how = self.box, self.weight, self.inside
                return cutmixup(lr, partner_lr, *how), cutmixup(hr, partner_hr, *how)
            case "cutblur":
                return cutblur(lr, hr, self.box, self.inside), hr.copy()


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


def blend(image: Image, colour: tuple[float, float, float], weight: float) -> Image:
    """Fade an image towards one colour, the same for LR and HR: weight x image + rest x colour."""
    return _rounded(weight * image + (1 - weight) * np.array(colour))


def rgb(image: Image, channels: tuple[int, int, int]) -> Image:
    """Exchange the colour channels, the same way in LR and HR."""
    return image[..., list(channels)]


def cutout(lr: Image, dropped: tuple[int, ...]) -> Image:
    """Blacken single pixels of the LR image; HR stays whole."""
    out = lr.copy()
    out.reshape(-1, 3)[list(dropped)] = 0
    return out


def mixup(image: Image, partner: Image, weight: float) -> Image:
    """Average with the partner, the same way in LR and HR: weight x image + rest x partner."""
    return _rounded(weight * image + (1 - weight) * partner)


def cutmix(image: Image, partner: Image, box: Box) -> Image:
    """Replace the box by the same box of the partner, in LR and HR alike."""
    out = image.copy()
    out[box.slices] = partner[box.slices]
    return out


def cutmixup(image: Image, partner: Image, box: Box, weight: float, inside: bool) -> Image:
    """Mixup inside the box only, or everywhere but inside it, in LR and HR alike."""
    mixed = mixup(image, partner, weight)
    return cutmix(image, mixed, box) if inside else cutmix(mixed, image, box)


def cutblur(lr: Image, hr: Image, box: Box, inside: bool) -> Image:
    """Make the LR input sharp inside the box, by the HR pixels there, or everywhere but inside it;
    HR stays. What is sharp already must come out unchanged, so the network learns where to act."""
    return cutmix(lr, hr, box) if inside else cutmix(hr, lr, box)


def _rounded(values: NDArray[np.float64]) -> Image:
    return np.rint(values).astype(np.uint8)
