"""ONNX Runtime, OpenVINO and TensorRT on what torch.onnx.export makes of a network by itself."""

from __future__ import annotations

import importlib.util
import logging
import os
import warnings
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from srtool.benchmarks.speed.opened import (
    Opened,
    levels_from_planes,
    missing,
    planes_from_levels,
)
from srtool.errors import EngineError, in_a_line
from srtool.files import whole_file
from srtool.system import cores

Provider = Literal["cpu", "cuda", "tensorrt"]

_PROVIDERS: dict[Provider, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


def write_plain_onnx(weights: Path, folder: Path, half: bool = False) -> Path:
    """plain.onnx in the folder, unless it is there: (N, 3, H, W) float32 0..1 with free N, H and W,
    everything else by default. half: plain.fp16.onnx, the same around a float16 network.
    EngineError where the network cannot be exported."""
    path = folder / ("plain.fp16.onnx" if half else "plain.onnx")
    if path.is_file():
        return path
    try:
        import torch

        from srtool.benchmarks.speed.baselines.half import FloatEnds, half_module
        from srtool.networks.deployed import example_size, plain_module, shape_dimensions
        from srtool.networks.loading import load_network
    except ImportError:
        raise missing("PyTorch, which makes the ONNX file,", "export") from None
    network = load_network(weights)
    module = FloatEnds(half_module(network)).eval() if half else plain_module(network)
    batch, height, width = example_size(network)
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")  # of the exporter about itself
            program = torch.onnx.export(
                module,
                (torch.rand(batch, 3, height, width),),
                dynamo=True,
                dynamic_shapes=(shape_dimensions(network),),
                verbose=False,
            )
    except Exception as error:
        raise EngineError(f"torch.onnx.export fails with it ({in_a_line(error)})") from None
    finally:
        quiet.setLevel(level)
    assert program is not None
    with whole_file(path) as temporary:
        program.save(temporary, external_data=False)
    return path


def prepare_onnxruntime(provider: Provider, weights: Path, folder: Path) -> Path:
    """The ONNX file, once it is known that ONNX Runtime can run it here; EngineError else."""
    if provider != "cpu":
        check_gpu()
    try:
        import onnxruntime
    except ImportError:
        raise missing("ONNX Runtime", "cpu" if provider == "cpu" else "gpu") from None
    name = _PROVIDERS[provider]
    if name not in onnxruntime.get_available_providers():
        raise EngineError(
            f"this ONNX Runtime has no {name}; pip uninstall onnxruntime, "
            "then pip install onnxruntime-gpu"
        )
    return write_plain_onnx(weights, folder)


def open_onnxruntime(provider: Provider, weights: Path, folder: Path) -> Opened:
    """ONNX Runtime with one of its providers. Those for GPUs compute convolutions in TF32 (CUDA)
    and float16 (TensorRT), as they are usually run."""
    path, name = prepare_onnxruntime(provider, weights, folder), _PROVIDERS[provider]
    import onnxruntime

    if provider != "cpu" and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # CUDA and cuDNN out of their pip packages
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: they come as exceptions
    if cores() < (os.cpu_count() or 1):  # by default it counts those that other processes have, too
        options.intra_op_num_threads = cores()
    providers: list[Any] = [name]
    if provider == "tensorrt":
        providers = [(name, {"trt_fp16_enable": "1"}), _PROVIDERS["cuda"]]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # its exception classes have no common root of their own
        raise EngineError(f"ONNX Runtime does not open it ({in_a_line(error)})") from None
    if session.get_providers()[0] != name:
        raise EngineError(f"{name} does not load; are CUDA, cuDNN and its libraries installed?")
    image = session.get_inputs()[0].name

    def upscale(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        try:
            planes = session.run(None, {image: planes_from_levels(pixels)})[0]
        except Exception as error:  # see above
            raise RuntimeError(in_a_line(error)) from None
        return levels_from_planes(planes)

    precision = {"cpu": "fp32", "cuda": "tf32", "tensorrt": "fp16"}[provider]
    return Opened(upscale, f"onnxruntime {onnxruntime.__version__}", precision)


def prepare_openvino(weights: Path, folder: Path) -> Path:
    """The ONNX file, once it is known that OpenVINO is installed; EngineError else."""
    if not importlib.util.find_spec("openvino"):
        raise missing("OpenVINO", "cpu")
    return write_plain_onnx(weights, folder)


def open_openvino(weights: Path, folder: Path) -> Opened:
    """OpenVINO on the CPU; it chooses the precision itself: bfloat16 where the CPU has it."""
    path = prepare_openvino(weights, folder)
    import openvino

    from srtool.runtime.backends.openvino import process_core

    core = process_core()
    compiled = core.compile_model(core.read_model(str(path)), "CPU")
    kind = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    precision = {"f32": "fp32", "f16": "fp16"}.get(kind, kind)
    request = compiled.create_infer_request()

    def upscale(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        found = request.infer([planes_from_levels(pixels)], share_inputs=True)[0]
        return levels_from_planes(found)

    version = openvino.__version__.partition("-")[0]
    return Opened(upscale, f"openvino {version}", precision)


def check_gpu() -> None:
    """EngineError where there is no NVIDIA GPU."""
    from srtool.runtime.gpu.cuda import find_gpu

    if find_gpu() is None:
        raise EngineError("takes an NVIDIA GPU")
