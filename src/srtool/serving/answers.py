"""What is sent back: a result, or why there is none."""

from __future__ import annotations

import re
import shutil
from http import HTTPStatus
from pathlib import Path, PurePath
from urllib.parse import quote

from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse
from starlette.types import Receive, Scope, Send

from srtool.errors import ImageError, SrtoolError, UsageError
from srtool.serving.kinds import MEDIA_TYPES
from srtool.serving.limits import Refusal
from srtool.serving.queue import Order, Task

GONE = 499  # whoever asked did not wait; nobody reads it
STATUSES: dict[type[Exception], int] = {
    ImageError: HTTPStatus.UNPROCESSABLE_ENTITY,
    UsageError: HTTPStatus.BAD_REQUEST,
}


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
