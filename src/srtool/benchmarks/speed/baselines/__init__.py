"""What people run today: other ways to upscale with the same weights, each opened by name.

They are written as the scripts that one finds: library defaults, whole images, nothing of what
srtool's exporter does to a network. Openers run in a fresh process and import what they need
themselves, so that the time to load and the memory of the process are the library's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from srtool.benchmarks.speed.baselines import mlrt, ncnn, pytorch, tensorrt
from srtool.benchmarks.speed.baselines.plain_onnx import (
    Provider,
    open_onnxruntime,
    open_openvino,
    prepare_onnxruntime,
    prepare_openvino,
)
from srtool.benchmarks.speed.opened import Opened

Device = pytorch.Device
REFERENCE = "PyTorch eager fp32"


@dataclass(frozen=True)
class Baseline:
    """Both functions take weights (.pth, .safetensors) and a folder for files, and can be pickled.

    open: returns the network, ready. EngineError, in one line, or RuntimeError where it cannot be
    run here. prepare: what is done once and by another program, such as writing an ONNX file: to
    be called before, in a process of its own, so that neither its seconds nor its memory count as
    the baseline's; `open` does it where it was not. Raises the same; None where there is nothing.
    """

    name: str
    open: Callable[[Path, Path], Opened]
    prepare: Callable[[Path, Path], object] | None = None


def baselines(device: Device) -> tuple[Baseline, ...]:
    """The reference first. For the CPU those of GPUs are listed too: opening them says what they
    lack; on a GPU those that run on the CPU are left out."""
    half = "bf16" if device == "cpu" else "fp16"
    everywhere = (
        Baseline(REFERENCE, partial(pytorch.open_eager, device)),
        Baseline(f"PyTorch eager {half} channels_last", partial(pytorch.open_half, device, False)),
        Baseline(f"torch.compile {half} channels_last", partial(pytorch.open_half, device, True)),
        Baseline("spandrel + PyTorch tiles", partial(pytorch.open_tiles, device)),
    )
    on_cpu = (
        _onnxruntime("ONNX Runtime", "cpu"),
        Baseline("OpenVINO", open_openvino, prepare_openvino),
        _mlrt("vs-mlrt, OpenVINO", "ov"),
        _mlrt("vs-mlrt, ONNX Runtime", "ort"),
        Baseline("ncnn", ncnn.open_ncnn, ncnn.convert),
    )
    on_gpu = (
        _onnxruntime("ONNX Runtime CUDA", "cuda"),
        _onnxruntime("ONNX Runtime TensorRT", "tensorrt"),
        Baseline("TensorRT", tensorrt.open_tensorrt, tensorrt.build),
    )
    return everywhere + (on_cpu if device == "cpu" else ()) + on_gpu


def _onnxruntime(name: str, provider: Provider) -> Baseline:
    return Baseline(
        name, partial(open_onnxruntime, provider), partial(prepare_onnxruntime, provider)
    )


def _mlrt(name: str, plugin: mlrt.Plugin) -> Baseline:
    return Baseline(name, partial(mlrt.open_mlrt, plugin), partial(mlrt.prepare_mlrt, plugin))
