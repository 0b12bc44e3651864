"""`srtool serve`: a page in the browser and an HTTP API, on this machine; `srtool triton`: engines
-> a model repository that Triton serves."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from srtool.cli import console
from srtool.cli.console import needing
from srtool.cli.options import Backend, DeviceOption
from srtool.errors import UsageError


def serve(
    engine: Annotated[
        list[str] | None,
        typer.Option(
            help="A shipped network's name, or a file; several may be given. Default: all that "
            "are shipped."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but 127.0.0.1 asks for a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 8765,
    token: Annotated[
        str | None, typer.Option(help="What callers must know.", envvar="SRTOOL_TOKEN")
    ] = None,
    backend: Annotated[Backend, typer.Option()] = "auto",
    device: DeviceOption = None,
    max_megabytes: Annotated[float, typer.Option(min=0.001, help="Of one picture.")] = 64,
    max_megapixels: Annotated[float, typer.Option(min=0.001, help="Of one picture.")] = 50,
    max_waiting: Annotated[int, typer.Option(min=1, help="Pictures in the queue.")] = 16,
    max_seconds: Annotated[float, typer.Option(min=0.1, help="For one picture.")] = 1800,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page.")] = False,
) -> None:
    """A page in the browser, and an HTTP API (described in /openapi.json). Ctrl-C ends it."""
    with needing("serve"):
        from srtool.serving.access import Limits
        from srtool.serving.server import serve as run
    from srtool.models import engine_path, model_names
    from srtool.runtime.opening import open_engine

    limits = Limits(max_megabytes, max_megapixels, max_waiting, max_seconds)
    if token is not None and not token.strip():
        raise UsageError("the token is empty; leave it out and one is made where it is needed")

    def announce(address: str) -> None:
        console.answer(address)
        if open_browser:
            typer.launch(address)

    with ExitStack() as stack:
        engines = {}
        for named in engine or model_names():
            path = engine_path(named)
            if path.stem in engines:
                raise UsageError(f"{path}: another engine is called {path.stem} as well")
            name = path.stem
            opened = stack.enter_context(open_engine(path, backend, device=device))
            engines[name] = opened
            console.say(f"{name}: {opened.path} on {opened.backend} ({opened.reason})")
            if opened.uncertified_reason:
                console.say(f"{name}: is not certified: {opened.uncertified_reason}")
        run(engines, host, port, token, limits, announce)


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
