"""A picture's way in, within the limits, and out: its result, or why there is none."""

from __future__ import annotations

import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from pathlib import Path, PurePath
from urllib.parse import quote

import anyio
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from srtool.errors import ImageError, SrtoolError, UsageError
from srtool.images.reading import image_size
from srtool.serving.access import Limits, Refusal
from srtool.serving.queue import MEDIA_TYPES, Order, Task

GROWTH = 64  # times the pixels that a picture may have, its result may have
GONE = 499  # whoever asked did not wait; nobody reads it
STATUSES: dict[type[Exception], int] = {
    ImageError: HTTPStatus.UNPROCESSABLE_ENTITY,
    UsageError: HTTPStatus.BAD_REQUEST,
}


async def save_body(request: Request, path: Path, limits: Limits) -> None:
    """Write the body to a new file. Refusal where it is empty, too large or too slow."""
    received = 0
    with path.open("xb") as file:
        async for chunk in _chunks(request, limits):
            received += len(chunk)
            if received <= limits.bytes:
                file.write(chunk)
    if received > limits.bytes:
        raise Refusal(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the picture has more than {limits.megabytes:g} MB, which is what this server takes",
        )
    if not received:
        raise Refusal(HTTPStatus.BAD_REQUEST, "the request has no picture: send one as its body")


def check_size(order: Order, scale: int, limits: Limits) -> None:
    """Refusal where a picture has more pixels than are taken, by what its head says, or would get
    too many. scale: of the engine."""
    height, width = image_size(order.source)
    made = order.options.size_of(width, height, scale)
    for verb, sides, most in (
        ("is", (width, height), limits.megapixels),
        ("would become", made, GROWTH * limits.megapixels),
    ):
        if sides[0] * sides[1] > most * 1e6:
            raise Refusal(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"{order.name}: {verb} {sides[0]}x{sides[1]} pixels, more than the {most:g} "
                "megapixels that this server allows",
            )


async def discard_body(request: Request, limits: Limits) -> None:
    """Hear a sender out, who otherwise may miss the answer."""
    async for _ in _chunks(request, limits):
        pass


async def while_awaited(request: Request, task: Task, work: Callable[[], Awaitable[None]]) -> None:
    """Do some work, whose request has been read; end it where whoever asked has gone, and raise
    ClientDisconnect."""
    failure: Exception | None = ClientDisconnect()
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            task.is_awaited = False
            group.cancel_scope.cancel()

        group.start_soon(watch)
        try:
            await work()
            failure = None
        except Exception as error:
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _chunks(request: Request, limits: Limits) -> AsyncIterator[bytes]:
    """The body in pieces, no more than twice what is taken."""
    received, stream = 0, request.stream()
    while received <= 2 * limits.bytes:
        try:
            with anyio.fail_after(limits.silence):
                chunk = await anext(stream, None)
        except TimeoutError:
            raise Refusal(
                HTTPStatus.REQUEST_TIMEOUT,
                f"nothing of the picture came for {limits.silence:g} seconds",
            ) from None
        if chunk is None:
            return
        received += len(chunk)
        yield chunk


class Result(FileResponse):
    """The upscaled picture. Its folder is removed when it has been sent, or cannot be."""

    def __init__(self, order: Order, task: Task) -> None:
        headers = {
            "Server-Timing": ", ".join(
                f"{stage};dur={1000 * seconds:.1f}" for stage, seconds in task.seconds.items()
            ),
            "X-Srtool-Size": "{}x{}".format(*task.size),
        }
        if task.notes:
            notes = (_named(note, order.source.parent, order.name) for note in task.notes)
            headers["X-Srtool-Notes"] = quote("; ".join(notes))
        name = f"{PurePath(order.name).stem}.{order.kind}"
        super().__init__(order.target, 200, headers, MEDIA_TYPES[order.kind], filename=name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            shutil.rmtree(Path(self.path).parent, ignore_errors=True)


def refusal_from_error(error: SrtoolError, folder: Path, name: str) -> Refusal:
    """What the library says of a picture in `folder`, with the name that its sender gave it."""
    return Refusal(STATUSES.get(type(error), 500), _named(str(error), folder, name))


def _named(line: str, folder: Path, name: str) -> str:
    return re.sub(re.escape(str(folder)) + r"[/\\][\w.]+", lambda found: name, line)


def refusal_from_validation(error: RequestValidationError) -> Refusal:
    """Which parameter is wrong, in one line."""
    first = error.errors()[0]
    return Refusal(HTTPStatus.BAD_REQUEST, f"{first['loc'][-1]}: {first['msg']}")
