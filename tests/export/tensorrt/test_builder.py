"""The builder of each generation of TensorRT, against modules with exactly their attributes; and
weights put into a plan."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

from srtool.errors import ExportError, UsageError
from srtool.export.tensorrt.builder import (
    Blueprint,
    Generation,
    Phases,
    Plan,
    float32_nodes,
    generation_of,
    plan_from_onnx,
    refitted,
)
from srtool.export.tensorrt.gpus import targets_from_texts
from srtool.manifest import PlanRecipe, Profile
from srtool.runtime.gpu.machine import Library, Machine, library_of, load_library

# What the real bindings have, see tools/tensorrt_names.py.
_NAMES = Path(__file__).parents[2] / "runtime" / "tensorrt_names.json"


@dataclass(frozen=True)
class Api:
    """The Python bindings of one release."""

    name: str
    flavour: Any

    @property
    def version(self) -> str:
        version: str = NAMES[self.name]["version"]
        return version

    def names(self, kind: str) -> list[str]:
        """Of a class or an enumeration, empty where the release has none."""
        found = NAMES[self.name]["classes"].get(kind, ())
        return [name for name in found if name not in ("name", "value")]


NAMES = json.loads(_NAMES.read_text(encoding="utf-8"))
APIS = [Api("8.6", "tensorrt"), Api("10.13", "tensorrt"), Api("11", "tensorrt"),
        Api("rtx", "tensorrt-rtx")]  # fmt: skip
each_generation = pytest.mark.parametrize("api", APIS, ids=lambda api: api.version)
V8, V10, V11, RTX = APIS


@dataclass
class Calls:
    """What a fake was told, and how it is to answer."""

    network_flags: set[str] = field(default_factory=set)
    flags: set[str] = field(default_factory=lambda: {"TF32"})
    settings: dict[str, Any] = field(default_factory=dict)
    profiles: list[Any] = field(default_factory=list)
    pinned: set[str] = field(default_factory=set)
    capabilities: dict[int, str] = field(default_factory=dict)
    cache: bytes | None = None
    steps: list[bool] = field(default_factory=list)
    parses: bool = True
    builds: bool = True
    takes_profiles: bool = True
    while_building: Callable[[], None] = lambda: None
    missing_weights: list[str] = field(default_factory=list)


class Module:
    """TensorRT as it is imported; a cache can be keyed by it."""

    def __init__(self, **members: Any) -> None:
        vars(self).update(members)


def fake_module(api: Api, calls: Calls) -> Any:
    """A TensorRT module. What is not in `api` is an AttributeError, reading and writing."""

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING = range(3)

    class Monitor:
        pass

    class Config:
        def __setattr__(self, name: str, value: Any) -> None:
            if name not in api.names("IBuilderConfig"):
                raise AttributeError(name)
            calls.settings[name] = value

        def __getattribute__(self, name: str) -> Any:
            if not name.startswith("_") and name not in api.names("IBuilderConfig"):
                raise AttributeError(name)
            return super().__getattribute__(name)

        def set_flag(self, flag: Any) -> None:
            calls.flags.add(flag.name)

        def clear_flag(self, flag: Any) -> None:
            calls.flags.discard(flag.name)

        def set_preview_feature(self, feature: Any, on: bool) -> None:
            calls.settings[feature.name] = on

        def set_memory_pool_limit(self, pool: Any, size: int) -> None:
            calls.settings[pool.name] = size

        def add_optimization_profile(self, profile: Any) -> int:
            calls.profiles.append(profile.shapes)
            return len(calls.profiles) - 1 if calls.takes_profiles else -1

        def create_timing_cache(self, content: bytes) -> Any:
            assert api.flavour == "tensorrt", "it would ask for a GPU"
            return None if content == b"of another GPU" else content

        def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
            assert not ignore_mismatch
            calls.cache = cache
            return True

        def get_timing_cache(self) -> Any:
            return SimpleNamespace(serialize=lambda: calls.cache + b" measured")  # type: ignore[operator]

        def set_compute_capability(self, capability: Any, number: int) -> bool:
            assert number < calls.settings["num_compute_capabilities"]
            calls.capabilities[number] = capability.name
            return True

    class Layer:
        def __init__(self, name: str) -> None:
            object.__setattr__(self, "name", name)
            object.__setattr__(self, "num_outputs", 1)

        def __setattr__(self, name: str, value: Any) -> None:
            if name != "precision" or name not in api.names("ILayer"):
                raise AttributeError(name)
            assert value == "float32"
            calls.pinned.add(self.name)

        def set_output_type(self, output: int, kind: Any) -> None:
            assert (output, kind) == (0, "float32")

    class Network:
        def __init__(self) -> None:
            self.layers: list[Layer] = []

        @property
        def num_layers(self) -> int:
            return len(self.layers)

        def get_layer(self, number: int) -> Layer:
            return self.layers[number]

        def get_input(self, number: int) -> Any:
            return SimpleNamespace(name="image")

    class Builder:
        def __init__(self, log: Any) -> None:
            self.log = log

        def create_network(self, flags: int = 0) -> Network:
            kinds = module.NetworkDefinitionCreationFlag
            calls.network_flags = {kind.name for kind in kinds if flags >> kind.value & 1}
            assert flags == sum(1 << kinds[name] for name in calls.network_flags)
            return Network()

        def create_builder_config(self) -> Config:
            return Config()

        def create_optimization_profile(self) -> Any:
            shaped = SimpleNamespace()
            shaped.set_shape = lambda *shapes: setattr(shaped, "shapes", shapes)
            return shaped

        def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
            monitor = calls.settings.get("progress_monitor")
            calls.while_building()
            if monitor is not None:
                monitor.phase_start("Building", None, 2)
                for step in range(2):
                    monitor.phase_start("Timing", "Building", 4)
                    calls.steps += [monitor.step_complete("Timing", n) for n in range(4)]
                    monitor.phase_finish("Timing")
                    monitor.step_complete("Building", step)
                monitor.phase_finish("Building")
            if not calls.builds or not all(calls.steps):
                self.log.log(ILogger.WARNING, "something harmless")
                self.log.log(ILogger.ERROR, "no tactic\nfor node_conv")
                self.log.log(ILogger.WARNING, "something harmless")
                return None
            return b"plan"

    class OnnxParser:
        num_errors = 1

        def __init__(self, network: Network, log: Any) -> None:
            self.network = network

        def parse(self, content: bytes, path: str) -> bool:
            assert Path(path).read_bytes() == content
            nodes = onnx.load_from_string(content).graph.node
            self.network.layers = [Layer(node.name) for node in nodes]
            return calls.parses

        def get_error(self, number: int) -> Any:
            return SimpleNamespace(desc=lambda: "Unsupported operator:\nFancy")

    class Runtime:
        def __init__(self, log: Any) -> None:
            self.log = log

        def deserialize_cuda_engine(self, content: bytes) -> Any:
            if content != b"stripped":
                self.log.log(ILogger.ERROR, "magic tag does not match")
                return None
            return SimpleNamespace(
                create_serialization_config=lambda: SimpleNamespace(
                    clear_flag=lambda flag: calls.settings.update(cleared=flag.name)
                ),
                serialize_with_config=lambda config: b"plan with weights",
            )

    class Refitter:
        def __init__(self, engine: Any, log: Any) -> None:
            self.content = b""

        def get_missing_weights(self) -> list[str]:
            return calls.missing_weights

        def refit_cuda_engine(self) -> bool:
            return calls.builds

    class OnnxParserRefitter:
        num_errors = 1

        def __init__(self, refitter: Refitter, log: Any) -> None:
            pass

        def refit_from_bytes(self, content: bytes, path: str) -> bool:
            return calls.parses

        def get_error(self, number: int) -> Any:
            return SimpleNamespace(desc=lambda: "Failed to refit weight body.0.weight")

    module: Any = Module(
        __version__=api.version,
        __name__="tensorrt",
        ILogger=ILogger,
        Builder=Builder,
        OnnxParser=OnnxParser,
        float32="float32",
        Runtime=Runtime,
        Refitter=Refitter,
    )
    for kind, fake in (("IProgressMonitor", Monitor), ("OnnxParserRefitter", OnnxParserRefitter)):
        if api.names(kind):
            setattr(module, kind, fake)
    for kind in ENUMERATIONS:
        if members := api.names(kind):
            setattr(module, kind, IntEnum(kind, members, start=0))
    return module


ENUMERATIONS = (
    "NetworkDefinitionCreationFlag", "BuilderFlag", "MemoryPoolType", "HardwareCompatibilityLevel",
    "SerializationFlag", "PreviewFeature", "ComputeCapability", "TilingOptimizationLevel",
    "RuntimePlatform",
)  # fmt: skip


Build = Callable[..., Plan]


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def build(calls: Calls, generator_export: Any) -> Build:
    """Build a plan of the tiny generator with a fake; options are the recipe's."""

    def plan(api: Api, precision: str = "fp32", **options: Any) -> Plan:
        name = "x4.onnx" if precision == "fp32" else "x4.fp16.onnx"
        facts = next(
            item.manifest.model for item in generator_export.written if item.path.name == name
        )
        how = {key: options.pop(key) for key in ("timing_cache", "report") if key in options}
        recipe = PlanRecipe(flavour=api.flavour, **options)
        targets = targets_from_texts(options.get("gpus", ["sm89"]), Machine())
        blueprint = Blueprint(generator_export.folder / name, facts, recipe, targets)
        return plan_from_onnx(fake_module(api, calls), generation(api), blueprint, **how)

    return plan


def generation(api: Api) -> Generation:
    return generation_of(Library(api.flavour, api.version))


@each_generation
def test_networks_are_explicit_and_typed_as_the_file_says(
    build: Build, calls: Calls, api: Api
) -> None:
    assert build(api).content == b"plan"
    expected = {
        V8: {"EXPLICIT_BATCH"},
        V10: {"EXPLICIT_BATCH", "STRONGLY_TYPED"},
        V11: set(),
        RTX: set(),
    }
    assert calls.network_flags == expected[api]
    assert calls.flags == set()  # no TF32 either: fp32 is fp32
    assert calls.pinned == set()


@each_generation
def test_half_precision_is_a_flag_in_8_only(
    build: Build, calls: Calls, api: Api, generator_export: Any
) -> None:
    build(api, "fp16")
    assert calls.flags == ({"FP16", "OBEY_PRECISION_CONSTRAINTS"} if api is V8 else set())
    single = float32_nodes(generator_export.folder / "x4.fp16.onnx")
    assert calls.pinned == (single if api is V8 else set())


def test_which_nodes_of_a_half_precision_file_are_single(generator_export: Any) -> None:
    path = generator_export.folder / "x4.fp16.onnx"
    single = float32_nodes(path)
    kinds = {node.op_type for node in onnx.load(path).graph.node if node.name in single}
    assert kinds == {"Mul", "Sub", "Add", "Sqrt", "Round", "Clip"}
    everything = {node.name for node in onnx.load(path).graph.node}
    assert len(single) < len(everything) / 3


@each_generation
def test_profiles_and_limits(build: Build, calls: Calls, api: Api) -> None:
    profiles = (
        Profile(min=(1, 16, 24), opt=(4, 64, 72), max=(8, 128, 136)),
        Profile(min=(1, 8, 8), opt=(1, 8, 8), max=(1, 8, 8)),
    )
    build(api, profiles=profiles, workspace=64, opt_level=5)
    assert calls.profiles == [
        ("image", (1, 16, 24, 3), (4, 64, 72, 3), (8, 128, 136, 3)),
        ("image", (1, 8, 8, 3), (1, 8, 8, 3), (1, 8, 8, 3)),
    ]
    assert calls.settings["WORKSPACE"] == 64 << 20
    assert calls.settings["builder_optimization_level"] == 5
    assert "hardware_compatibility_level" not in calls.settings


@pytest.mark.parametrize("api", [V8, V10, V11], ids=lambda api: api.version)
def test_compatible_plans(build: Build, calls: Calls, api: Api) -> None:
    build(api, version_compatible=True, hardware_compatible=True)
    assert calls.flags == {"VERSION_COMPATIBLE"}
    assert calls.settings["hardware_compatibility_level"].name == "AMPERE_PLUS"


@pytest.mark.parametrize("api", [V10, V11, RTX], ids=lambda api: api.version)
def test_stripped_plans_take_any_weights(build: Build, calls: Calls, api: Api) -> None:
    build(api, strip_weights=True)
    assert calls.flags == {"STRIP_PLAN", "REFIT"}  # and not REFIT_IDENTICAL


def test_classes_are_named_to_rtx(build: Build, calls: Calls, complains: Any) -> None:
    build(RTX, gpus=("sm75", "RTX 5090"))
    assert calls.capabilities == {0: "SM75", 1: "SM120"}
    with complains(UsageError, "sm121", "1.4.0.76", "sm75, sm80, sm86, sm89, sm120"):
        build(Api("rtx-1.4", "tensorrt-rtx"), gpus=("sm121",))


def test_a_portable_plan_names_none(build: Build, calls: Calls) -> None:
    build(RTX, gpus=("portable",))
    assert calls.capabilities == {}
    assert "num_compute_capabilities" not in calls.settings


@each_generation
def test_what_makes_plans_faster(build: Build, calls: Calls, api: Api, complains: Any) -> None:
    build(api, aux_streams=2)
    assert calls.settings["max_aux_streams"] == 2
    if api is V8:
        with complains(UsageError, "--tiling", "8.6.1"):
            build(api, tiling=3)
        return
    build(api, tiling=3)
    assert calls.settings["tiling_optimization_level"].name == "FULL"


@pytest.mark.parametrize("api", [V10, V11, RTX], ids=lambda api: api.version)
def test_a_plan_for_windows(build: Build, calls: Calls, api: Api) -> None:
    build(api)
    assert "runtime_platform" not in calls.settings
    build(api, platform="windows")
    assert calls.settings["runtime_platform"].name == "WINDOWS_AMD64"


@pytest.mark.parametrize(
    ("name", "gpu", "features"),
    [
        ("8.6", "sm61", {"PROFILE_SHARING_0806": True,
                         "DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805": False}),
        ("8.6", "sm89", {"PROFILE_SHARING_0806": True}),
        ("10.4", "sm89", {}),  # memory shrinks with the shapes by itself
        ("10.13", "sm89", {"RUNTIME_ACTIVATION_RESIZE_10_10": True}),
        ("11", "sm89", {"RUNTIME_ACTIVATION_RESIZE_10_10": True}),
    ],
)  # fmt: skip
def test_preview_features(
    build: Build, calls: Calls, name: str, gpu: str, features: dict[str, bool]
) -> None:
    build(Api(name, "tensorrt"), gpus=(gpu,))
    known = set(Api(name, "tensorrt").names("PreviewFeature"))
    assert {key: on for key, on in calls.settings.items() if key in known} == features


@pytest.mark.parametrize("api", [V8, V10, V11], ids=lambda api: api.version)
def test_timing_cache(build: Build, calls: Calls, api: Api, complains: Any) -> None:
    assert build(api).timing_cache is None
    assert calls.cache is None
    assert build(api, timing_cache=b"").timing_cache == b" measured"
    assert build(api, timing_cache=b"before").timing_cache == b"before measured"
    with complains(UsageError, "--timing-cache", "delete"):
        build(api, timing_cache=b"of another GPU")


@each_generation
def test_progress(build: Build, api: Api) -> None:
    told: list[tuple[float, str]] = []
    build(api, report=lambda share, phase: told.append((share, phase)))
    if api is V8:
        assert told == []
        return
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert {0.125, 0.5, 0.625} <= set(shares)
    assert told[-1] == (1.0, "Building")


def test_phases_that_run_again_do_not_go_back() -> None:
    told: list[float] = []
    phases = Phases(lambda share, phase: told.append(share), lambda: False)
    phases.phase_start("all", None, 4)
    for _ in range(2):
        phases.phase_start("part", "all", 2)
        phases.step_complete("part", 0)
        phases.step_complete("part", 1)
        phases.phase_finish("part")
    phases.step_complete("unknown", 3)
    assert told == [0, 0, 0.125, 0.25, 0.25, 0.25, 0.25]


@each_generation
def test_an_interrupt_ends_the_build(build: Build, calls: Calls, api: Api) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    calls.while_building = lambda: os.kill(os.getpid(), signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            build(api)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert calls.steps == ([] if api is V8 else [False] * 8)


@each_generation
def test_what_cannot_be_built_is_one_line(
    build: Build, calls: Calls, api: Api, complains: Any
) -> None:
    calls.parses = False
    with complains(ExportError, "x4.onnx", generation(api).name, "Unsupported operator: Fancy"):
        build(api)
    calls.parses, calls.builds = True, False
    with complains(ExportError, "x4.onnx", generation(api).name, "no tactic for node_conv"):
        build(api)
    calls.takes_profiles = False
    with complains(UsageError, "4x256x256,4x256x256,4x256x256", "(--shapes)"):
        build(api)


def test_the_fake_has_what_the_real_library_has() -> None:
    if library_of("tensorrt-rtx") is None:
        pytest.skip("TensorRT-RTX is not installed: pip install 'srtool[rtx]'")
    real, fake = load_library("tensorrt-rtx"), fake_module(RTX, Calls())
    for name, value in vars(fake).items():
        assert hasattr(real, name), name
        if isinstance(value, type) and issubclass(value, IntEnum):
            assert [
                member for member in value.__members__ if not hasattr(getattr(real, name), member)
            ] == []
    config = RTX.names("IBuilderConfig")
    assert config
    assert [name for name in config if not hasattr(real.IBuilderConfig, name)] == []


# Weights for a stripped plan


@pytest.fixture
def source(generator_export: Any) -> Path:
    path: Path = generator_export.folder / "x4.onnx"
    return path


@pytest.mark.parametrize("api", [V10, V11, RTX], ids=lambda api: api.version)
def test_weights_are_put_in(calls: Calls, api: Api, source: Path) -> None:
    assert refitted(fake_module(api, calls), b"stripped", source) == b"plan with weights"
    assert calls.settings == {"cleared": "EXCLUDE_WEIGHTS"}


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"parses": False}, "body.0.weight"),
        ({"missing_weights": ["body.1.weight"]}, "body.1.weight"),
        ({"builds": False}, "does not say why"),
    ],
)
def test_weights_that_do_not_fit(
    calls: Calls, source: Path, complains: Any, changes: dict[str, Any], word: str
) -> None:
    vars(calls).update(changes)
    with complains(ExportError, "x4.onnx", word):
        refitted(fake_module(V10, calls), b"stripped", source)


def test_a_plan_that_does_not_open_for_weights(calls: Calls, source: Path, complains: Any) -> None:
    with complains(ExportError, "does not open", "magic tag"):
        refitted(fake_module(V11, calls), b"damaged", source)


def test_only_8_6_has_to_be_asked_to_share_profiles(build: Build, calls: Calls) -> None:
    build(V8)
    assert calls.settings.pop("PROFILE_SHARING_0806") is True
    for api in (V10, V11, RTX):
        build(api)
        assert "PROFILE_SHARING_0806" not in calls.settings
