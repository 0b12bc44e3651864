"""The HTTP API and the page."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from srtool.errors import SrtoolError
from srtool.images.formats import HEAD, Written, suffix_of
from srtool.images.picture import Size
from srtool.runtime.engine import Engine
from srtool.runtime.upscaling import Options
from srtool.serving.access import DEFAULT_LIMITS, Access, Limits, Refusal
from srtool.serving.queue import MEDIA_TYPES, Metrics, Order, Queue, Task
from srtool.serving.transfer import (
    GONE,
    Result,
    check_size,
    discard_body,
    refusal_from_error,
    refusal_from_validation,
    save_body,
    while_awaited,
)
from srtool.version import __version__

PAGE = Path(__file__).parent / "page"


class Model(BaseModel):
    """A network. uncertified: why its results are not certified, empty where they are."""

    name: str
    scale: int
    architecture: str
    precision: str
    backend: str
    uncertified: str


class Models(BaseModel):
    """The networks, the default first, and what the server takes."""

    models: list[Model]
    formats: list[str]
    max_bytes: int
    max_pixels: int
    version: str


class Parameters(BaseModel, extra="forbid"):
    """What is to be done with a picture."""

    engine: str | None = Field(None, description="A network's name. Default: the first.")
    format: Written | None = Field(None, description="Default: the picture's own.")
    quality: int | None = Field(None, ge=1, le=100, description="Of JPEG, WebP and AVIF.")
    depth: int | None = Field(None, ge=8, le=8, description="8: never more than 8 bits.")
    name: str = Field("picture", max_length=255, description="What messages call it.")
    id: str | None = Field(
        None,
        pattern="^[A-Za-z0-9-]{8,64}$",
        description="Made up by the caller, to ask for /v1/progress/{id} meanwhile.",
    )

    scale: float | None = Field(None, gt=0, le=64, description="Of the result to the picture.")
    width: int | None = Field(None, ge=1, description="Of the result, pixels.")
    height: int | None = Field(None, ge=1, description="Of the result, pixels.")
    long_side: int | None = Field(None, ge=1, description="Of the result, pixels.")
    fit: str | None = Field(
        None, pattern=r"^[1-9]\d{0,6}x[1-9]\d{0,6}$", description="WIDTHxHEIGHT of a box to fill."
    )
    megapixels: float | None = Field(None, gt=0, description="Of the result.")

    def options(self) -> Options:
        """UsageError where several sizes are given."""
        box = None
        if self.fit is not None:
            width, _, height = self.fit.partition("x")
            box = int(width), int(height)
        asked = (self.scale, self.width, self.height, self.long_side, box, self.megapixels)
        size = None if all(each is None for each in asked) else Size(*asked)
        return Options(depth=self.depth, quality=self.quality, size=size)


class Progress(BaseModel):
    """Of a picture. stage: "none" where it is not on its way. before: pictures that come first.
    done, total: tiles, as far as is known."""

    stage: str
    before: int
    done: int
    total: int


_PICTURE = {"schema": {"type": "string", "format": "binary"}}
_BODY = {"requestBody": {"required": True, "content": {"image/*": _PICTURE}}}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The upscaled picture.",
        "content": dict.fromkeys(MEDIA_TYPES.values(), _PICTURE),
    },
    400: {"description": "A parameter is wrong, or there is no picture."},
    413: {"description": "The picture has too many bytes or pixels."},
    422: {"description": "The picture cannot be read, upscaled or written."},
    429: {"description": "Too many pictures are waiting; see Retry-After."},
    503: {"description": "The picture took too long."},
}


def make_app(
    engines: Mapping[str, Engine],
    folder: Path,
    limits: Limits = DEFAULT_LIMITS,
    names: frozenset[str] = frozenset(),
    token: str | None = None,
) -> FastAPI:
    """The application, for any ASGI server. engines: by the names that callers use, the first is
    the default. folder: the only one written to. names, token: see `Access`."""
    metrics, tasks = Metrics(), dict[str, Task]()
    queue = Queue(engines, limits, metrics)
    app = FastAPI(
        title="srtool",
        version=__version__,
        description="Super-resolution: a picture in, a larger picture out.",
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(Access, names=names, token=token)
    app.mount("/page", StaticFiles(directory=PAGE), name="page")

    @app.exception_handler(Refusal)
    def refuse(request: Request, error: Refusal) -> Response:
        metrics.answers.labels(int(error.status)).inc()
        return error.answer()

    @app.exception_handler(RequestValidationError)
    def refuse_parameters(request: Request, error: RequestValidationError) -> Response:
        return refuse(request, refusal_from_validation(error))

    @app.exception_handler(ClientDisconnect)
    def let_go(request: Request, error: ClientDisconnect) -> Response:
        return refuse(request, Refusal(GONE, "nobody waits for it"))

    @app.exception_handler(HTTPException)
    def refuse_path(request: Request, error: HTTPException) -> Response:
        what = f"{request.method} {request.url.path}: {error.detail}; see /openapi.json"
        return Refusal(error.status_code, what, dict(error.headers or {})).answer()

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @app.get("/v1/models")
    def models() -> Models:
        """The networks, the default first, and what the server takes."""
        return Models(
            models=[_model(name, engine) for name, engine in engines.items()],
            formats=list(MEDIA_TYPES),
            max_bytes=limits.bytes,
            max_pixels=limits.pixels,
            version=__version__,
        )

    @app.post("/v1/upscale", response_class=FileResponse, openapi_extra=_BODY, responses=_ANSWERS)
    async def upscale(request: Request, wanted: Annotated[Parameters, Query()]) -> Response:
        """Upscale the picture that is the body."""
        engine = wanted.engine or next(iter(engines))
        if engine not in engines:
            known = ", ".join(engines)
            raise Refusal(HTTPStatus.BAD_REQUEST, f"engine: {engine} is not served, only {known}")
        if queue.is_full:
            refusal = queue.refusal()
            await discard_body(request, limits)
            raise refusal
        with _listed(tasks, wanted.id) as task:
            own = Path(tempfile.mkdtemp(dir=folder))
            source = own / "source"
            try:
                await save_body(request, source, limits)
                kind = wanted.format or _format_of(source)
                order = Order(engine, source, kind, wanted.options(), wanted.name)
                check_size(order, engines[engine].facts.scale, limits)
                await while_awaited(request, task, partial(queue.upscale, order, task))
            except BaseException as error:
                shutil.rmtree(own, ignore_errors=True)
                if isinstance(error, SrtoolError):
                    raise refusal_from_error(error, own, wanted.name) from None
                raise
            metrics.answers.labels(200).inc()
            return Result(order, task)

    @app.get("/v1/progress/{id}")
    def progress(id: str) -> Progress:
        """How far a picture is."""
        task = tasks.get(id)
        if task is None:
            return Progress(stage="none", before=0, done=0, total=0)
        before = queue.before(task)
        return Progress(stage=task.stage, before=before, done=task.done, total=task.total)

    @app.get("/healthz", response_class=PlainTextResponse)
    def healthz() -> str:
        """Whether the server runs."""
        return "ok\n"

    @app.get("/readyz", response_class=PlainTextResponse)
    def readyz() -> PlainTextResponse:
        """Whether it takes another picture now."""
        return PlainTextResponse("busy\n", 503) if queue.is_full else PlainTextResponse("ready\n")

    @app.get("/metrics", response_class=PlainTextResponse)
    def numbers() -> PlainTextResponse:
        """Counters, for Prometheus."""
        return PlainTextResponse(metrics.text(), media_type="text/plain; version=0.0.4")

    return app


@contextmanager
def _listed(tasks: dict[str, Task], id: str | None) -> Iterator[Task]:
    """A new task, to be found by its id until it is done."""
    task = Task()
    if id is None:
        yield task
        return
    if tasks.setdefault(id, task) is not task:
        raise Refusal(HTTPStatus.CONFLICT, f"id {id} is in use")
    try:
        yield task
    finally:
        del tasks[id]


def _format_of(source: Path) -> str:
    """The format of a file by its content, where srtool writes that; else PNG."""
    with source.open("rb") as file:
        return suffix_of(file.read(HEAD))[1:]


def _model(name: str, engine: Engine) -> Model:
    facts = engine.facts
    return Model(
        name=name,
        scale=facts.scale,
        architecture=facts.architecture,
        precision=facts.precision,
        backend=str(engine.backend),
        uncertified=engine.uncertified_reason,
    )
