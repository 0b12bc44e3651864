"""The training recipe: a YAML file, checked as a whole before any work is done.

It is read from a path, or shipped in recipes/, and may extend another one:

    extends: paper.yaml        # a file beside this one, or a shipped recipe
    stage2:
      weights: {lpips: 0}      # all else stays as it is there; null takes a part away
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import fields
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from srtool.errors import UsageError
from srtool.networks.generator import PRESETS, GeneratorConfig
from srtool.train.data.augment import Mixture, Strict
from srtool.train.discriminators import DIVISOR, DiscriminatorConfig, GradientDiscriminatorConfig

Beta = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0)]


class LossWeights(Strict):
    """The weights of L_G. The paper prints five numbers for seven terms: those of feature
    matching and of the gradient adversarial loss are this project's reading. A term of weight 0
    is not computed. vgg replaces lpips in the paper's ablation; squared and phase are not the
    paper's."""

    adversarial: Weight = 0.005
    lpips: Weight = 0.001
    vgg: Weight = 0.0
    feature_matching: Weight = 1.0
    pixel: Weight = 0.01
    gradient_adversarial: Weight = 0.005
    gradient_pixel: Weight = 0.01
    gradient_branch: Weight = 0.5
    squared: Weight = 0.0
    phase: Weight = 0.0


class PretrainStage(Strict):
    """Stage 1: L1 pre-training. Defaults are the paper's."""

    steps: int = Field(500_000, gt=0, description="optimiser steps")
    batch: int = Field(16, gt=0, description="patches a step, over all processes")
    patch: int = Field(128, ge=8, multiple_of=4, description="side of the HR patch, pixels")
    learning_rate: float = Field(2e-4, gt=0)
    decay: Literal["halving", "cosine"] = Field("cosine", description="cosine: over all steps")
    ramp: int = Field(0, ge=0, description="first steps, in which the learning rate rises from 0")
    halve_every: int = Field(5_000, gt=0, description="steps between halvings")
    learning_rate_floor: float = Field(1e-7, ge=0)
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    ema: float | None = Field(None, gt=0, lt=1, description="decay of the averaged weights")
    gradient_branch: Weight = Field(0.0, description="weight of L_GBpix beside L1; the paper: 0")
    augment: Mixture | None = Mixture()

    @property
    def weights(self) -> LossWeights:
        """Those of L1 alone, and of L_GBpix where it is asked for."""
        none = dict.fromkeys(LossWeights.model_fields, 0.0)
        return LossWeights(**{**none, "pixel": 1, "gradient_branch": self.gradient_branch})

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step (1-based)."""
        risen = min(1.0, step / self.ramp) if self.ramp else 1.0
        if self.decay == "cosine":
            rest = self.learning_rate - self.learning_rate_floor
            return risen * (self.learning_rate_floor + rest * _cosine(step, self.steps))
        halvings = (step - 1) // self.halve_every
        return risen * max(self.learning_rate * 0.5**halvings, self.learning_rate_floor)


def _cosine(step: int, steps: int) -> float:
    """From 1 at the first step (1-based) to all but 0 at the last."""
    return 0.5 + 0.5 * math.cos(math.pi * (step - 1) / steps)


class CutMix(Strict):
    """Consistency of the U-Net discriminator: how often a step mixes HR and SR."""

    probability: float = Field(0.5, ge=0, le=1, description="at the end of the ramp")
    ramp: int = Field(100_000, gt=0, description="steps until then")

    def probability_at(self, step: int) -> float:
        """The chance that a step (1-based) mixes: a straight line from 0 to the end of the ramp."""
        return self.probability * min(1.0, step / self.ramp)


class AdversarialStage(Strict):
    """Stage 2: all losses, generator and discriminators in turn. Defaults are the paper's."""

    steps: int = Field(400_000, gt=0, description="optimiser steps")
    batch: int = Field(16, gt=0, description="patches a step, over all processes")
    patch: int = Field(128, ge=DIVISOR, multiple_of=DIVISOR, description="HR patch, pixels")
    learning_rate: float = Field(1e-4, gt=0)
    discriminator_learning_rate: float | None = Field(None, gt=0, description="if another")
    decay: Literal["halving", "cosine"] = Field("halving", description="cosine: over all steps")
    halve_at: tuple[int, ...] = (50_000, 100_000, 200_000, 300_000)
    warm_up: int = Field(0, ge=0, description="first steps, in which only discriminators learn")
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    ema: float | None = Field(None, gt=0, lt=1, description="decay of the averaged weights")
    weights: LossWeights = LossWeights()
    lpips_shift: bool = Field(False, description="LPIPS of patches shifted by 0 to 3 pixels")
    cutmix: CutMix = CutMix()
    augment: Mixture | None = Mixture()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    gradient_discriminator: GradientDiscriminatorConfig = GradientDiscriminatorConfig()

    def learning_rate_at(self, step: int) -> float:
        """The generator's learning rate of a step (1-based)."""
        if self.decay == "cosine":
            return self.learning_rate * _cosine(step, self.steps)
        return self.learning_rate * 0.5 ** sum(step > halving for halving in self.halve_at)

    def discriminator_learning_rate_at(self, step: int) -> float:
        """The discriminators' learning rate of a step (1-based): falls with the generator's."""
        first = self.discriminator_learning_rate or self.learning_rate
        return first / self.learning_rate * self.learning_rate_at(step)


Stage: TypeAlias = PretrainStage | AdversarialStage


class Recipe(Strict):
    """Everything that decides a training run but the data."""

    generator: GeneratorConfig = PRESETS["full"]
    seed: int = Field(0, ge=0, lt=2**63)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = Field(False, description="torch.compile: slow to start, faster on a GPU")
    accumulate: int = Field(1, gt=0, description="parts that a batch is computed in")
    clip_norm: float | None = Field(None, gt=0, description="largest norm of a gradient")
    stage1: PretrainStage | None = PretrainStage()
    stage2: AdversarialStage | None = None
    validate_every: int = Field(1_000, gt=0, description="steps between validations")
    save_every: int = Field(1_000, gt=0, description="steps between checkpoints")
    keep: int = Field(2, gt=0, description="checkpoints kept; the best weights are beside them")

    @property
    def stages(self) -> dict[str, Stage]:
        """Those that there are, by name, the first one first."""
        given: dict[str, Stage | None] = {"stage1": self.stage1, "stage2": self.stage2}
        return {name: stage for name, stage in given.items() if stage}

    @field_validator("generator", mode="before")
    @classmethod
    def _preset(cls, value: Any) -> Any:
        """A preset's name, or a mapping of sizes with an optional preset to start from."""
        if isinstance(value, str):
            value = {"preset": value}
        if not isinstance(value, dict):
            return value
        sizes = dict(value)
        preset = sizes.pop("preset", "full")
        if str(preset) not in PRESETS:
            raise ValueError(f"unknown preset {preset!r}; {_nearest(preset, PRESETS)}")
        known = [field.name for field in fields(GeneratorConfig)]
        if unknown := [size for size in sizes if size not in known]:  # of a dataclass
            raise ValueError(f"unknown size {unknown[0]!r}; {_nearest(unknown[0], known)}")
        # Values, not a GeneratorConfig: pydantic checks their types.
        return {**PRESETS[preset].as_dict(), **sizes}

    @model_validator(mode="after")
    def _fits(self) -> Recipe:
        if not self.stages:
            raise ValueError("has neither stage1 nor stage2; give one of them")
        if self.stage2 and not any(self.stage2.weights.model_dump().values()):
            raise ValueError("stage2.weights: all of them are 0; a generator would learn nothing")
        for name, stage in self.stages.items():
            if stage.batch % self.accumulate:
                raise ValueError(
                    f"accumulate {self.accumulate} does not divide the batch {stage.batch}"
                )
            if stage.weights.gradient_branch and not self.generator.taps:
                weights = name if stage is self.stage1 else f"{name}.weights"
                raise ValueError(
                    f"{weights}.gradient_branch is set, but the generator has no taps and so no "
                    "gradient branch; set it to 0"
                )
            if stage.augment and self.generator.head == "plain":
                raise ValueError(
                    f"{name}.augment mixes pixels of LR and HR, which a plain head cannot take; "
                    "set it to null, or generator.head to unshuffle"
                )
        return self


def recipe_from_file(name: str | Path) -> Recipe:
    """Read a recipe from a path, or one that srtool ships by its bare name ("lite.yaml").

    UsageError in one line for a file that is missing or no recipe, and for a key or value that
    is not allowed, with the nearest name that is.
    """
    try:
        return Recipe.model_validate(_content(str(name), Path(), ()))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            known = _model_at(Recipe, first["loc"][:-1]).model_fields
            reason = f"unknown key; {_nearest(first['loc'][-1], known)}"
        raise UsageError(f"{name}: {where + ': ' if where else ''}{reason}") from None


def shipped_recipes() -> list[str]:
    folder = resources.files("srtool.train") / "recipes"
    return sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def _content(name: str, folder: Path, below: tuple[str, ...]) -> dict[str, Any]:
    """The mapping in a recipe, with those that it extends under it. below: files being read."""
    import yaml

    path, text = _text(name, folder, below)
    if path in below:
        raise UsageError(f"{name}: extends itself, through {' -> '.join((*below, path))}")
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{name}: is not YAML ({' '.join(str(error).split())[:200]})") from None
    if not content:
        raise UsageError(
            f"{name}: is empty; expected a recipe, such as `extends: paper.yaml` alone"
        )
    if not isinstance(content, dict):
        raise UsageError(f"{name}: a recipe is a mapping of keys, found {type(content).__name__}")
    parent = content.pop("extends", None)
    if parent is None:
        return content
    if not isinstance(parent, str):
        raise UsageError(f"{name}: extends: expected the name of a recipe, found {parent!r}")
    joined: dict[str, Any] = _over(_content(parent, Path(path).parent, (*below, path)), content)
    return joined


def _text(name: str, folder: Path, below: tuple[str, ...]) -> tuple[str, str]:
    """The path and the text of a recipe: a file wins over a shipped recipe of its name."""
    path = folder / name
    shipped = resources.files("srtool.train") / "recipes" / name
    if path.is_file():
        try:
            return str(path), path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{name}: cannot be read as a text file ({error})") from None
    if Path(name).name == name and shipped.is_file():
        return name, shipped.read_text(encoding="utf-8")
    child = f"{below[-1]}: extends " if below else ""
    raise UsageError(f"{child}{name}: no such recipe; shipped ones: {', '.join(shipped_recipes())}")


def _over(below: Any, above: Any) -> Any:
    """`above` laid over `below`: mappings are joined key by key, everything else is replaced. A
    preset starts anew, since sizes of another one would not fit it."""
    if isinstance(below, str) and isinstance(above, dict):  # sizes over a preset's name
        below = {"preset": below}
    if not (isinstance(below, dict) and isinstance(above, dict)) or "preset" in above:
        return above
    return {**below, **{key: _over(below.get(key), value) for key, value in above.items()}}


def _model_at(model: type[BaseModel], path: tuple[int | str, ...]) -> type[BaseModel]:
    """The model that a path of keys leads to; Optional[...] is looked through."""
    for key in path:
        annotation = model.model_fields[str(key)].annotation
        inner = [annotation, *get_args(annotation)]
        model = next(x for x in inner if isinstance(x, type) and issubclass(x, BaseModel))
    return model


def _nearest(word: object, known: Iterable[str]) -> str:
    """What a misspelt word may have meant, or else all that there is."""
    names = list(known)
    close = get_close_matches(str(word), names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names)}"
