"""Who may ask: names that are bent here, other sites, callers without the token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from srtool.serving.app import PAGE

Start = Callable[..., Any]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:1", 200),  # by way of a tunnel
        ("127.0.0.1", 200),
        ("[::1]:8765", 200),
        ("192.168.1.7:8765", 200),
        ("LOCALHOST", 200),
        ("ours.example", 200),
        ("evil.example", 403),
        ("evil.example:8765", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("", 403),
    ],
)
def test_host(host: str, status: int, start: Start) -> None:
    client = start(names=frozenset({"ours.example"}))
    assert client.get("/v1/models", Host=host).status == status
    assert client.get("/", Host=host).status == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:8765", 200),
        ("https://localhost:8765", 200),
        ("http://localhost:9999", 403),
        ("http://evil.example", 403),
        ("null", 403),
        ("", 403),
    ],
)
def test_origin(origin: str, status: int, start: Start, photographs: Path) -> None:
    headers = {"Host": "localhost:8765", "Origin": origin}
    body = (photographs / "0.png").read_bytes()
    assert start().ask("POST", "/v1/upscale", body, headers).status == status


def test_token(start: Start, photographs: Path) -> None:
    client = start(token="open sesame")
    photo = photographs / "0.png"
    for given in ({}, {"Authorization": "Bearer other"}, {"Authorization": "open sesame"}):
        client.headers = given
        for method, path in (("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/openapi.json")):
            answer = client.ask(method, path)
            assert answer.status == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert "open sesame" not in answer.detail
        assert client.upscale(photo).status == 401
        for path in ("/", "/page/main.js", "/healthz", "/readyz"):
            assert client.get(path).status == 200
    client.headers = {"Authorization": "Bearer open sesame"}
    assert client.upscale(photo).status == 200


@pytest.mark.parametrize("path", ["/", "/page/main.js", "/v1/models", "/nowhere", "/healthz"])
def test_headers(path: str, start: Start) -> None:
    found = start().get(path).headers
    policy = found["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert found["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in found
    assert "server" not in found


@pytest.mark.parametrize("path", ["/page/../app.py", "/page/%2e%2e/app.py", "/page//etc/passwd"])
def test_files_beside_the_page(path: str, start: Start) -> None:
    assert start().get(path).status == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/upscale", 404), ("POST", "/page/none", 405), ("DELETE", "/v1/models", 405)],
)
def test_paths_and_methods_that_there_are_not(
    method: str, path: str, status: int, start: Start
) -> None:
    answer = start().ask(method, path)
    assert answer.status == status
    assert f"{method} {path}" in answer.detail


def test_what_the_page_is_made_of(start: Start) -> None:
    client = start()
    for file in PAGE.iterdir():
        text = file.read_text(encoding="utf-8")
        assert "innerHTML" not in text
        outside = text.replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in outside
        assert "https:" not in outside
        assert client.get(f"/page/{file.name}").body == file.read_bytes()
