"""Which plan to build: from what was asked for, and from what this machine has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from srtool.errors import UsageError
from srtool.export.tensorrt.editions import library_for, precision_for
from srtool.export.tensorrt.gpus import local_target, targets_from_texts
from srtool.export.tensorrt.plans import prepared
from srtool.manifest import DEFAULT_PROFILE, DEFAULT_PROFILES, Flavour, PlanRecipe, Profile
from srtool.runtime.gpu.plan import Machine

Precision = Literal["fp32", "fp16", "both"]


# Of the options those that stand in the recipe as they were given.
_ALIKE = (
    "workspace", "opt_level", "tiling", "aux_streams", "platform", "version_compatible",
    "hardware_compatible", "strip_weights",
)  # fmt: skip


@dataclass(frozen=True)
class PlanOptions:
    """The options of `srtool export` that are about plans, as they were given."""

    flavour: Literal["auto", "none"] | Flavour = "auto"
    gpu: tuple[str, ...] = ()
    shapes: tuple[str, ...] = ()
    workspace: int | None = None
    timing_cache: Path | None = None
    opt_level: int | None = None
    tiling: int | None = None
    aux_streams: int | None = None
    platform: Literal["", "windows"] = ""
    version_compatible: bool = False
    hardware_compatible: bool = False
    strip_weights: bool = False

    @property
    def given(self) -> str:
        """Those that ask for something of a plan, in words; empty where none does."""
        wanted = [
            f"--{name.replace('_', '-')}"
            for name, value in vars(self).items()
            if name != "flavour" and not (value is None or value is False or value in ((), ""))
        ]
        return ", ".join(wanted)


def recipe_from_options(
    options: PlanOptions, here: Machine, say: Callable[[str], None] = lambda line: None
) -> PlanRecipe | None:
    """What plan to build; None where none is: that is with --flavour none, and where neither a
    flavour nor a GPU was named and this machine has no GPU, or no builder for it.

    UsageError where what was asked for does not exist or is not installed.
    """
    if options.flavour == "none":
        if options.given:
            raise UsageError(f"{options.given}: with --flavour none no plan is built")
        return None
    named = targets_from_texts(options.gpu, here)
    if options.flavour != "auto":
        library_for(options.flavour, named, here)  # before the question which GPU
    elif not named and not here.gpu:
        if options.given:
            raise UsageError(
                f"{options.given}: no plan is built, for this machine has no NVIDIA GPU; name the "
                "GPU that it is for: --gpu sm89"
            )
        return None
    try:
        library = library_for(options.flavour, named or (local_target(here),), here)
    except UsageError as error:
        if options.given or options.flavour != "auto":
            raise
        say(f"no plan is built: {error}")
        return None
    return PlanRecipe(
        flavour=library.flavour,
        gpus=options.gpu or ("local",),
        profiles=tuple(map(profile_from_text, options.shapes)) or DEFAULT_PROFILES,
        **{name: getattr(options, name) for name in _ALIKE},
    )


def profile_from_text(text: str) -> Profile:
    """What `--shapes` says: MIN,OPT,MAX, each HxW or BxHxW. UsageError where it is not so."""
    parts = [part.strip().lower().split("x") for part in text.split(",")]
    whole = all(number.isascii() and number.isdigit() for part in parts for number in part)
    if len(parts) != 3 or not whole or any(len(part) not in (2, 3) for part in parts):
        raise UsageError(
            f"--shapes {text}: expected MIN,OPT,MAX as HxW or BxHxW, such as {DEFAULT_PROFILE}"
        )
    shapes = [tuple(map(int, part if len(part) == 3 else ["1", *part])) for part in parts]
    try:
        return Profile.model_validate(dict(zip(("min", "opt", "max"), shapes, strict=True)))
    except ValidationError:
        raise UsageError(
            f"--shapes {text}: expected 1 <= MIN <= OPT <= MAX in batch, height and width"
        ) from None


def precision_from_recipe(
    asked: Literal["auto"] | Precision,
    recipe: PlanRecipe | None,
    here: Machine,
    timing_cache: bool,
    force: bool,
    say: Callable[[str], None] = lambda line: None,
) -> Precision:
    """The precision of the engine files: "auto" is fp32, and for a plan what suits its GPU best.

    Everything that can be wrong with the recipe is looked at here, for the .onnx file that comes
    before the plan takes minutes: UsageError.
    """
    if recipe is None:
        return "fp32" if asked == "auto" else asked
    _, targets = prepared(recipe, here, "fp32" if asked == "auto" else asked, timing_cache, force)
    if asked != "auto":
        return asked
    best, why = precision_for(targets)
    say(f"--precision auto: {best} for {', '.join(target.name for target in targets)}: {why}")
    return best


def plans_of(target: Path, auto: bool, precision: Precision) -> dict[Path, Path]:
    """Which plan is made of which .onnx file of an export to `target`.

    x4.plan comes of x4.onnx. Where fp16 was chosen for the GPU (auto), x4.onnx is fp32 for the
    other backends, and x4.plan comes of x4.fp16.onnx. With "both", so does x4.fp16.plan.
    """
    half = target.with_name(f"{target.stem}.fp16.onnx")
    if auto and precision == "fp16":
        return {half: target.with_suffix(".plan")}
    plans = {target: target.with_suffix(".plan")}
    return plans | {half: half.with_suffix(".plan")} if precision == "both" else plans
