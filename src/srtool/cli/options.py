"""Options and their values that several commands offer."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

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


class WithDefault(TyperGroup):
    """A group whose first command is meant where none is named: `srtool train lite.yaml` beside
    `srtool train prepare DIR`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands:
            args = [next(iter(self.commands)), *args]
        return super().parse_args(ctx, args)


def shard_from_text(text: str) -> Shard:
    """ "3/8" -> part 3 of 8; UsageError for anything else."""
    from srtool.runtime.index import Shard

    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UsageError(f"--shard {text}: expected I/N with I from 1 to N, like 3/8")
    return Shard(int(number), int(count))
