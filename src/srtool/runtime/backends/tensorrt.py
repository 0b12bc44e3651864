"""TensorRT 8.6 to 11 and TensorRT-RTX: a plan opened, and run through the scheduler.

Tensors are named, and every context takes its scratch memory from `runtime.cuda`, where running
out of it is an error that can be handled. What differs between the generations is `_context`,
`_scratch` and `_give` below.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any, ClassVar

from srtool.errors import EngineError
from srtool.files import write_whole
from srtool.manifest import Flavour, ModelFacts, Profile, Shape
from srtool.runtime.gpu.cuda import Buffer, Cuda, CudaError, OutOfMemory, open_cuda
from srtool.runtime.gpu.layout import SLOTS
from srtool.runtime.gpu.machine import NAMES, load_library, log_of
from srtool.runtime.gpu.scheduler import Scheduler
from srtool.runtime.session import is_shortage


@dataclass(frozen=True)
class TensorRt:
    """A TensorRT, for plans of a precision. host_code: let plans bring the runtime of the TensorRT
    that made them, as version-compatible ones do; that is a program, so only for files that are
    trusted. device: number of the GPU among those that are visible."""

    library: Flavour
    precision: str
    host_code: bool = False
    device: int = 0
    on_gpu: ClassVar = True

    def __str__(self) -> str:
        return f"{self.library} {self.precision}"

    def open(self, path: Path, facts: ModelFacts, threads: int | None = None) -> Scheduler:
        """Open a plan on this machine's GPU. EngineError where it is none for this machine, or the
        GPU has too little memory."""
        try:
            cuda, module = open_cuda(self.device), load_library(self.library)
            with cuda.current():
                plan = Plan(cuda, module, self.library, path, facts, self.host_code)
                return Scheduler(cuda, plan)
        except EngineError as error:
            raise EngineError(f"{path}: {error}", path=path) from None
        except RuntimeError as error:
            raise EngineError(
                f"{path}: {NAMES[self.library]} {module.__version__} fails with it ({error}); "
                f"`srtool engine rebuild {path}` makes it again",
                path=path,
                found=str(error),
            ) from None


class Plan:
    """A deserialised plan: the scheduler's `Network`."""

    def __init__(
        self,
        cuda: Cuda,
        module: Any,
        flavour: Flavour,
        path: Path,
        facts: ModelFacts,
        host_code: bool = False,
    ) -> None:
        self.facts, self.module, self.cuda = facts, module, cuda
        self.log = log_of(module)
        self.log.lines.clear()
        content = path.read_bytes()
        self._runtime: Any = module.Runtime(self.log)
        if host_code:
            self._runtime.engine_host_code_allowed = True
        self.engine: Any = self._runtime.deserialize_cuda_engine(content)
        if self.engine is None:
            raise self.error("it is no plan that this version reads")
        self.source, self.target = self._tensors()
        self.profiles = [
            self._profile(number) for number in range(self.engine.num_optimization_profiles)
        ]
        self._cache: Any = None
        self._cache_file = _cache_file(content) if flavour == "tensorrt-rtx" else None
        self._probe: Any = None
        self._known: dict[Shape, int] = {}
        self.shares_profiles = self._shares_profiles()
        self.most_slots = SLOTS if self.shares_profiles else 1

    def scratch(self, shape: Shape) -> int:
        if shape not in self._known:
            if not hasattr(self.module, "ExecutionContextAllocationStrategy"):
                return int(self.engine.device_memory_size)  # 8.6: for the largest shape there is
            self._probe = self._probe or self.context(main=False)
            stream = self.cuda.stream()
            self.shape(self._probe, shape, self.cuda.handle(stream))
            self.cuda.destroy(stream=stream)
            self._known[shape] = _scratch(self.engine, self._probe)
        return self._known[shape]

    def execution(self, shape: Shape, stream: Any) -> PlanExecution:
        return PlanExecution(self, shape, stream)

    def close(self) -> None:
        if self._cache is not None and self._cache_file is not None:
            # What RTX compiled for this GPU: seconds saved the next time, not worth an error.
            with suppress(Exception):
                write_whole(self._cache_file, bytes(self._cache.serialize()))
        # In the order in which they depend on each other.
        self._probe = self._cache = None
        self.engine = None
        self._runtime = None

    def context(self, main: bool) -> Any:
        """An execution context without scratch memory; `main` for one that keeps its shape."""
        context = _context(self.module, self.engine, self._config(main))
        if context is None:
            raise self.error("it makes no execution context")
        return context

    def shape(self, context: Any, shape: Shape, stream: int) -> None:
        """Set the shape of the input, and of the profiles that take it the one tuned for the most
        like it."""
        number = min(
            (
                number
                for number, profile in enumerate(self.profiles)
                if all(
                    low <= side <= high
                    for low, side, high in zip(profile.min, shape, profile.max, strict=True)
                )
            ),
            key=lambda number: abs(prod(self.profiles[number].opt) - prod(shape)),
        )
        tiles, height, width = shape
        bytewise, scale = self.facts.io == "uint8", self.facts.scale
        given, made = (
            (tiles, height * by, width * by, 3) if bytewise else (tiles, 3, height * by, width * by)
            for by in (1, scale)
        )
        if (
            context.active_optimization_profile != number
            and not context.set_optimization_profile_async(number, stream)
        ):
            raise self.error(f"its profile {number} cannot be used")
        if not context.set_input_shape(self.source, given) or context.infer_shapes():
            raise self.error(f"it takes no input of shape {given}")
        # Its result goes into a buffer of that size.
        found = tuple(context.get_tensor_shape(self.target))
        if found != made:
            raise RuntimeError(f"it makes {found} of {given}, expected {made}")

    def error(self, otherwise: str) -> CudaError:
        """What TensorRT logged since the last time, as the error that it is."""
        text = " ".join(" ".join(self.log.lines).split())[-300:] or otherwise
        self.log.lines.clear()
        return OutOfMemory(text) if is_shortage(text) else CudaError(text)

    def _tensors(self) -> tuple[str, str]:
        """The names of the input and the output."""
        engine, module = self.engine, self.module
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        inputs = [x for x in names if engine.get_tensor_mode(x) == module.TensorIOMode.INPUT]
        outputs = [name for name in names if name not in inputs]
        value = module.DataType.UINT8 if self.facts.io == "uint8" else module.DataType.FLOAT
        kinds = [engine.get_tensor_dtype(name) for name in names]
        if len(inputs) != 1 or len(outputs) != 1 or kinds != [value, value]:
            raise EngineError(
                f"it has the tensors {', '.join(names)}; expected one image in and one out, "
                f"both {self.facts.io}"
            )
        return inputs[0], outputs[0]

    def _profile(self, number: int) -> Profile:
        axes = (0, 1, 2) if self.facts.io == "uint8" else (0, 2, 3)
        least, best, most = (
            tuple(int(shape[axis]) for axis in axes)
            for shape in self.engine.get_tensor_profile_shape(self.source, number)
        )
        return Profile.model_validate({"min": least, "opt": best, "max": most})

    def _shares_profiles(self) -> bool:
        """Whether several contexts may use one profile. Plans of 8.6 allow it only where that was
        asked for when they were built (PROFILE_SHARING_0806)."""
        if hasattr(self.module, "ExecutionContextAllocationStrategy"):
            return True
        both = self.context(main=True), self.context(main=True)
        stream = self.cuda.stream()
        shared = both[1].active_optimization_profile == 0 or bool(
            both[1].set_optimization_profile_async(0, self.cuda.handle(stream))
        )
        self.cuda.destroy(stream=stream)
        self.log.lines.clear()
        return shared

    def _config(self, main: bool) -> Any:
        """TensorRT-RTX compiles kernels when it knows the shape. For the one that stays it does so
        before the first run, and replays them as a CUDA graph of its own making; for others a
        kernel for all shapes runs until the better one is there."""
        if not hasattr(self.module, "DynamicShapesKernelSpecializationStrategy"):
            return None
        kernels = self.module.DynamicShapesKernelSpecializationStrategy
        config = self.engine.create_runtime_config()
        strategy = self.module.ExecutionContextAllocationStrategy.USER_MANAGED
        config.set_execution_context_allocation_strategy(strategy)
        config.dynamic_shapes_kernel_specialization_strategy = (
            kernels.EAGER if main else kernels.LAZY
        )
        if main:
            config.cuda_graph_strategy = self.module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            if self._cache_file is not None and self._cache_file.is_file():
                # Refused by itself where it is of another GPU, driver or version.
                self._cache.deserialize(self._cache_file.read_bytes())
        config.set_runtime_cache(self._cache)
        return config


class PlanExecution:
    """A context for the main shape, and one for all others, on one stream with one scratch. Where
    a plan has but one context, that one changes its shape."""

    def __init__(self, plan: Plan, shape: Shape, stream: Any) -> None:
        self._plan, self._cuda, self._main_shape = plan, plan.cuda, shape
        self._stream = plan.cuda.handle(stream)
        self._scratch: list[Buffer] = []
        self._contexts: dict[bool, Any] = {}
        self._shapes: dict[bool, Shape] = {}
        self._context_for(shape)

    def enqueue(self, shape: Shape, source: Buffer, target: Buffer) -> None:
        plan, context = self._plan, self._context_for(shape)
        context.set_tensor_address(plan.source, source.address)
        context.set_tensor_address(plan.target, target.address)
        if not context.execute_async_v3(self._stream):
            raise plan.error("it does not run")

    def can_be_captured(self) -> bool:
        """RTX replays a graph of its own, see `Plan._config`; a context that changes its shape
        would leave the graph behind."""
        rtx = hasattr(self._plan.module, "DynamicShapesKernelSpecializationStrategy")
        return self._plan.shares_profiles and not rtx

    def close(self) -> None:
        self._contexts.clear()
        for buffer in self._scratch:
            self._cuda.release(buffer)
        self._scratch.clear()

    def _context_for(self, shape: Shape) -> Any:
        main = shape == self._main_shape or not self._plan.shares_profiles
        if main not in self._contexts:
            self._contexts[main] = self._plan.context(main)
        context = self._contexts[main]
        if self._shapes.pop(main, None) != shape:
            self._plan.shape(context, shape, self._stream)
            self._provide(context)
        self._shapes[main] = shape  # not where one of the two failed
        return context

    def _provide(self, context: Any) -> None:
        """Give a context scratch memory: the largest there is, for all run one after the other. An
        older one that is too small is kept, a CUDA graph may hold it."""
        size = _scratch(self._plan.engine, context)
        if size > max((buffer.size for buffer in self._scratch), default=0):
            self._scratch.append(self._cuda.allocate(size))
        if self._scratch:
            _give(context, self._scratch[-1])


def _context(module: Any, engine: Any, config: Any) -> Any:
    """An execution context whose scratch memory comes from us."""
    if config is not None:
        return engine.create_execution_context(config)
    strategies = getattr(module, "ExecutionContextAllocationStrategy", None)
    if strategies is None:  # 8.6
        return engine.create_execution_context_without_device_memory()
    return engine.create_execution_context(strategies.USER_MANAGED)


def _scratch(engine: Any, context: Any) -> int:
    """Bytes of scratch memory for the shape that the context has."""
    if hasattr(context, "update_device_memory_size_for_shapes"):  # from 10.0
        return int(context.update_device_memory_size_for_shapes())
    return int(engine.device_memory_size)


def _give(context: Any, buffer: Buffer) -> None:
    if hasattr(context, "set_device_memory"):  # from 10.1
        context.set_device_memory(buffer.address, buffer.size)
    else:
        context.device_memory = buffer.address


def _cache_file(plan: bytes) -> Path:
    from srtool.assets import cache_folder

    return cache_folder() / "tensorrt-rtx" / f"{sha256(plan).hexdigest()[:32]}.cache"
