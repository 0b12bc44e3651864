"""TensorRT for tests, one module for each generation, with what that one has and nothing else.

A plan is a JSON file. Its engine repeats pixels, so that what comes out is known exactly; it also
leaves a mark in its scratch memory and looks for it later, as two contexts that share it would
spoil each other's work.
"""

from __future__ import annotations

import enum
import itertools
import json
import types
import weakref
from pathlib import Path
from typing import Any

import numpy as np

# What the real bindings have, see tools/tensorrt_names.py.
NAMES = json.loads(Path(__file__).with_name("tensorrt_names.json").read_text(encoding="utf-8"))
VERSIONS = {generation: found["version"] for generation, found in NAMES.items()}


def names(generation: str, kind: str) -> set[str]:
    """Of a class or an enumeration, empty where the generation has none."""
    return set(NAMES[generation]["classes"].get(kind, ())) - {"name", "value"}


def write_plan(path: Path, generation: str, **changes: Any) -> Path:
    """A plan file. profiles: (min, opt, max) of (n, h, w) each. scratch: bytes per LR pixel.
    hidden: bytes per LR pixel that it takes for itself while it runs. sharing: several contexts
    may use a profile, which 8.6 does not allow by default."""
    plan = {
        "version": VERSIONS[generation],
        "io": "uint8",
        "scale": 4,
        "profiles": [((1, 4, 4), (4, 16, 24), (8, 32, 32))],
        "scratch": 4,
        "hidden": 0,
        "sharing": generation != "8.6",
        **changes,
    }
    path.write_text(json.dumps(plan))
    return path


def tensorrt(generation: str, gpu: Any) -> types.ModuleType:
    """The module of a generation on a GPU. `made` lists the contexts, weakly, as the last
    reference to one frees its profile; `configs` what they were made with, `caches` RTX's; `pixels`
    counts what was computed, but for graphs."""
    module: Any = types.ModuleType("tensorrt")
    module.__version__ = VERSIONS[generation]
    module.made, module.configs, module.caches = [], [], []
    module.pixels = 0

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING = range(3)

        def __init__(self) -> None:
            pass

    class Runtime:
        def __init__(self, log: Any) -> None:
            gpu.check()
            self.log = log
            self.engine_host_code_allowed = False

        def deserialize_cuda_engine(self, blob: bytes) -> Any:
            gpu.check()
            try:
                plan = json.loads(blob)
            except ValueError:
                self.log.log(ILogger.WARNING, "this is not shown")
                self.log.log(ILogger.ERROR, "Error Code 1: Serialization (magicTag mismatch)")
                return None
            if plan["version"] != VERSIONS[generation] and not self.engine_host_code_allowed:
                self.log.log(ILogger.ERROR, f"The engine plan file is of {plan['version']}")
                return None
            return Engine(plan, self.log)

    class _Engine:
        def __init__(self, plan: dict[str, Any], log: Any) -> None:
            self.plan, self.log = plan, log
            self.num_io_tensors = 2
            self.taken: set[int] = set()
            self.num_optimization_profiles = len(plan["profiles"])

        def get_tensor_name(self, number: int) -> str:
            return ("pixels", "large")[number]

        def get_tensor_mode(self, name: str) -> Any:
            modes = module.TensorIOMode
            return modes.INPUT if name == "pixels" else modes.OUTPUT

        def get_tensor_dtype(self, name: str) -> Any:
            return module.DataType.UINT8 if self.plan["io"] == "uint8" else module.DataType.FLOAT

        def get_tensor_profile_shape(self, name: str, number: int) -> list[Any]:
            return [self.dims(shape) for shape in self.plan["profiles"][number]]

        def dims(self, shape: Any, by: int = 1) -> tuple[int, ...]:
            n, h, w = shape[0], shape[1] * by, shape[2] * by
            return (n, h, w, 3) if self.plan["io"] == "uint8" else (n, 3, h, w)

        def most(self) -> int:
            shapes = [profile[2] for profile in self.plan["profiles"]]
            return max(n * h * w for n, h, w in shapes) * self.plan["scratch"]

        def create_execution_context(self, how: Any = None) -> Any:
            if generation.startswith("rtx"):
                assert how.strategy == module.ExecutionContextAllocationStrategy.USER_MANAGED
            else:
                assert how == module.ExecutionContextAllocationStrategy.USER_MANAGED
            return Context(self, how)

        def create_runtime_config(self) -> Any:
            return RuntimeConfig()

    def without_memory(self: Any) -> Any:
        return Context(self, None)

    members: dict[str, Any] = {
        "device_memory_size": property(lambda self: self.most()),
        "device_memory_size_v2": property(lambda self: self.most()),
        "create_execution_context_without_device_memory": without_memory,
    }
    known = names(generation, "ICudaEngine")
    chosen = {name: member for name, member in members.items() if name in known}
    Engine = type("Engine", (_Engine,), chosen)
    own = {"dims", "most"}
    for name in set(vars(_Engine)) - names(generation, "ICudaEngine") - own:
        if not name.startswith("_"):
            delattr(_Engine, name)

    class _Context:
        def __init__(self, engine: Any, config: Any) -> None:
            gpu.check()
            self.engine, self.plan, self.config = engine, engine.plan, config
            self.active_optimization_profile = -1
            self._take(0)
            self.shape: tuple[int, int, int] | None = None
            self.addresses: dict[str, int] = {}
            self.scratch = 0, 0
            self.ran = 0
            module.made.append(weakref.ref(self))
            module.configs.append(config)

        def set_optimization_profile_async(self, number: int, stream: int) -> bool:
            assert stream in gpu.streams
            if not self._take(number):
                text = f"Profile {number} has been chosen by another IExecutionContext"
                self.engine.log.log(ILogger.ERROR, text)
                return False
            self.shape = None
            return True

        def _take(self, number: int) -> bool:
            if not self.plan["sharing"] and number in self.engine.taken:
                return number == self.active_optimization_profile
            self.engine.taken.discard(self.active_optimization_profile)
            self.engine.taken.add(number)
            self.active_optimization_profile = number
            return True

        def __del__(self) -> None:
            self.engine.taken.discard(self.active_optimization_profile)

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            assert name == "pixels"
            least, _, most = self.plan["profiles"][self.active_optimization_profile]
            sides = shape[:3] if self.plan["io"] == "uint8" else (shape[0], *shape[2:])
            if not all(low <= x <= high for low, x, high in zip(least, sides, most, strict=True)):
                self.engine.log.log(ILogger.ERROR, f"{shape} is not in the profile")
                return False
            self.shape = sides
            return True

        def infer_shapes(self) -> list[str]:
            return [] if self.shape else ["pixels"]

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return tuple(self.engine.dims(self.shape, self.plan["scale"]))

        def set_tensor_address(self, name: str, address: int) -> bool:
            assert isinstance(address, int)
            self.addresses[name] = address
            return True

        def pixels(self) -> int:
            assert self.shape is not None
            return self.shape[0] * self.shape[1] * self.shape[2]

        def execute_async_v3(self, stream: int) -> bool:
            gpu.check()
            shape, plan = self.shape, self.plan
            assert shape is not None
            if plan["hidden"] * self.pixels() > gpu.spare:
                text = "[convolution] Error Code 1: Cuda Runtime (out of memory)"
                self.engine.log.log(ILogger.ERROR, text)
                return False
            if broken := plan.get("broken"):
                self.engine.log.log(ILogger.ERROR, broken)
                return False
            self.ran += 1
            module.pixels += self.pixels()
            address, size = self.scratch
            need = self.pixels() * plan["scratch"]
            assert size >= need, f"{size} bytes of scratch memory for {need}"
            source, target = self.addresses["pixels"], self.addresses["large"]
            kind = np.uint8 if plan["io"] == "uint8" else np.float32
            value = np.dtype(kind).itemsize
            scale, given = plan["scale"], self.engine.dims(shape)
            mark = next(marks) % 251

            def begin() -> None:
                gpu.bytes_at(address, need)[:] = mark

            def end() -> None:
                spoilt = need and not (gpu.bytes_at(address, need) == mark).all()
                count = int(np.prod(given)) * value
                image = gpu.bytes_at(source, count).view(kind).reshape(given)
                first = 1 if plan["io"] == "uint8" else 2
                large = image.repeat(scale, first).repeat(scale, first + 1)
                made = gpu.bytes_at(target, large.size * value).view(kind)
                made[:] = 77 if spoilt else large.ravel()

            if need:
                gpu.kernel(stream, "begin", begin)
            gpu.kernel(stream, "kernel", end)
            return True

    marks = itertools.count(1)

    def give(self: Any, address: int, size: int) -> None:
        assert size >= self.pixels() * self.plan["scratch"]
        self.scratch = address, size

    def give_old(self: Any, address: int) -> None:
        size = gpu.memory[address].size
        assert size >= (self.engine.most() if generation == "8.6" else 0)
        self.scratch = address, size

    members = {
        "device_memory": property(None, give_old),
        "set_device_memory": give,
        "update_device_memory_size_for_shapes": lambda self: self.pixels() * self.plan["scratch"],
    }
    known = names(generation, "IExecutionContext")
    chosen = {name: member for name, member in members.items() if name in known}
    Context = type("Context", (_Context,), chosen)

    class RuntimeConfig:
        def __init__(self) -> None:
            self.dynamic_shapes_kernel_specialization_strategy: Any = None
            self.cuda_graph_strategy: Any = None
            self.cache: Any = None

        def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
            self.strategy = strategy

        def create_runtime_cache(self) -> Any:
            return RuntimeCache()

        def set_runtime_cache(self, cache: Any) -> None:
            self.cache = cache

    class RuntimeCache:
        def __init__(self) -> None:
            self.loaded = b""
            module.caches.append(self)

        def serialize(self) -> bytes:
            return b"compiled"

        def deserialize(self, blob: bytes) -> bool:
            self.loaded = blob
            return True

    module.ILogger, module.Runtime = ILogger, Runtime
    module.TensorIOMode = enum.Enum("TensorIOMode", "NONE INPUT OUTPUT")
    module.DataType = enum.Enum("DataType", "FLOAT HALF UINT8")
    for kind in (
        "ExecutionContextAllocationStrategy",
        "DynamicShapesKernelSpecializationStrategy",
        "CudaGraphStrategy",
    ):
        if members := names(generation, kind):
            setattr(module, kind, enum.Enum(kind, sorted(members)))
    return module
