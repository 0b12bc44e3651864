"""Options and their values that several commands offer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from srtool.errors import UsageError

if TYPE_CHECKING:
    from srtool.runtime.index import Shard

Backend = Literal[
    "auto", "onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt", "openvino", "torch"
]
RunPrecision = Literal["auto", "fp32", "bf16"]
Format = Literal["text", "md", "latex", "html"]

DeviceOption = Annotated[
    int | None,
    typer.Option(
        min=0, help="Number of the GPU, among those that are visible. (default: the first, if any)"
    ),
]

FormatOption = Annotated[Format, typer.Option("--format", help="Of the tables on standard output.")]


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
