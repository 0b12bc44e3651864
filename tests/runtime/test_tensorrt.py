"""Plans of each generation of TensorRT, on a fake module that has what that one has."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srtool.errors import EngineError
from srtool.runtime.backends import tensorrt as backend
from srtool.runtime.backends.tensorrt import TensorRt
from srtool.runtime.engine import Engine, EngineInfo
from srtool.runtime.gpu.machine import load_library, log_of
from srtool.runtime.tiling import upscale_tiled

GENERATIONS = ["8.6", "10.0", "10.4", "10.13", "10.16", "11", "rtx-1.4", "rtx"]


def opened(made: Any, **options: Any) -> Any:
    return backend_of(made, **options).open(made.path, made.facts)


def backend_of(made: Any, **options: Any) -> TensorRt:
    return TensorRt(made.flavour, made.facts.precision, **options)


def engine_of(made: Any, session: Any) -> Engine:
    return Engine(EngineInfo(made.path, made.facts, backend_of(made)), session)


def noise(height: int, width: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("io", ["uint8", "float32"])
@pytest.mark.parametrize("generation", GENERATIONS)
def test_images_of_all_sizes(make_plan: Callable[..., Any], generation: str, io: str) -> None:
    made = make_plan(generation, io=io)
    scheduler = opened(made)
    engine = engine_of(made, scheduler)
    for number, sides in enumerate([(50, 90), (16, 24), (7, 5), (13, 70), (50, 90)]):
        image = noise(*sides, number)
        assert np.array_equal(upscale_tiled(image, engine), image.repeat(4, 0).repeat(4, 1))
    scheduler.close()
    assert made.gpu.used == 0
    assert made.gpu.contexts == []


@pytest.mark.parametrize("generation", GENERATIONS)
def test_scratch_memory_is_ours(make_plan: Any, generation: str) -> None:
    """8.6 says what the largest shape takes; from 10.0 on it is what the shape takes."""
    made = make_plan(generation, scratch=1000)
    scheduler = opened(made)
    pixels = 8 * 32 * 32 if generation == "8.6" else 4 * 16 * 24
    buffers = 4 * 16 * 24 * 3 * (1 + 16)
    assert made.gpu.used == scheduler.layout.slots * (pixels * 1000 + buffers)


@pytest.mark.parametrize("sharing", [False, True])
def test_plans_of_8_6_share_a_profile_only_where_they_were_built_so(
    make_plan: Any, sharing: bool
) -> None:
    made = make_plan("8.6", sharing=sharing)
    scheduler = opened(made)
    assert scheduler.layout.slots == (3 if sharing else 1)
    engine = engine_of(made, scheduler)
    for number, sides in enumerate([(50, 90), (7, 5), (70, 70), (16, 24)]):
        image = noise(*sides, number)
        assert np.array_equal(upscale_tiled(image, engine), image.repeat(4, 0).repeat(4, 1))
    assert (made.gpu.launched > 0) == sharing
    scheduler.close()
    assert made.gpu.used == 0


def test_no_scratch_memory_at_all(make_plan: Any) -> None:
    made = make_plan(scratch=0)
    engine = engine_of(made, opened(made))
    image = noise(30, 30)
    assert np.array_equal(engine.upscale_batch(image[None])[0], image.repeat(4, 0).repeat(4, 1))


def test_other_shapes_share_the_scratch_memory(make_plan: Any) -> None:
    made = make_plan("10.13")
    scheduler = opened(made)
    before = made.gpu.used
    for side in range(4, 17):
        scheduler.run(noise(side, side)[None])
    assert made.gpu.used == before


def test_rtx_compiles_for_the_shape_that_stays(make_plan: Any) -> None:
    made = make_plan("rtx")
    scheduler = opened(made)
    for _ in range(20):
        scheduler.run(noise(16, 24)[None])
    scheduler.run(noise(9, 9)[None])
    kernels = made.tensorrt.DynamicShapesKernelSpecializationStrategy
    graphs = made.tensorrt.CudaGraphStrategy
    contexts = [context() for context in made.tensorrt.made]
    ran = [context.config for context in contexts if context is not None and context.ran]
    main = [config for config in ran if config.cuda_graph_strategy is not None]
    assert len(main) == 3
    for config in main:
        assert config.dynamic_shapes_kernel_specialization_strategy == kernels.EAGER
        assert config.cuda_graph_strategy == graphs.WHOLE_GRAPH_CAPTURE
    (other,) = [config for config in ran if config not in main]
    assert other.dynamic_shapes_kernel_specialization_strategy == kernels.LAZY
    assert made.gpu.launched == 0  # its graphs are its own


def test_rtx_keeps_what_it_compiled(make_plan: Any, tmp_path: Path) -> None:
    made = make_plan("rtx")
    scheduler = opened(made)
    (cache,) = made.tensorrt.caches
    assert cache.loaded == b""
    scheduler.close()
    (file,) = (tmp_path / "cache" / "tensorrt-rtx").iterdir()
    assert file.read_bytes() == b"compiled"
    opened(made)
    assert made.tensorrt.caches[-1].loaded == b"compiled"


def test_a_cache_that_cannot_be_written_is_no_error(
    make_plan: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = make_plan("rtx")
    scheduler = opened(made)
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr(backend, "_cache_file", lambda plan: tmp_path / "file" / "x")
    scheduler.close()


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_damaged_plan(make_plan: Any, complains: Any, generation: str) -> None:
    made = make_plan(generation)
    made.path.write_bytes(b"\0not a plan")
    with complains(EngineError, made.path, "magicTag", f"srtool engine rebuild {made.path}"):
        opened(made)
    assert made.gpu.contexts == []


def test_a_plan_of_another_version(make_plan: Any, complains: Any) -> None:
    made = make_plan("11", version="10.13.3.9")
    with complains(EngineError, "10.13.3.9", "11.4.0.106", "rebuild"):
        opened(made)
    scheduler = opened(made, host_code=True)
    assert scheduler.run(noise(4, 4)[None]).shape == (1, 16, 16, 3)


@pytest.mark.parametrize("facts", [{"io": "float32"}, {"scale": 2}])
def test_a_manifest_of_another_network(make_plan: Any, complains: Any, facts: Any) -> None:
    """A wrong size of the result would be written over other memory."""
    made = make_plan()
    made.facts = made.facts.model_copy(update=facts)
    with complains(EngineError, made.path, "expected"):
        opened(made)


def test_errors_do_not_pile_up(make_plan: Any) -> None:
    made = make_plan(broken="Error Code 2: Internal Error")
    scheduler = opened(made)
    for _ in range(2):
        with pytest.raises(RuntimeError) as caught:
            scheduler.run(noise(16, 24)[None])
        assert str(caught.value) == "Error Code 2: Internal Error"


def test_nothing_installed(make_plan: Any, monkeypatch: pytest.MonkeyPatch, complains: Any) -> None:
    import sys

    made = make_plan()
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with complains(EngineError, made.path, "TensorRT is not installed", "pip install"):
        opened(made)


def test_the_real_rtx_has_these_names() -> None:
    """Its package installs without a GPU, so that what is called can be looked up there."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    module = load_library("tensorrt-rtx")
    text = Path(backend.__file__).read_text(encoding="utf-8")
    for owner, variable in (
        (module.IExecutionContext, "context"),
        (module.ICudaEngine, r"(?:self\.)?engine"),
        (module.IRuntimeConfig, "config"),
        (module.IRuntimeCache, r"_cache"),
    ):
        names = set(re.findall(rf"\b{variable}\.(\w+)", text)) - OLDER
        assert names
        assert [name for name in names if not hasattr(owner, name)] == []
    for name in ("EAGER", "LAZY"):
        assert hasattr(module.DynamicShapesKernelSpecializationStrategy, name)
    assert hasattr(module.CudaGraphStrategy, "WHOLE_GRAPH_CAPTURE")
    assert hasattr(module.ExecutionContextAllocationStrategy, "USER_MANAGED")
    assert hasattr(module.TensorIOMode, "INPUT")
    assert hasattr(module.ILogger, "INTERNAL_ERROR")
    log = log_of(module)
    log.lines.clear()
    log.log(module.ILogger.ERROR, "a line")
    log.log(module.ILogger.WARNING, "not kept")
    assert log.lines == ["a line"]


# Called on generations that have them only.
OLDER = {"device_memory_size", "create_execution_context_without_device_memory"}
