"""Put `srtool serve` under load: several clients, many pictures, a server that is killed meanwhile.

    python tools/serve_load.py --clients 8 --pictures 200

Every picture must come back whole; prints latencies, throughput and the server's memory.
"""

from __future__ import annotations

import argparse
import re
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from queue import Empty, Queue

import numpy as np

from srtool.images.picture import Picture
from srtool.images.writing import write_image

SIDES = ((48, 64), (64, 96), (96, 80), (128, 128))


@dataclass
class Load:
    """What came of it. seconds: of each picture, the tries of one included. lost: pictures that
    never came back, or came back wrong. retries: after 429 and while the server was gone. memory:
    of the server, MB, after each answer."""

    seconds: list[float] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    retries: int = 0
    memory: list[float] = field(default_factory=list)
    total: float = 0.0

    @property
    def growth(self) -> float:
        """Of the memory from the second quarter of the run to the last, MB."""
        quarter = len(self.memory) // 4
        second, last = self.memory[quarter : 2 * quarter], self.memory[-quarter:]
        return statistics.median(last) - statistics.median(second)

    def __str__(self) -> str:
        p50, p95 = np.percentile(self.seconds, [50, 95])
        return (
            f"{len(self.seconds)} pictures, {len(self.lost)} lost, {self.retries} retries, "
            f"p50 {p50:.2f} s, p95 {p95:.2f} s, {len(self.seconds) / self.total:.1f} a second; "
            f"memory {max(self.memory):.0f} MB at most, {self.growth:+.0f} MB over the run"
        )


class Server:
    """`srtool serve` in a process of its own, that can be killed and started again."""

    def __init__(self, engine: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._command = [sys.executable, "-m", "srtool", "serve", "--engine", engine]
        self._command += ["--port", str(self.port)]
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline().startswith("http://")

    def end(self, number: int) -> None:
        self._process.send_signal(number)
        self._process.communicate()

    def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes, str]:
        """Status, body and when to come again."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=600)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers.get("Retry-After", "1")
        finally:
            connection.close()

    def memory(self) -> float:
        _, text, _ = self.ask("GET", "/metrics")
        found = re.search(rb"^process_resident_memory_bytes (\S+)", text, re.MULTILINE)
        assert found
        return float(found[1]) / 1e6


def run_load(
    server: Server,
    pictures: list[bytes],
    check: Callable[[int, bytes], bool],
    clients: int,
    kill_after: int | None = None,
) -> Load:
    """Send every picture from one of the clients until it comes back. kill_after: pictures, after
    which the server is killed and started again."""
    load, waiting, lock = Load(), Queue[int](), threading.Lock()
    for number in range(len(pictures)):
        waiting.put(number)
    killed = threading.Event()

    def client() -> None:
        while True:
            try:
                number = waiting.get_nowait()
            except Empty:
                return
            start = time.perf_counter()
            answer, retries = _until_answered(server, pictures[number])
            with lock:
                load.seconds.append(time.perf_counter() - start)
                load.retries += retries
                if not check(number, answer):
                    load.lost.append(number)
                done = len(load.seconds)
            if done == kill_after:
                server.end(signal.SIGKILL)
                server.start()
                killed.set()
            try:
                load.memory.append(server.memory())
            except OSError:
                continue  # killed just now

    start = time.perf_counter()
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load.total = time.perf_counter() - start
    assert kill_after is None or killed.is_set()
    return load


def _until_answered(server: Server, picture: bytes) -> tuple[bytes, int]:
    """The upscaled picture, and how often it was sent in vain."""
    for tries in range(600):
        try:
            status, body, later = server.ask("POST", "/v1/upscale", picture)
        except (OSError, HTTPException):
            time.sleep(0.2)
            continue
        if status != 429:
            return body if status == 200 else b"", tries
        time.sleep(float(later))
    return b"", tries


def make_pictures(count: int, folder: Path) -> list[bytes]:
    """Noisy pictures of several sizes, as PNG files."""
    random, found = np.random.default_rng(0), []
    for number in range(count):
        pixels = random.integers(0, 256, (*SIDES[number % len(SIDES)], 3), np.uint8)
        path = folder / f"{number}.png"
        write_image(path, Picture(pixels))
        found.append(path.read_bytes())
    return found


def main() -> None:
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="x4-fast")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--kill-after", type=int)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pictures = make_pictures(options.pictures, Path(folder))
    server = Server(options.engine)
    try:
        load = run_load(
            server,
            pictures,
            lambda number, body: body.startswith(b"\x89PNG"),
            options.clients,
            options.kill_after,
        )
    finally:
        server.end(signal.SIGTERM)
    print(load)  # noqa: T201
    sys.exit(bool(load.lost))


if __name__ == "__main__":
    main()
