"""A TensorRT plan out of an .onnx file, by the builder of any generation: one table says what each
has and has not.

Sources of the table: the Python bindings of each release (github.com/NVIDIA/TensorRT, python/src),
the migration guide from 10 to 11, and TensorRT-RTX itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srtool.errors import ExportError, UsageError
from srtool.export.tensorrt.gpus import PORTABLE, Target, numbers_of
from srtool.interrupts import interrupts_held
from srtool.manifest import Flavour, ModelFacts, PlanRecipe
from srtool.runtime.gpu.machine import NAMES, Library, log_of

Report = Callable[[float, str], None]  # share of the build that is done, and the phase

# Values pass these unchanged, whatever precision a layer has.
_NO_ARITHMETIC = {"Cast", "Concat", "Constant", "Pad", "Resize", "Slice", "Transpose"}


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


@dataclass(frozen=True)
class Blueprint:
    """What a plan is made of, and for which GPUs. source: an .onnx file that computes `facts`."""

    source: Path
    facts: ModelFacts
    recipe: PlanRecipe
    targets: tuple[Target, ...]


@dataclass(frozen=True)
class Plan:
    """A built plan. timing_cache: what the builder measured, None where it keeps nothing."""

    content: bytes
    seconds: float
    timing_cache: bytes | None = None


def flags_of(generation: Generation, recipe: PlanRecipe, facts: ModelFacts) -> tuple[str, ...]:
    """Names of the builder flags that a plan is built with. TF32, which is on by default, would
    round the operands of FP32 convolutions to 10 bits: it is off, and that is a flag too."""
    flags = ["-TF32"]
    if generation.weakly_typed and facts.precision != "fp32":
        flags += generation.half_flags
    if recipe.version_compatible:
        flags += generation.version_flags
    if recipe.strip_weights:
        flags += generation.strip_flags
    return tuple(flags)


def plan_from_onnx(
    module: Any,
    generation: Generation,
    blueprint: Blueprint,
    timing_cache: bytes | None = None,
    report: Report = lambda share, phase: None,
) -> Plan:
    """Build a plan.

    module: the library's Python module, of that generation. timing_cache: what an earlier build
    measured, b"" for a new one, None for none.
    ExportError where the parser or the builder refuses; KeyboardInterrupt ends a build soon where
    the generation has a progress monitor, else after it.
    """
    source, facts, recipe = blueprint.source, blueprint.facts, blueprint.recipe
    log = log_of(module)
    log.lines.clear()
    builder = module.Builder(log)
    flags = (
        getattr(module.NetworkDefinitionCreationFlag, name) for name in generation.network_flags
    )
    network = builder.create_network(sum(1 << int(flag) for flag in flags))
    # Holds the weights until the build is over.
    parser = module.OnnxParser(network, log)
    if not parser.parse(source.read_bytes(), str(source)):  # weights may be beside it
        errors = [parser.get_error(number).desc() for number in range(parser.num_errors)]
        raise ExportError(f"{source}: {generation.name} cannot read it ({last_line(errors)})")
    if generation.weakly_typed and facts.precision != "fp32":
        _pin(module, network, float32_nodes(source))
    config = builder.create_builder_config()
    _configure(module, generation, config, blueprint)
    if PORTABLE not in recipe.gpus:
        _aim(module, generation, config, blueprint.targets)
    image = network.get_input(0).name
    for profile in recipe.profiles:
        shapes = [_input_shape(shape, facts) for shape in (profile.min, profile.opt, profile.max)]
        shaped = builder.create_optimization_profile()
        shaped.set_shape(image, *shapes)
        if config.add_optimization_profile(shaped) < 0:
            raise UsageError(f"{profile}: {last_line(log.lines)}", parameter="shapes")
    cache = None
    if timing_cache is not None:
        cache = config.create_timing_cache(timing_cache)
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            raise UsageError(
                f"the timing cache is not of {generation.name} and this GPU "
                f"({last_line(log.lines)}); delete the file, or name another",
                parameter="timing_cache",
            )
    start = time.perf_counter()
    with interrupts_held() as interrupted:  # raised in a callback, it would end the process
        if generation.progress:
            config.progress_monitor = _monitor(module, report, interrupted)
        built = builder.build_serialized_network(network, config)
    if built is None:
        raise ExportError(
            f"{source}: {generation.name} built no plan of it ({last_line(log.lines)})"
        )
    seconds = time.perf_counter() - start
    measured = bytes(config.get_timing_cache().serialize()) if cache is not None else None
    return Plan(bytes(built), seconds, measured)


def _configure(module: Any, generation: Generation, config: Any, blueprint: Blueprint) -> None:
    recipe = blueprint.recipe
    for name in flags_of(generation, recipe, blueprint.facts):
        if name.startswith("-"):
            config.clear_flag(getattr(module.BuilderFlag, name[1:]))
        else:
            config.set_flag(getattr(module.BuilderFlag, name))
    before_volta = any(float(target.support.compute) < 7 for target in blueprint.targets)
    for names, wanted in (
        (generation.preview_features, True),
        (generation.before_volta if before_volta else (), False),
    ):
        for name in names:
            if hasattr(module.PreviewFeature, name):
                config.set_preview_feature(getattr(module.PreviewFeature, name), wanted)
    if recipe.workspace is not None:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, recipe.workspace << 20)
    if recipe.opt_level is not None:
        config.builder_optimization_level = recipe.opt_level
    if recipe.tiling is not None:
        if not hasattr(module, "TilingOptimizationLevel"):  # of newer versions
            raise UsageError(
                f"{module.__name__} {module.__version__} has no such setting", parameter="tiling"
            )
        level = ("NONE", "FAST", "MODERATE", "FULL")[recipe.tiling]
        config.tiling_optimization_level = getattr(module.TilingOptimizationLevel, level)
    if recipe.aux_streams is not None:
        config.max_aux_streams = recipe.aux_streams
    if recipe.platform:
        config.runtime_platform = module.RuntimePlatform.WINDOWS_AMD64
    if recipe.hardware_compatible:
        level = getattr(module.HardwareCompatibilityLevel, generation.hardware_level)
        config.hardware_compatibility_level = level


def _aim(module: Any, generation: Generation, config: Any, targets: tuple[Target, ...]) -> None:
    """Name the classes of GPUs to a builder that is not on one of them."""
    if not generation.cross_builds:
        return
    config.num_compute_capabilities = len(targets)
    for number, target in enumerate(targets):
        capability = getattr(module.ComputeCapability, target.support.sm.upper(), None)
        if capability is None:
            names = (name[2:] for name in dir(module.ComputeCapability) if name[:2] == "SM")
            known = [f"sm{number}" for number in sorted(names, key=int)]
            raise UsageError(
                f"{target.name}: {generation.name} {module.__version__} builds for "
                f"{', '.join(known)}, and not for {target.support.sm}",
                parameter="gpu",
            )
        config.set_compute_capability(capability, number)


def _pin(module: Any, network: Any, names: set[str]) -> None:
    """Hold the layers of some nodes in float32, where the builder may take float16 for all."""
    for number in range(network.num_layers):
        layer = network.get_layer(number)
        if layer.name in names:
            layer.precision = module.float32
            for output in range(layer.num_outputs):
                layer.set_output_type(output, module.float32)


def float32_nodes(source: Path) -> set[str]:
    """Names of the nodes of an .onnx file that compute in float32."""
    import onnx

    from srtool.export.graph import FLOAT, inferred, types_of

    model = inferred(onnx.load(source))
    types = types_of(model)
    return {
        node.name
        for node in model.graph.node
        if node.op_type not in _NO_ARITHMETIC and FLOAT in map(types.get, node.output)
    }


def _input_shape(shape: tuple[int, int, int], facts: ModelFacts) -> tuple[int, int, int, int]:
    batch, height, width = shape
    return (batch, height, width, 3) if facts.io == "uint8" else (batch, 3, height, width)


def refitted(module: Any, stripped: bytes, source: Path) -> bytes:
    """The content of a plan without weights, with those of an .onnx file put in. ExportError where
    the library refuses either."""
    log = log_of(module)
    log.lines.clear()
    runtime = module.Runtime(log)
    engine = runtime.deserialize_cuda_engine(stripped)
    if engine is None:
        raise ExportError(f"{source}: the plan does not open ({last_line(log.lines)})")
    refitter = module.Refitter(engine, log)
    parser = module.OnnxParserRefitter(refitter, log)
    if not parser.refit_from_bytes(source.read_bytes(), str(source)):
        errors = [parser.get_error(number).desc() for number in range(parser.num_errors)]
        raise ExportError(f"{source}: its weights do not fit the plan ({last_line(errors)})")
    if missing := refitter.get_missing_weights():
        raise ExportError(f"{source}: has not all weights of the plan: {', '.join(missing[:3])}")
    if not refitter.refit_cuda_engine():
        raise ExportError(f"{source}: its weights do not fit the plan ({last_line(log.lines)})")
    config = engine.create_serialization_config()
    config.clear_flag(module.SerializationFlag.EXCLUDE_WEIGHTS)
    return bytes(engine.serialize_with_config(config))


def last_line(errors: list[str]) -> str:
    """The last of the errors, fit for a line."""
    text = " ".join((errors[-1] if errors else "it does not say why").split())
    return text if len(text) <= 200 else f"{text[:200]}..."


class Phases:
    """The builder's nested phases as one share of the whole. Called from several threads."""

    def __init__(self, report: Report, interrupted: Callable[[], bool]) -> None:
        self._report, self._interrupted, self._lock = report, interrupted, threading.Lock()
        self._phases: dict[str, list[Any]] = {}  # name: parent, steps, steps done
        self._share = 0.0

    def phase_start(self, name: str, parent: str | None, steps: int) -> None:
        with self._lock:
            self._phases[name] = [parent, max(steps, 1), 0]
            self._tell(name)

    def step_complete(self, name: str, step: int) -> bool:
        with self._lock:
            if name in self._phases:
                self._phases[name][2] = step + 1
                self._tell(name)
        return not self._interrupted()

    def phase_finish(self, name: str) -> None:
        with self._lock:
            phase = self._phases.pop(name, None)
            if phase is not None and phase[0] not in self._phases:
                self._report(1.0, name)

    def _tell(self, name: str) -> None:
        share, phase = 0.0, self._phases.get(name)
        while phase is not None:
            parent, steps, done = phase
            share = min(1.0, (done + share) / steps)
            phase = self._phases.get(parent)
        self._share = max(self._share, share)  # phases of the same name may run again
        self._report(self._share, name)


def _monitor(module: Any, report: Report, interrupted: Callable[[], bool]) -> Any:
    class Monitor(Phases, module.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)
            Phases.__init__(self, report, interrupted)

    return Monitor()
