"""A server on a free port of this machine, with tiny networks."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from fastapi import FastAPI

from srtool.runtime.engine import Engine
from srtool.runtime.opening import open_engine
from srtool.serving.access import Limits
from srtool.serving.app import make_app
from srtool.serving.server import server_of


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    headers: Mapping[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def detail(self) -> str:
        """The line of an error."""
        assert self.headers["content-type"] == "application/problem+json"
        assert self.json["status"] == self.status
        found: str = self.json["detail"]
        assert "\n" not in found
        return found


@dataclass
class Client:
    """Asks a server on this machine."""

    port: int
    headers: dict[str, str] = field(default_factory=dict)

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {**self.headers, **(headers or {})})
            found = connection.getresponse()
            names = {name.lower(): value for name, value in found.getheaders()}
            return Answer(found.status, found.read(), names)
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, headers=headers)

    def upscale(self, picture: Path | bytes, **parameters: object) -> Answer:
        body = picture.read_bytes() if isinstance(picture, Path) else picture
        if isinstance(picture, Path):
            parameters.setdefault("name", picture.name)
        return self.ask("POST", f"/v1/upscale?{urlencode(parameters)}", body)


Start = Callable[..., Client]


@pytest.fixture(scope="session")
def engine(compact_export: Path) -> Iterator[Engine]:
    with open_engine(compact_export / "x4.onnx") as opened:
        yield opened


@contextmanager
def running(app: FastAPI) -> Iterator[int]:
    """Serve in a thread; gives the port."""
    server = server_of(app)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the server keeps what is under way."""
    found = tmp_path / "under way"
    found.mkdir()
    return found


@pytest.fixture
def start(engine: Engine, folder: Path) -> Iterator[Start]:
    """Start a server; its engines are one tiny network by two names, unless others are given."""
    with ExitStack() as stack:

        def started(
            engines: Mapping[str, Any] | None = None, limits: Limits | None = None, **more: Any
        ) -> Client:
            engines = engines or {"tiny": engine, "other": engine}
            app = make_app(engines, folder, limits or Limits(), **more)
            return Client(stack.enter_context(running(app)))

        yield started
        stack.close()
        assert list(folder.iterdir()) == []


class Slow:
    """An engine whose tiles, after the first `free` ones, wait at a gate."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.gate, self.tiles, self.free = threading.Event(), 0, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def submit(self, tile: Any, callback: Any) -> None:
        if self.tiles >= self.free:
            self.gate.wait(30)
        self.tiles += 1
        self._engine.submit(tile, callback)


@pytest.fixture
def slow(engine: Engine) -> Iterator[Slow]:
    found = Slow(engine)
    yield found
    found.gate.set()


CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder_for_all() -> Iterator[Path]:
    """A folder that every user may look into; pytest's own are this user's alone."""
    if os.name != "posix" or os.getuid() != 0:
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory() as found:
        Path(found).chmod(0o755)
        yield Path(found)


@pytest.fixture
def installed(folder_for_all: Path) -> Callable[[str, str], Path]:
    """Take the steps of a container recipe: the wheel, with its constraints, into an empty
    environment, which is given."""
    hidden = {"PYTHONPATH", "VIRTUAL_ENV"}  # what makes srtool importable here
    clean = {key: value for key, value in os.environ.items() if key not in hidden}

    def install(recipe: str, constraints: str) -> Path:
        environment, sources = folder_for_all / "environment", folder_for_all / "build"
        subprocess.run([_python_for_all(), "-m", "venv", environment], check=True, env=clean)
        pip = [environment / "bin/pip", "--quiet", "--disable-pip-version-check"]
        shutil.copytree(CHECKOUT / "src", sources / "src")
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(CHECKOUT / name, sources)
        build = ["wheel", "--no-deps", "--wheel-dir", folder_for_all, sources]
        subprocess.run([*pip, *build], check=True, env=clean)
        (wheel,) = folder_for_all.glob("srtool-*.whl")
        extras = re.search(r'"\$\{wheel\}(\[.+\])"', recipe)
        assert extras
        pinned = CHECKOUT / "deploy" / f"constraints-{constraints}.txt"
        install = ["install", "--constraint", pinned, f"{wheel}{extras[1]}"]
        subprocess.run([*pip, *install], check=True, env=clean)
        return environment

    return install


def _python_for_all() -> str:
    """An interpreter that other users may run as well."""
    folders = [Path(sys.base_prefix), *Path(sys.base_prefix).parents]
    if all(folder.stat().st_mode & 0o005 for folder in folders):
        return sys.executable
    if not Path("/usr/bin/python3").exists():
        pytest.skip("no Python here that other users may run")
    return "/usr/bin/python3"
