"""The server: a socket, a folder of its own, and an end that loses nothing."""

from __future__ import annotations

import secrets
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from ipaddress import ip_address

import uvicorn
from fastapi import FastAPI

from srtool.errors import UsageError
from srtool.runtime.engine import Engine
from srtool.serving.app import Served, make_app
from srtool.serving.limits import DEFAULT_LIMITS, Limits
from srtool.serving.temporary import private_folder


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
        app = make_app(Served(engines, folder, limits, names, token))
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{sock.getsockname()[1]}/"
        announce(f"{address}#token={token}" if token else address)
        # uvicorn drains, and then sends itself the signal once more
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            server_of(app).run(sockets=[sock])
        finally:
            signal.signal(signal.SIGTERM, before)


def server_of(app: FastAPI, port: int = 0) -> uvicorn.Server:
    """The server of an application; it ends when what is under way is done."""
    return uvicorn.Server(
        uvicorn.Config(
            app, port=port, log_config=None, access_log=False, server_header=False, ws="none"
        )
    )


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=256)
    except OSError as error:
        raise UsageError(
            f"{host} port {port}: cannot be listened on ({error.strerror or error}); "
            "name another port"
        ) from None
