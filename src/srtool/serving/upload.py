"""A request's body, to a file or to nowhere, within the limits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from pathlib import Path

import anyio
from starlette.requests import ClientDisconnect, Request

from srtool.images.reading import image_size
from srtool.serving.limits import Limits, Refusal
from srtool.serving.queue import Order, Task

GROWTH = 64  # times the pixels that a picture may have, its result may have


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
