"""Values that several commands offer."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from srtool.errors import UsageError

if TYPE_CHECKING:
    from srtool.runtime.index import Shard

DeviceOption = Annotated[
    int | None,
    typer.Option(
        min=0, help="Number of the GPU, among those that are visible. (default: the first, if any)"
    ),
]


class BackendChoice(str, Enum):
    auto = "auto"
    onnxruntime = "onnxruntime"
    onnxruntime_cuda = "onnxruntime-cuda"
    onnxruntime_tensorrt = "onnxruntime-tensorrt"
    openvino = "openvino"
    torch = "torch"


class RunPrecisionChoice(str, Enum):
    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class FormatChoice(str, Enum):
    text = "text"
    md = "md"
    latex = "latex"
    html = "html"


def shard_from_text(text: str) -> Shard:
    """ "3/8" -> part 3 of 8; UsageError for anything else."""
    from srtool.runtime.index import Shard

    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UsageError(f"--shard {text}: expected I/N with I from 1 to N, like 3/8")
    return Shard(int(number), int(count))
