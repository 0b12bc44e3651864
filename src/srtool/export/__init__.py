"""Export: a network in, ONNX files that compute the same function out.

`srtool.export(...)` is a call and `srtool.export` a folder: the module of the folder can be called.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from srtool.export.onnx import Written
    from srtool.networks.network import Network


def export(  # noqa: PLR0913 - of the public API, as keywords
    model: str | Path | Network,
    out: str | Path | None = None,
    precision: Literal["fp32", "fp16", "both"] = "fp32",
    io: Literal["uint8", "float32"] = "uint8",
    images: str | Path | None = None,
    force: bool = False,
    device: int | None = None,
) -> list[Written]:
    """Write the engine files of a network, certified against PyTorch, with their manifests.

    model: weights (.safetensors, .pth), or what `load_network` made of them. out: the .onnx file,
        default beside the weights; "both" and uint8 put others beside it. images: a folder of HR
        photographs to certify with, default those that ship. force: keep a file that fails.
        device: number of the GPU to compare on, where there is one, default the first.
    CheckpointError where the weights are no network, UsageError where `out` is no .onnx file,
    ExportError where a file does not do what the network does, EngineError for a GPU that is not
    there.
    """
    from srtool.errors import UsageError
    from srtool.export import onnx
    from srtool.networks.loading import load_network
    from srtool.networks.network import Network
    from srtool.runtime.gpu.devices import check_device

    check_device(device)
    network = model if isinstance(model, Network) else load_network(model)
    target = network.path.with_suffix(".onnx") if out is None else Path(out)
    if target.suffix != ".onnx":
        raise UsageError(
            f"{target}: an engine file of this kind ends in .onnx", path=target, parameter="out"
        )
    folder = None if images is None else Path(images)
    return onnx.export(network, target, onnx.ExportConfig(precision, io, folder, force, device))


class _Callable(ModuleType):
    __call__ = staticmethod(export)


sys.modules[__name__].__class__ = _Callable
