"""The server: a socket, a folder of its own, and an end that loses nothing."""

from __future__ import annotations

import logging
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from types import FrameType

import uvicorn
from fastapi import FastAPI

from srtool.errors import UsageError
from srtool.files import private_folder
from srtool.runtime.engine import Engine
from srtool.serving.access import DEFAULT_LIMITS, Limits
from srtool.serving.app import make_app


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def serve(
    engines: Mapping[str, Engine],
    host: str = "127.0.0.1",
    port: int = 8765,
    token: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
    announce: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve until SIGTERM or SIGINT; pictures that are under way are finished first, a second
    signal ends them. Beyond this machine everyone needs a token: one is made where none is given.
    port: 0 for a free one. announce: gets the address of the page, with the token. UsageError
    where the address cannot be had."""
    if token is None and not is_loopback(host):
        token = secrets.token_urlsafe(24)
    with _listening(host, port) as sock, private_folder() as folder:
        names = frozenset({host, socket.gethostname().lower()})
        app = make_app(engines, folder, limits, names, token)
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{sock.getsockname()[1]}/"
        shown = f"{address}#token={token}" if token else address
        server = server_of(app, lambda: announce(shown))
        # uvicorn drains, and then sends itself the signal once more
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            server.run(sockets=[sock])
        finally:
            signal.signal(signal.SIGTERM, before)


class Server(uvicorn.Server):
    """Tells when it listens. What a second signal cuts off ends without a traceback."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        if self.force_exit:
            logging.getLogger("uvicorn.error").disabled = True


def server_of(app: FastAPI, announce: Callable[[], None] = lambda: None) -> Server:
    """The server of an application; it ends when what is under way is done."""
    config = uvicorn.Config(
        app, port=0, log_config=None, access_log=False, server_header=False, ws="none"
    )
    return Server(config, announce)


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=256)
    except OSError as error:
        raise UsageError(
            f"{host} port {port}: cannot be listened on ({error.strerror or error}); "
            "name another port"
        ) from None
