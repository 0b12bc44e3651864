"""What the generations of TensorRT's builder have and have not: one table, read by tensorrt.py.

Sources: the Python bindings of each release (github.com/NVIDIA/TensorRT, python/src), the
migration guide from 10 to 11, and TensorRT-RTX itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from srtool.errors import UsageError
from srtool.export.tensorrt.gpus import PORTABLE, SUPPORT, Support, Target
from srtool.export.tensorrt.installing import install_command
from srtool.manifest import Flavour, PlanRecipe
from srtool.runtime.gpu.plan import INSTALL, NAMES, Library, Machine


@dataclass(frozen=True)
class Generation:
    """One generation of the API. Flags are names of the module's enumerations.

    first, before: the versions that it spans. network_flags: for create_network. weakly_typed: a
    layer's precision is the builder's choice, unless half_flags and the network pin it. progress:
    the builder takes an IProgressMonitor. timing_cache: it takes one. cross_builds: for other GPUs,
    named by ComputeCapability, without a GPU. preview_features: to switch on, as far as the
    version has them; before_volta: to switch off for GPUs before Volta. platforms: first version
    that builds for Windows on Linux, None for none. strip_flags,
    version_flags, hardware_level: for --strip-weights, --version-compatible and
    --hardware-compatible, empty where there is no such thing.
    """

    name: str
    flavour: Flavour
    first: tuple[int, ...]
    before: tuple[int, ...]
    network_flags: tuple[str, ...] = ()
    weakly_typed: bool = False
    half_flags: tuple[str, ...] = ()
    progress: bool = True
    timing_cache: bool = True
    cross_builds: bool = False
    preview_features: tuple[str, ...] = ()
    before_volta: tuple[str, ...] = ()
    platforms: tuple[int, ...] | None = None
    strip_flags: tuple[str, ...] = ("STRIP_PLAN", "REFIT")
    version_flags: tuple[str, ...] = ("VERSION_COMPATIBLE",)
    hardware_level: str = "AMPERE_PLUS"


# From 10.10 on the memory of a context shrinks with its shapes only so.
_SHRINKING = ("RUNTIME_ACTIVATION_RESIZE_10_10",)

GENERATIONS = (
    Generation(
        name="TensorRT 8.6",
        flavour="tensorrt",
        first=(8, 6),
        before=(9,),
        network_flags=("EXPLICIT_BATCH",),
        weakly_typed=True,
        half_flags=("FP16", "OBEY_PRECISION_CONSTRAINTS"),
        progress=False,
        preview_features=("PROFILE_SHARING_0806",),  # several contexts, each on its own stream
        # Without it no kernels of cuDNN, of which Pascal's best convolutions are.
        before_volta=("DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805",),
        strip_flags=(),
    ),
    Generation(
        name="TensorRT 10",
        flavour="tensorrt",
        first=(10,),
        before=(11,),
        network_flags=("EXPLICIT_BATCH", "STRONGLY_TYPED"),
        preview_features=_SHRINKING,
        platforms=(10, 3),
    ),
    Generation(
        name="TensorRT 11",
        flavour="tensorrt",
        first=(11,),
        before=(12,),
        preview_features=_SHRINKING,
        platforms=(11,),
    ),
    Generation(
        name="TensorRT-RTX",
        flavour="tensorrt-rtx",
        first=(1,),
        before=(2,),
        platforms=(1, 4),
        timing_cache=False,  # passing one makes it ask for a GPU
        cross_builds=True,
        version_flags=(),
        hardware_level="",
    ),
)


def generation_of(library: Library) -> Generation:
    """UsageError where srtool does not know that version."""
    version = _numbers(library.version)
    for generation in GENERATIONS:
        spans = generation.first <= version < generation.before
        if generation.flavour == library.flavour and spans:
            return generation
    known = ", ".join(generation.name for generation in GENERATIONS)
    raise UsageError(
        f"{NAMES[library.flavour]} {library.version} is installed, which srtool does not build "
        f"with; it does with {known}"
    )


def precision_for(targets: tuple[Target, ...]) -> tuple[Literal["fp32", "fp16"], str]:
    """The precision that suits GPUs best, and why."""
    for target in targets:
        if target.support.against_fp16:
            return "fp32", target.support.against_fp16
    return "fp16", "FP16 runs faster than FP32 there"


def check_precision(precision: str, targets: tuple[Target, ...]) -> None:
    """UsageError where FP16 was asked for and is the wrong choice."""
    best, why = precision_for(targets)
    if precision != "fp32" and best == "fp32":
        raise UsageError(
            f"--precision {precision}: {why}; take fp32 for {targets[0].name}, or --force to have "
            "it anyway"
        )


def library_for(
    flavour: Literal["auto"] | Flavour, targets: tuple[Target, ...], here: Machine
) -> Library:
    """The installed library that builds for GPUs: of a flavour, or for "auto" TensorRT where it
    can, else TensorRT-RTX. UsageError where there is none, with the command that installs one."""
    if flavour != "auto":
        if library := here.libraries.get(flavour):
            return library
        raise UsageError(
            f"--flavour {flavour}: {NAMES[flavour]} is not installed; "
            + install(flavour, targets, here)
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
            _check_target(generation_of(library), library, target, here)
    raise UsageError(
        f"--gpu {names}: no library that builds for it is installed; "
        + install(wanted, targets, here)
    )


def install(flavour: Flavour, targets: tuple[Target, ...], here: Machine) -> str:
    """The pip command for a library that serves GPUs: of the last version that does."""
    if flavour == "tensorrt" and targets:
        oldest = min(targets, key=lambda target: _numbers(target.support.compute))
        return install_command(oldest, here)
    return INSTALL[flavour]


def check_recipe(
    generation: Generation,
    library: Library,
    recipe: PlanRecipe,
    targets: tuple[Target, ...],
    here: Machine,
    timing_cache: bool,
) -> None:
    """UsageError where the library cannot build what was asked for, here or at all."""
    name = f"{NAMES[library.flavour]} {library.version}"
    for target in targets:
        _check_target(generation, library, target, here)
    if timing_cache and not generation.timing_cache:
        raise UsageError(
            f"--timing-cache: {name} times nothing when it builds; leave the option out"
        )
    missing = [
        option
        for option, wanted, there in (
            ("--version-compatible", recipe.version_compatible, generation.version_flags),
            ("--hardware-compatible", recipe.hardware_compatible, generation.hardware_level),
            ("--strip-weights", recipe.strip_weights, generation.strip_flags),
        )
        if wanted and not there
    ]
    if missing:
        raise UsageError(f"{', '.join(missing)}: {name} has no such plans")
    if recipe.platform:
        _check_platform(generation, library, recipe.platform, here)
    classes = {target.support.compute for target in targets}
    if library.flavour == "tensorrt-rtx" and "7.5" in classes and len(classes) > 1:
        newer = next(target.name for target in targets if target.support.compute != "7.5")
        raise UsageError(
            f"--gpu: one plan for sm75 and {newer} is slow on the newer one, which cannot use what "
            "Turing lacks; build one for each"
        )
    if PORTABLE in recipe.gpus and library.flavour != "tensorrt-rtx":
        raise UsageError(
            f"--gpu {PORTABLE}: is for --flavour tensorrt-rtx; {name} has no such plans"
        )
    if recipe.strip_weights and not here.gpu:
        raise UsageError(f"--strip-weights: {name} builds such plans on machines with a GPU only")
    older = [target.name for target in targets if _numbers(target.support.compute) < (8,)]
    if recipe.hardware_compatible and older:
        raise UsageError(
            f"--hardware-compatible: such plans run on Ampere and newer GPUs, and not on {older[0]}"
        )


def _check_platform(generation: Generation, library: Library, platform: str, here: Machine) -> None:
    name = f"{NAMES[library.flavour]} {library.version}"
    if generation.platforms is None or _numbers(library.version) < generation.platforms:
        raise UsageError(
            f"--platform {platform}: {name} builds for the platform that it runs on; TensorRT 10.3 "
            "and newer and TensorRT-RTX build for Windows on Linux"
        )
    if not here.platform.startswith("linux x86_64"):
        raise UsageError(
            f"--platform {platform}: such plans are built on Linux (x86-64), and this is "
            f"{here.platform}"
        )


def _check_target(generation: Generation, library: Library, target: Target, here: Machine) -> None:
    name, support = f"{NAMES[library.flavour]} {library.version}", target.support
    if not serves(library, support):
        classes = ", ".join(item.sm for item in SUPPORT if serves(library, item))
        raise UsageError(
            f"--gpu {target.name}: {name} builds for {classes}, and not for compute capability "
            f"{support.compute} ({support.architecture}), which takes {advice(support)}"
        )
    if not generation.cross_builds and support.compute != here.compute:
        found = f"the {here.gpu} ({here.compute})" if here.gpu else "none"
        anywhere = (
            f"; `--flavour tensorrt-rtx` builds for it anywhere ({INSTALL['tensorrt-rtx']})"
            if support.rtx
            else ""
        )
        raise UsageError(
            f"--gpu {target.name}: {name} builds only for the GPU of the machine that it runs on, "
            f"which is {found}; run the same command on that machine{anywhere}"
        )


def serves(library: Library, support: Support) -> bool:
    """Whether a library builds for a class of GPUs."""
    if library.flavour == "tensorrt-rtx":
        return support.rtx
    version, (first, last) = _numbers(library.version), support.tensorrt
    # 8.6.1.6 is an 8.6.1: compared are as many numbers as the table has.
    newest = _numbers(last)
    return version >= _numbers(first) and (not last or version[: len(newest)] <= newest)


def advice(support: Support) -> str:
    """The TensorRT for a class of GPUs, in words."""
    first, last = support.tensorrt
    if last:
        return f"TensorRT {last} at the latest"
    return "TensorRT-RTX or TensorRT" if support.rtx else f"TensorRT {first} or newer"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
