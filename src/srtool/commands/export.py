"""`srtool export`: weights -> engine files."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from srtool import console
from srtool.commands import needing
from srtool.errors import UsageError


class PrecisionChoice(str, Enum):
    fp32 = "fp32"
    fp16 = "fp16"
    both = "both"


class IoChoice(str, Enum):
    uint8 = "uint8"
    float32 = "float32"


def export(
    model: Annotated[Path, typer.Argument(help="Weights: .safetensors or .pth.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="The .onnx file (default: MODEL.onnx).")
    ] = None,
    precision: Annotated[PrecisionChoice, typer.Option()] = PrecisionChoice.fp32,
    io: Annotated[
        IoChoice, typer.Option(help="Pixels in and out: uint8 NHWC or float32 NCHW (0..1).")
    ] = IoChoice.uint8,
    images: Annotated[
        Path | None, typer.Option(help="HR photographs to certify with (default: shipped).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Keep a file that fails.")] = False,
) -> None:
    """Write ONNX files that compute what the PyTorch network computes, and prove it."""
    with needing("export"):
        import onnxscript  # noqa: F401  # torch looks for it late

        from srtool.export import onnx
        from srtool.train.checkpoint import load_network

    target = out or model.with_suffix(".onnx")
    if target.suffix != ".onnx":
        raise UsageError(f"{target}: an engine file ends in .onnx")
    network = load_network(model)
    with console.status(f"{model.name}: {network.architecture} x{network.scale}") as report:
        written = onnx.export(network, target, precision.value, io.value, images, force, report)
    console.print_written(written)
