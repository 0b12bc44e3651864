"""A TensorRT plan out of an .onnx file, by the builder of any generation in flavours.py."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srtool.errors import ExportError, UsageError
from srtool.export.tensorrt.editions import Generation
from srtool.export.tensorrt.gpus import PORTABLE, Target
from srtool.interrupts import interrupts_held
from srtool.manifest import ModelFacts, PlanRecipe
from srtool.runtime.gpu.machine import log_of

Report = Callable[[float, str], None]  # share of the build that is done, and the phase

# Values pass these unchanged, whatever precision a layer has.
_NO_ARITHMETIC = {"Cast", "Concat", "Constant", "Pad", "Resize", "Slice", "Transpose"}


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
            config.progress_monitor = _monitor(module, Phases(report), interrupted)
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
        levels = _levels(module, "TilingOptimizationLevel", "tiling")
        config.tiling_optimization_level = getattr(
            levels, ("NONE", "FAST", "MODERATE", "FULL")[recipe.tiling]
        )
    if recipe.aux_streams is not None:
        config.max_aux_streams = recipe.aux_streams
    if recipe.platform:
        config.runtime_platform = module.RuntimePlatform.WINDOWS_AMD64
    if recipe.hardware_compatible:
        level = getattr(module.HardwareCompatibilityLevel, generation.hardware_level)
        config.hardware_compatibility_level = level


def _levels(module: Any, name: str, option: str) -> Any:
    """An enumeration of newer versions. UsageError where this one has none."""
    if not hasattr(module, name):
        raise UsageError(
            f"{module.__name__} {module.__version__} has no such setting", parameter=option
        )
    return getattr(module, name)


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

    model = onnx.shape_inference.infer_shapes(onnx.load(source))
    known = (*model.graph.value_info, *model.graph.output)
    single = {
        value.name for value in known if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    return {
        node.name
        for node in model.graph.node
        if node.op_type not in _NO_ARITHMETIC and not single.isdisjoint(node.output)
    }


def _input_shape(shape: tuple[int, int, int], facts: ModelFacts) -> tuple[int, int, int, int]:
    batch, height, width = shape
    return (batch, height, width, 3) if facts.io == "uint8" else (batch, 3, height, width)


def last_line(errors: list[str]) -> str:
    """The last of the errors, fit for a line."""
    text = " ".join((errors[-1] if errors else "it does not say why").split())
    return text if len(text) <= 200 else f"{text[:200]}..."


class Phases:
    """The builder's nested phases as one share of the whole. Called from several threads."""

    def __init__(self, report: Report) -> None:
        self._report, self._lock = report, threading.Lock()
        self._phases: dict[str, list[Any]] = {}  # name: parent, steps, steps done
        self._share = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        with self._lock:
            self._phases[name] = [parent, max(steps, 1), 0]
            self._tell(name)

    def step(self, name: str, step: int) -> None:
        with self._lock:
            if name in self._phases:
                self._phases[name][2] = step + 1
                self._tell(name)

    def finish(self, name: str) -> None:
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


def _monitor(module: Any, phases: Phases, interrupted: Callable[[], bool]) -> Any:
    class Monitor(module.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            phases.start(name, parent, steps)

        def step_complete(self, name: str, step: int) -> bool:
            phases.step(name, step)
            return not interrupted()

        def phase_finish(self, name: str) -> None:
            phases.finish(name)

    return Monitor()
