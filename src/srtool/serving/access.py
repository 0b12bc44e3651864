"""What the server takes and from whom, and what it says to the rest: no page of another site, no
name that was bent to this machine, and with a token only who has it.

A server on 127.0.0.1 can be reached from every page that the browser beside it shows: by posts
across sites, which carry an Origin header, and by a name of the attacker's that suddenly resolves
to 127.0.0.1 (DNS rebinding), which stands in the Host header. An IP address in the Host header
cannot be bent.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from http import HTTPStatus
from http.client import responses
from ipaddress import ip_address

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN = frozenset({"/", "/healthz", "/readyz"})  # and the page's files: nothing in them is secret
PAGE = "/page/"

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Limits:
    """megabytes: of a picture as it is sent. megapixels: of a picture as it comes; its result may
    have 64 times that. waiting: pictures that wait for their turn. seconds: that a picture may
    take once it is its turn. silence: seconds that a sender may pause."""

    megabytes: float = 64
    megapixels: float = 50
    waiting: int = 16
    seconds: float = 1800
    silence: float = 60

    @property
    def bytes(self) -> int:
        return int(self.megabytes * 1e6)

    @property
    def pixels(self) -> int:
        return int(self.megapixels * 1e6)


DEFAULT_LIMITS = Limits()


class Refusal(Exception):
    """A request that is not carried out. detail: one line for whoever sent it."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = int(status), detail, headers

    def answer(self) -> JSONResponse:
        """The error as RFC 9457 has it."""
        content = {"title": responses.get(self.status, ""), "status": self.status}
        content["detail"] = self.detail
        kind = "application/problem+json"
        return JSONResponse(content, self.status, self.headers, media_type=kind)


class Access:
    """An ASGI layer around the application. names: host names, besides localhost, that the server
    goes by; token: what every request must carry, None where none is asked for."""

    def __init__(self, app: ASGIApp, names: frozenset[str], token: str | None) -> None:
        self._app, self._names, self._token = app, names | {"localhost"}, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        headers = Headers(scope=scope)
        if reason := self._foreign(headers):
            refusal = Refusal(HTTPStatus.FORBIDDEN, reason)
            await refusal.answer()(scope, receive, send_guarded)
        elif self._token and not _is_open(scope["path"]) and not self._has_token(headers):
            detail = "a token is needed: Authorization: Bearer TOKEN, as the server printed it"
            refusal = Refusal(HTTPStatus.UNAUTHORIZED, detail, {"WWW-Authenticate": "Bearer"})
            await refusal.answer()(scope, receive, send_guarded)
        else:
            await self._app(scope, receive, send_guarded)

    def _foreign(self, headers: Headers) -> str:
        """Why the request comes from elsewhere; empty where it does not."""
        host = headers.get("host", "")
        if not self._is_ours(host):
            return f"Host: {host[:100]!r} is no name of this server"
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return f"Origin: {origin[:100]!r} is another site"
        return ""

    def _is_ours(self, host: str) -> bool:
        name = host[: host.rfind("]") + 1] if host.startswith("[") else host.partition(":")[0]
        if name.lower() in self._names:
            return True
        try:
            ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True

    def _has_token(self, headers: Headers) -> bool:
        assert self._token is not None
        kind, _, given = headers.get("authorization", "").partition(" ")
        # in time that does not tell how much of it is right
        return kind.lower() == "bearer" and hmac.compare_digest(
            given.strip().encode(), self._token.encode()
        )


def _is_open(path: str) -> bool:
    return path in OPEN or path.startswith(PAGE)
