"""The command: its address, its end, and what a killed one leaves behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srtool.serving.server import is_loopback

Serve = Callable[..., "Running"]


class Running:
    """`srtool serve` in a process of its own."""

    def __init__(self, *arguments: object, temporary: Path) -> None:
        command = [sys.executable, "-m", "srtool", "serve", "--port", "0", *map(str, arguments)]
        environment = {**os.environ, "TMPDIR": str(temporary)}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        found = re.search(r":(\d+)/", self.address)
        assert found, self.process.communicate()[1]
        self.port = int(found[1])

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
        from http.client import HTTPConnection

        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def end(self, number: int) -> tuple[int, str]:
        """Its exit code and what it said."""
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=60)
        assert "Traceback" not in said
        return self.process.returncode, said


@pytest.fixture
def serve(compact_engine: Path, tmp_path: Path) -> Iterator[Serve]:
    started: list[Running] = []
    temporary = tmp_path / "temporary"
    temporary.mkdir()

    def start(*arguments: object) -> Running:
        running = Running("--engine", compact_engine, *arguments, temporary=temporary)
        started.append(running)
        return running

    yield start
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
        running.process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_is_under_way_is_finished(
    number: int, serve: Serve, tmp_path: Path, write_png: Any
) -> None:
    running = serve()
    pixels = np.random.default_rng(0).integers(0, 255, (900, 900, 3), np.uint8)
    body = write_png(tmp_path / "large.png", pixels).read_bytes()
    answers: list[tuple[int, bytes]] = []
    callers = [
        threading.Thread(target=lambda: answers.append(running.ask("POST", "/v1/upscale", body)))
        for _ in range(3)
    ]
    for caller in callers:
        caller.start()
    while b"srtool_working 0.0" in running.ask("GET", "/metrics")[1]:
        time.sleep(0.02)
    time.sleep(0.3)  # for the others to arrive
    code, _ = running.end(number)
    for caller in callers:
        caller.join()
    assert [status for status, _ in answers] == [200, 200, 200]
    assert code in (0, -number, 130, 128 + number)
    assert list((tmp_path / "temporary").iterdir()) == []
    with pytest.raises(ConnectionRefusedError):
        running.ask("GET", "/healthz")


@pytest.mark.slow
def test_a_second_signal_ends_what_is_under_way(
    serve: Serve, tmp_path: Path, write_png: Any
) -> None:
    running = serve()
    pixels = np.random.default_rng(0).integers(0, 255, (3000, 3000, 3), np.uint8)
    body = write_png(tmp_path / "large.png", pixels).read_bytes()

    def ask() -> None:
        with suppress(OSError, HTTPException):
            running.ask("POST", "/v1/upscale", body)

    caller = threading.Thread(target=ask)
    caller.start()
    while b"srtool_working 1.0" not in running.ask("GET", "/metrics")[1]:
        time.sleep(0.02)
    running.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    code, said = running.end(signal.SIGINT)
    caller.join()
    assert code in (-signal.SIGINT, 130)
    assert len([line for line in said.splitlines() if line]) == 1  # which engine it was
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("pause", [None, 0.0, 0.02])
def test_an_end_at_the_very_beginning(pause: float | None, serve: Serve) -> None:
    running = serve()
    if pause is not None:
        running.process.send_signal(signal.SIGINT)
        time.sleep(pause)
    code, said = running.end(signal.SIGINT)
    assert code in (-signal.SIGINT, 130)
    assert len([line for line in said.splitlines() if line]) == 1


@pytest.mark.slow
def test_killed_and_started_again(serve: Serve, tmp_path: Path, photographs: Path) -> None:
    first = serve()
    body = (photographs / "0.png").read_bytes()
    first.process.kill()
    first.process.wait()
    (left,) = (tmp_path / "temporary").iterdir()
    assert left.is_dir()
    second = serve()
    assert second.ask("POST", "/v1/upscale", body)[0] == 200
    (now,) = (tmp_path / "temporary").iterdir()
    assert now != left
    assert now.stat().st_mode & 0o077 == 0


@pytest.mark.slow
def test_beyond_this_machine_a_token_is_made(serve: Serve) -> None:
    running = serve("--host", "0.0.0.0")
    token = running.address.partition("#token=")[2]
    assert len(token) >= 32
    assert running.ask("GET", "/v1/models")[0] == 401
    assert running.ask("GET", "/v1/models", Authorization=f"Bearer {token}")[0] == 200


def test_a_port_in_use(run: Callable[..., Any], compact_engine: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("serve", "--engine", compact_engine, "--port", port)
    assert result.code == 2
    assert str(port) in result.complaint


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--engine", "nowhere.onnx"], "nowhere.onnx"),
        (["--engine", "{engine}", "--engine", "{engine}"], "x4"),
        (["--engine", "{engine}", "--token", " "], "token"),
        (["--engine", "{engine}", "--host", "no.such.address.invalid"], "no.such.address.invalid"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], word: str, run: Callable[..., Any], compact_engine: Path
) -> None:
    result = run("serve", *(each.format(engine=compact_engine) for each in arguments))
    assert result.code == 2
    assert word in result.complaint


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.2", False),
        ("server.example", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
