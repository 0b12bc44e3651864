"""What the server takes, and what it says to the rest."""

from __future__ import annotations

from dataclasses import dataclass
from http.client import responses

from starlette.responses import JSONResponse


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
