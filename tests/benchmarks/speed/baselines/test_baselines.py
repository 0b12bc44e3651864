"""What people run today: each must make the reference's image, or say in a line why it cannot."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from srtool.benchmarks.speed.baselines import (
    REFERENCE,
    Baseline,
    baselines,
    ncnn,
    plain_onnx,
    pytorch,
)
from srtool.benchmarks.speed.opened import Opened
from srtool.errors import EngineError
from srtool.images.colour import psnr

if TYPE_CHECKING:
    from srtool.networks.generator import GeneratorConfig

Open = Callable[[str, Path], Opened]

ONNX_SIDES = ("ONNX Runtime", "OpenVINO")
OF_GPUS = ("ONNX Runtime CUDA", "ONNX Runtime TensorRT", "TensorRT")


def named(name: str) -> Baseline:
    (found,) = (baseline for baseline in baselines("cpu") if baseline.name == name)
    return found


@pytest.fixture
def open_side(tmp_path: Path) -> Open:
    """A baseline by its name, through pickle as it goes to a worker."""

    def opened(name: str, weights: Path) -> Opened:
        side: Baseline = pickle.loads(pickle.dumps(named(name)))
        return side.open(weights, tmp_path)

    return opened


@pytest.fixture(scope="session")
def generator_weights(
    tiny_config: GeneratorConfig, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A generator with both branches, which changes the enlarged image by about a tenth."""
    import torch
    import torch.nn.functional as F

    from srtool.networks.generator import Generator
    from srtool.networks.loading import save_generator

    torch.manual_seed(0)
    generator = Generator(replace(tiny_config, blocks=1, taps=(1,)))
    large = F.interpolate(torch.rand(1, 3, 24, 24), scale_factor=4.0)
    with torch.no_grad():
        change = generator(large).image - large
    generator.fusion.image.weight.data.mul_(0.1 / float(change.std()))
    path = tmp_path_factory.mktemp("generator") / "tiny.safetensors"
    save_generator(path, generator, {})
    return path


@pytest.fixture(scope="session")
def written(compact_weights: Path, generator_weights: Path) -> dict[Path, Path]:
    """Weights -> a folder that has their ONNX file."""
    found = {path: path.with_suffix(".files") for path in (compact_weights, generator_weights)}
    for weights, folder in found.items():
        plain_onnx.write_plain_onnx(weights, folder)
    return found


@pytest.fixture
def images() -> NDArray[np.uint8]:
    """Two images of an odd size with shading and edges, (2, 37, 51, 3)."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:37, :51]
    shading = np.stack([rows * 3 + 40, columns * 4 + 20, rows + columns + 60], -1)
    edges = 60 * (np.hypot(rows - 15, columns - 20) < 9)[..., None]
    batch = np.stack([shading + edges, shading[::-1, ::-1] - edges])
    return (batch + random.normal(0, 4, batch.shape)).clip(0, 255).astype(np.uint8)


def test_all_that_can_be_compared_are_listed() -> None:
    on_cpu, on_gpu = ([side.name for side in baselines(device)] for device in ("cpu", "cuda"))
    assert on_cpu[0] == on_gpu[0] == REFERENCE
    assert set(on_cpu) >= {
        "ncnn",
        "vs-mlrt, OpenVINO",
        "spandrel + PyTorch tiles",
        *ONNX_SIDES,
        *OF_GPUS,
    }
    assert set(on_gpu) >= {"torch.compile fp16 channels_last", *OF_GPUS}
    assert len(set(on_cpu)) == len(on_cpu)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("PyTorch eager bf16 channels_last", 40),
        ("spandrel + PyTorch tiles", 60),
        ("ONNX Runtime", 60),
        ("OpenVINO", 40),
        ("vs-mlrt, OpenVINO", 40),
        ("vs-mlrt, ONNX Runtime", 60),
        ("ncnn", 50),
    ],
)
def test_a_baseline_makes_the_image_of_the_reference(
    name: str,
    least: float,
    open_side: Open,
    written: dict[Path, Path],
    images: NDArray[np.uint8],
) -> None:
    if name.startswith("vs-mlrt"):
        pytest.importorskip("vapoursynth")
    for weights, folder in written.items():
        expected = open_side(REFERENCE, weights).upscale(images)
        side = named(name).open(weights, folder)
        found = side.upscale(images)
        assert found.dtype == np.uint8
        assert found.shape == expected.shape == (2, 148, 204, 3)
        assert psnr(found, expected) > least
        assert side.upscale(images[1:, 3:, :30]).shape == (1, 136, 120, 3)


def test_the_reference_is_plain_pytorch(
    open_side: Open, generator_weights: Path, images: NDArray[np.uint8]
) -> None:
    import torch

    from srtool.networks.loading import load_network

    side = open_side(REFERENCE, generator_weights)
    with torch.inference_mode():
        planes = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        expected = load_network(generator_weights).upscale(planes).permute(0, 2, 3, 1).numpy()
    levels = np.rint(np.clip(expected, 0, 1) * 255)
    assert np.abs(side.upscale(images) - levels).max() <= 1
    assert (side.precision, side.software) == ("fp32", f"torch {torch.__version__}")


@pytest.mark.slow
def test_a_compiled_network_makes_the_same_image(
    open_side: Open,
    compact_weights: Path,
    images: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(name, "")  # and put back when this is over
    side = open_side("torch.compile bf16 channels_last", compact_weights)
    reference = open_side(REFERENCE, compact_weights)
    for part in (images[:1], images[:, 4:, 7:]):
        assert psnr(side.upscale(part), reference.upscale(part)) > 40
    assert any((tmp_path / "inductor").rglob("*.so"))


def test_float16_computes_the_gradient_map_in_float32(generator_weights: Path) -> None:
    import torch

    from srtool.benchmarks.speed.baselines.half import half_module
    from srtool.networks.loading import load_network

    image = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = half_module(load_network(generator_weights))(image.half())
        expected = load_network(generator_weights).upscale(image)
    assert found.dtype is torch.float16
    assert (found - expected).abs().max() < 4e-3


@pytest.mark.slow
def test_the_float16_file_takes_and_makes_float32(
    generator_weights: Path, tmp_path: Path, images: NDArray[np.uint8], open_side: Open
) -> None:
    import onnx

    path = plain_onnx.write_plain_onnx(generator_weights, tmp_path, half=True)
    model = onnx.load(path)
    ends = (*model.graph.input, *model.graph.output)
    assert {end.type.tensor_type.elem_type for end in ends} == {onnx.TensorProto.FLOAT}
    path.rename(tmp_path / "plain.onnx")
    found = open_side("ONNX Runtime", generator_weights).upscale(images)
    assert psnr(found, open_side(REFERENCE, generator_weights).upscale(images)) > 50


def test_tiles_meet_without_a_seam(
    open_side: Open, compact_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pytorch, "TILE", 16)
    image = np.random.default_rng(0).integers(0, 256, (1, 37, 51, 3), np.uint8)
    expected = open_side(REFERENCE, compact_weights).upscale(image).astype(int)
    tiled = open_side("spandrel + PyTorch tiles", compact_weights)
    monkeypatch.setattr(pytorch, "OVERLAP", 3)  # as far as three 3x3 convolutions see
    assert np.abs(tiled.upscale(image) - expected).max() <= 1
    monkeypatch.setattr(pytorch, "OVERLAP", 2)
    assert np.abs(tiled.upscale(image) - expected).max() > 1


def test_tiles_say_who_opened_the_file(
    open_side: Open, compact_weights: Path, generator_weights: Path
) -> None:
    ours = open_side("spandrel + PyTorch tiles", generator_weights).software
    assert "spandrel does not know the architecture" in ours
    assert ", spandrel 0." in open_side("spandrel + PyTorch tiles", compact_weights).software


@pytest.mark.parametrize("name", OF_GPUS)
def test_what_takes_a_gpu_says_so(
    name: str, compact_weights: Path, tmp_path: Path, complains: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("srtool.runtime.gpu.cuda.find_gpu", lambda: None)
    side = named(name)
    assert side.prepare is not None
    for function in (side.open, side.prepare):
        with complains(EngineError, "takes an NVIDIA GPU"):
            function(compact_weights, tmp_path)
    assert not any(tmp_path.iterdir())


def test_tensorrt_gets_the_float16_file_and_its_plan_is_run(
    compact_weights: Path, tmp_path: Path, images: NDArray[np.uint8], monkeypatch: Any
) -> None:
    """With everything that takes a GPU replaced: what is handed from one to the next."""
    from srtool.export.tensorrt.builder import Plan
    from srtool.runtime.backends.tensorrt import TensorRt
    from srtool.runtime.gpu.machine import Library, Machine
    from srtool.runtime.session import DirectSession

    library = Library("tensorrt", "10.13.0.35", 13)
    here = Machine("NVIDIA H100", "9.0", libraries={"tensorrt": library})
    sources = []

    def plan(module: Any, generation: Any, blueprint: Any) -> Plan:
        facts = blueprint.facts
        sources.append((generation.name, blueprint.source.name, facts.precision, facts.io))
        return Plan(b"a plan", 1.0)

    def session(self: TensorRt, path: Path, facts: Any) -> Any:
        assert path.read_bytes() == b"a plan"
        assert (facts.scale, self.library) == (4, "tensorrt")
        return DirectSession(facts, lambda batch: batch.repeat(4, 2).repeat(4, 3))

    monkeypatch.setattr("srtool.runtime.gpu.cuda.find_gpu", lambda: "a GPU")
    monkeypatch.setattr("srtool.runtime.gpu.machine.this_machine", lambda: here)
    monkeypatch.setattr("srtool.runtime.gpu.machine.load_library", lambda flavour: None)
    monkeypatch.setattr("srtool.export.tensorrt.builder.plan_from_onnx", plan)
    monkeypatch.setattr(TensorRt, "open", session)
    for _ in range(2):
        side = named("TensorRT").open(compact_weights, tmp_path)
        assert (side.software, side.precision) == ("tensorrt 10.13.0.35", "fp16")
        assert np.array_equal(side.upscale(images), images.repeat(4, 1).repeat(4, 2))
    assert sources == [("TensorRT 10", "plain.fp16.onnx", "fp16", "float32")]


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("ONNX Runtime", "onnxruntime", "cpu"),
        ("OpenVINO", "openvino", "cpu"),
        ("spandrel + PyTorch tiles", "spandrel", "export"),
        ("ncnn", "ncnn", "baselines"),
        ("ncnn", "pnnx", "baselines"),
        ("vs-mlrt, OpenVINO", "vapoursynth", "baselines"),
        ("vs-mlrt, ONNX Runtime", "vapoursynth", "baselines"),
    ],
)
def test_what_is_not_installed_says_how_to_get_it(
    name: str,
    package: str,
    extra: str,
    open_side: Open,
    compact_weights: Path,
    complains: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with complains(EngineError, f"is not installed; pip install 'srtool[{extra}]'"):
        open_side(name, compact_weights)


def test_a_cpu_without_bfloat16_is_refused(
    open_side: Open, compact_weights: Path, complains: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_f": True})
    with complains(EngineError, "no bfloat16 instructions"):
        open_side("PyTorch eager bf16 channels_last", compact_weights)


def test_a_compiler_that_is_missing_is_named(
    open_side: Open, compact_weights: Path, complains: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr("shutil.which", lambda name: None)
    with complains(EngineError, "C++ compiler"):
        open_side("torch.compile bf16 channels_last", compact_weights)


def test_an_operation_that_ncnn_lacks_is_named(
    open_side: Open, compact_weights: Path, tmp_path: Path, complains: Any
) -> None:
    pytest.importorskip("ncnn")
    lines = "7767517\n2 2\nInput in0 0 1 in0\ntorch.fft fft_0 1 1 in0 out0\n"
    (tmp_path / ncnn.PARAM).write_text(lines)
    (tmp_path / ncnn.WEIGHTS).touch()
    with complains(EngineError, "pnnx does not convert torch.fft"):
        open_side("ncnn", compact_weights)


def test_a_conversion_that_changes_the_network_is_refused(
    open_side: Open,
    compact_weights: Path,
    tmp_path: Path,
    complains: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("ncnn")
    from torch import nn

    half_done = nn.Upsample(scale_factor=4)
    monkeypatch.setattr(ncnn, "_traceable", lambda module: half_done)
    with complains(EngineError, "another network", "dB"):
        open_side("ncnn", compact_weights)
    assert not (tmp_path / ncnn.WEIGHTS).exists()


def test_a_converter_that_crashes_is_told_of(
    open_side: Open, compact_weights: Path, complains: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ncnn")
    crashed = subprocess.CompletedProcess([], -11)
    monkeypatch.setattr(ncnn.subprocess, "run", lambda *arguments, **options: crashed)
    with complains(EngineError, "pnnx crashes (signal 11)"):
        open_side("ncnn", compact_weights)


@pytest.mark.parametrize("name", [*ONNX_SIDES, "ncnn"])
def test_a_prepared_baseline_opens_without_pytorch(
    name: str, compact_weights: Path, written: dict[Path, Path]
) -> None:
    side, folder = named(name), written[compact_weights]
    assert side.prepare is not None
    side.prepare(compact_weights, folder)
    script = (
        "import sys; from pathlib import Path\n"
        "from srtool.benchmarks.speed.baselines import baselines\n"
        "assert not {'torch', 'onnxruntime', 'openvino', 'ncnn', 'spandrel'} & set(sys.modules)\n"
        f"(side,) = (b for b in baselines('cpu') if b.name == {name!r})\n"
        "side.open(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", script, str(compact_weights), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
