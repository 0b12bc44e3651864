"""Which plan to build: from what was asked for, and from what this machine has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from srtool.errors import UsageError
from srtool.export.tensorrt.builder import generation_of
from srtool.export.tensorrt.gpus import (
    SUPPORT,
    Target,
    local_target,
    numbers_of,
    precision_for,
    serves,
    targets_from_texts,
)
from srtool.export.tensorrt.installing import install
from srtool.manifest import (
    DEFAULT_PROFILE,
    DEFAULT_PROFILES,
    Flavour,
    ModelFacts,
    PlanRecipe,
    PlanSettings,
    Profile,
)
from srtool.runtime.gpu.machine import INSTALL, NAMES, Library, Machine

Precision = Literal["fp32", "fp16", "both"]


class PlanOptions(PlanSettings):
    """What `srtool export` was told of plans, as it was given."""

    flavour: Literal["auto", "none"] | Flavour = "auto"
    gpu: tuple[str, ...] = ()
    shapes: tuple[str, ...] = ()
    timing_cache: Path | None = None

    @property
    def given(self) -> str:
        """Those that ask for something of a plan, in words; empty where none does."""
        wanted = [
            name.replace("_", " ")
            for name, value in self
            if name != "flavour" and not (value is None or value is False or value in ((), ""))
        ]
        return ", ".join(wanted)


def recipe_from_options(
    options: PlanOptions, here: Machine, say: Callable[[str], None] = lambda line: None
) -> PlanRecipe | None:
    """What plan to build; None where none is: that is with flavour none, and where neither a
    flavour nor a GPU was named and this machine has no GPU, or no builder for it.

    UsageError where what was asked for does not exist or is not installed.
    """
    if options.flavour == "none":
        if options.given:
            raise UsageError(
                f"{options.given}: is about a plan, and none is built", parameter="flavour"
            )
        return None
    named = targets_from_texts(options.gpu, here)
    if options.flavour != "auto":
        library_for(options.flavour, named, here)  # before the question which GPU
    elif not named and not here.gpu:
        if options.given:
            raise UsageError(
                f"{options.given}: no plan is built: {here.no_gpu}; name the GPU that it is for",
                parameter="gpu",
                remedy={"gpu": "sm89"},
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
        profiles=tuple(map(profile_from_text, options.shapes)),
        **options.model_dump(include=set(PlanSettings.model_fields)),
    )


def profile_from_text(text: str) -> Profile:
    """MIN,OPT,MAX, each HxW or BxHxW. UsageError where it is not so."""
    parts = [part.strip().lower().split("x") for part in text.split(",")]
    whole = all(number.isascii() and number.isdigit() for part in parts for number in part)
    if len(parts) != 3 or not whole or any(len(part) not in (2, 3) for part in parts):
        raise UsageError(
            f"{text}: expected MIN,OPT,MAX as HxW or BxHxW, such as {DEFAULT_PROFILE}",
            parameter="shapes",
            found=text,
        )
    shapes = [tuple(map(int, part if len(part) == 3 else ["1", *part])) for part in parts]
    try:
        return Profile.model_validate(dict(zip(("min", "opt", "max"), shapes, strict=True)))
    except ValidationError:
        raise UsageError(
            f"{text}: expected 1 <= MIN <= OPT <= MAX in batch, height and width",
            parameter="shapes",
            found=text,
        ) from None


def recipe_for_network(recipe: PlanRecipe, facts: ModelFacts, name: str) -> PlanRecipe:
    """The recipe with its profiles: the default ones as the network takes them, where it has none.
    UsageError where the network, of the file `name`, does not take those that it has."""
    if not recipe.profiles:
        # The first is for four tiles at once.
        default = DEFAULT_PROFILES[1:] if facts.batch else DEFAULT_PROFILES
        fitted = tuple(profile.fitted(facts) for profile in default)
        return recipe.model_copy(update={"profiles": fitted})
    for profile in recipe.profiles:
        sides = (*profile.min[1:], *profile.opt[1:], *profile.max[1:])
        wrong = ""
        if any(side % facts.multiple_of for side in sides):
            wrong = f"sides that are multiples of {facts.multiple_of}"
        elif min(sides) < facts.minimum:
            wrong = f"sides of {facts.minimum} pixels and more"
        elif facts.batch and profile.max[0] > facts.batch:
            wrong = "one image at once"
        if wrong:
            raise UsageError(f"{profile}: {name} takes {wrong}", parameter="shapes")
    return recipe


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
    say(f"{best} for {', '.join(target.name for target in targets)}: {why}")
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


# Whether it can be built


def prepared(
    recipe: PlanRecipe, here: Machine, precision: str, timing_cache: bool, force: bool
) -> tuple[Library, tuple[Target, ...]]:
    """The library that builds a recipe here and what it builds it for; UsageError where nothing
    does, or where the precision is the wrong choice for the GPU. Takes no time."""
    targets = targets_from_texts(recipe.gpus, here)
    library = library_for(recipe.flavour, targets, here)
    check_recipe(library, recipe, targets, here, timing_cache)
    best, why = precision_for(targets)
    if precision != "fp32" and best == "fp32" and not force:
        raise UsageError(
            f"{precision} for the {targets[0].name}: {why}; take fp32, or insist",
            parameter="precision",
            found=precision,
            expected=best,
            remedy={"force": ""},
        )
    return library, targets


def library_for(
    flavour: Literal["auto"] | Flavour, targets: tuple[Target, ...], here: Machine
) -> Library:
    """The installed library that builds for GPUs: of a flavour, or for "auto" TensorRT where it
    can, else TensorRT-RTX. UsageError where there is none, with the command that installs one."""
    if flavour != "auto":
        if library := here.libraries.get(flavour):
            return library
        raise UsageError(
            f"{NAMES[flavour]} is not installed; {install(flavour, targets, here)}",
            parameter="flavour",
            expected=flavour,
        )
    for library in here.libraries.values():
        native = library.flavour == "tensorrt"
        if all(
            serves(library, target.support)
            and (not native or target.support.compute == here.compute)
            for target in targets
        ):
            return library
    wanted: Flavour = "tensorrt-rtx" if all(t.support.rtx for t in targets) else "tensorrt"
    names = " and ".join(target.name for target in targets)
    if library := here.libraries.get(wanted):
        for target in targets:
            _check_target(library, target, here)
    raise UsageError(
        f"{names}: no library that builds for it is installed; {install(wanted, targets, here)}",
        parameter="gpu",
        found=names,
    )


def check_recipe(
    library: Library,
    recipe: PlanRecipe,
    targets: tuple[Target, ...],
    here: Machine,
    timing_cache: bool,
) -> None:
    """UsageError where the library cannot build what was asked for, here or at all."""
    generation, name = generation_of(library), f"{NAMES[library.flavour]} {library.version}"
    for target in targets:
        _check_target(library, target, here)
    if timing_cache and not generation.timing_cache:
        raise UsageError(
            f"{name} times nothing when it builds, and keeps nothing", parameter="timing_cache"
        )
    for option, there in (
        ("version_compatible", generation.version_flags),
        ("hardware_compatible", generation.hardware_level),
        ("strip_weights", generation.strip_flags),
    ):
        if getattr(recipe, option) and not there:
            raise UsageError(f"{name} has no such plans", parameter=option)
    first = generation.platforms
    if recipe.platform and (first is None or numbers_of(library.version) < first):
        raise UsageError(
            f"{recipe.platform}: {name} builds for the platform that it runs on; TensorRT 10.3 and "
            "newer and TensorRT-RTX build for Windows on Linux",
            parameter="platform",
        )
    if recipe.platform and not here.platform.startswith("linux x86_64"):
        raise UsageError(
            f"{recipe.platform}: such plans are built on Linux (x86-64), and this is "
            f"{here.platform}",
            parameter="platform",
        )
    classes = {target.support.compute for target in targets}
    if library.flavour == "tensorrt-rtx" and "7.5" in classes and len(classes) > 1:
        newer = next(target.name for target in targets if target.support.compute != "7.5")
        raise UsageError(
            f"one plan for sm75 and {newer} is slow on the newer one, which cannot use what Turing "
            "lacks; build one for each",
            parameter="gpu",
        )
    if recipe.strip_weights and not here.gpu:
        raise UsageError(
            f"{name} builds such plans on machines with a GPU only", parameter="strip_weights"
        )
    older = [target.name for target in targets if numbers_of(target.support.compute) < (8,)]
    if recipe.hardware_compatible and older:
        raise UsageError(
            f"such plans run on Ampere and newer GPUs, and not on {older[0]}",
            parameter="hardware_compatible",
        )


def _check_target(library: Library, target: Target, here: Machine) -> None:
    name, support = f"{NAMES[library.flavour]} {library.version}", target.support
    if not serves(library, support):
        classes = ", ".join(item.sm for item in SUPPORT if serves(library, item))
        first, last = support.tensorrt
        wanted = "TensorRT-RTX or TensorRT" if support.rtx else f"TensorRT {first} or newer"
        if last:
            wanted = f"TensorRT {last} at the latest"
        raise UsageError(
            f"{target.name}: {name} builds for {classes}, and not for compute capability "
            f"{support.compute} ({support.architecture}), which takes {wanted}",
            parameter="gpu",
            found=support.compute,
            expected=classes,
        )
    if not generation_of(library).cross_builds and support.compute != here.compute:
        found = f"the {here.gpu} ({here.compute})" if here.gpu else "none"
        rtx = INSTALL["tensorrt-rtx"]
        anywhere = f"; TensorRT-RTX builds for it anywhere ({rtx})" if support.rtx else ""
        raise UsageError(
            f"{target.name}: {name} builds only for the GPU of the machine that it runs on, which "
            f"is {found}; run the same command on that machine{anywhere}",
            parameter="gpu",
            found=found,
            remedy={"flavour": "tensorrt-rtx"} if support.rtx else None,
        )
