"""The training recipe: a YAML file, checked as a whole before any work is done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from srtool.errors import UsageError
from srtool.train.generator import PRESETS, GeneratorConfig

Beta = Annotated[float, Field(ge=0, lt=1)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PretrainStage(Strict):
    """Stage 1: L1 pre-training. Defaults are the paper's."""

    steps: int = Field(55_000, gt=0, description="optimiser steps")
    batch: int = Field(16, gt=0, description="patches a step")
    patch: int = Field(128, ge=8, multiple_of=4, description="side of the HR patch, pixels")
    learning_rate: float = Field(2e-4, gt=0)
    halve_every: int = Field(5_000, gt=0, description="steps between halvings")
    learning_rate_floor: float = Field(1e-7, ge=0)
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    ema: float | None = Field(None, gt=0, lt=1, description="decay of the averaged weights")

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step (1-based)."""
        halvings = (step - 1) // self.halve_every
        return max(self.learning_rate * 0.5**halvings, self.learning_rate_floor)


class Recipe(Strict):
    """Everything that decides a training run but the data."""

    generator: GeneratorConfig = PRESETS["full"]
    seed: int = Field(0, ge=0, lt=2**63)
    precision: Literal["fp32", "bf16"] = "fp32"
    stage1: PretrainStage = PretrainStage()
    validate_every: int = Field(1_000, gt=0, description="steps between validations")
    save_every: int = Field(1_000, gt=0, description="steps between checkpoints")

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
        if unknown := [size for size in sizes if size not in known]:
            raise ValueError(f"unknown size {unknown[0]!r}; {_nearest(unknown[0], known)}")
        # Values, not a GeneratorConfig: pydantic checks their types.
        return {**PRESETS[preset].as_dict(), **sizes}


def recipe_from_file(name: str | Path) -> Recipe:
    """Read a recipe from a path, or one that srtool ships by its bare name ("lite.yaml")."""
    import yaml

    path = Path(name)
    shipped = resources.files("srtool.train") / "recipes" / str(name)
    if path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{name}: cannot be read as a text file ({error})") from None
    elif path.name == str(name) and shipped.is_file():
        text = shipped.read_text(encoding="utf-8")
    else:
        raise UsageError(f"{name}: no such recipe; shipped ones: {', '.join(shipped_recipes())}")
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{name}: is not YAML ({' '.join(str(error).split())})") from None
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise UsageError(f"{name}: a recipe is a mapping of keys, found {type(content).__name__}")
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            model = PretrainStage if first["loc"][0] == "stage1" else Recipe
            reason = f"unknown key; {_nearest(first['loc'][-1], model.model_fields)}"
        raise UsageError(f"{name}: {where}: {reason}") from None


def _nearest(word: object, known: Iterable[str]) -> str:
    """What a misspelt word may have meant, or else all that there is."""
    names = list(known)
    close = get_close_matches(str(word), names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names)}"


def shipped_recipes() -> list[str]:
    folder = resources.files("srtool.train") / "recipes"
    return sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".yaml"))
