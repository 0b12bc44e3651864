"""What the generations of TensorRT's builder have and have not: one table, read by tensorrt.py.

Sources: the Python bindings of each release (github.com/NVIDIA/TensorRT, python/src), the
migration guide from 10 to 11, and TensorRT-RTX itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from srtool.errors import UsageError
from srtool.export.tensorrt.gpus import Support, Target
from srtool.manifest import Flavour
from srtool.runtime.gpu.machine import NAMES, Library


@dataclass(frozen=True)
class Generation:
    """One generation of the API. Flags are names of the module's enumerations.

    first, before: the versions that it spans. network_flags: for create_network. weakly_typed: a
    layer's precision is the builder's choice, unless half_flags and the network pin it. progress:
    the builder takes an IProgressMonitor. timing_cache: it takes one. cross_builds: for other GPUs,
    named by ComputeCapability, without a GPU. preview_features: to switch on, as far as the
    version has them; before_volta: to switch off for GPUs before Volta. platforms: first version
    that builds for Windows on Linux, None for none. strip_flags,
    version_flags, hardware_level: for what a recipe calls strip_weights, version_compatible and
    hardware_compatible, empty where there is no such thing.
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
    version = numbers_of(library.version)
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


def serves(library: Library, support: Support) -> bool:
    """Whether a library builds for a class of GPUs."""
    if library.flavour == "tensorrt-rtx":
        return support.rtx
    version, (first, last) = numbers_of(library.version), support.tensorrt
    # 8.6.1.6 is an 8.6.1: compared are as many numbers as the table has.
    newest = numbers_of(last)
    return version >= numbers_of(first) and (not last or version[: len(newest)] <= newest)


def numbers_of(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
