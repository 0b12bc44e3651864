"""`srtool triton`: engines -> a model repository that Triton serves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from srtool.cli import needing
from srtool.cli import progress as console


def triton(
    engines: Annotated[
        list[str],
        typer.Argument(help="A network's .onnx file and plans, or a shipped network's name."),
    ],
    repository: Annotated[Path, typer.Argument(help="The model repository, a folder.")],
    name: Annotated[
        str | None, typer.Option(help="Of the models (default: that of the first engine).")
    ] = None,
    version: Annotated[int, typer.Option(min=1, help="Of the models.")] = 1,
) -> None:
    """Write models for NVIDIA's Triton server: NAME (ONNX), NAME_plan (TensorRT) and
    NAME_pictures (pictures of any size)."""
    with needing("triton"):
        from srtool.serving.triton.repository import write_repository

    for written in write_repository(engines, repository, name, version):
        console.answer(f"{written.folder}  {written.what}")
    console.say(f"tritonserver --model-repository {repository.resolve()}")
