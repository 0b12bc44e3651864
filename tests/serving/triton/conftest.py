"""A real Triton server: nvidia-pytriton's wheel carries one, with the Python backend.

SRTOOL_TRITON names an environment (a folder with bin/python) in which nvidia-pytriton, numpy<2 and
what srtool's runtime needs are installed; `make triton-environment` makes one. Without it these
tests are skipped, unless SRTOOL_NEEDS_TRITON is set.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SOURCES = Path(__file__).resolve().parents[3] / "src"


class Triton:
    """A server on this machine alone. environment: with pytriton and the Python of the backend.
    models: those of the repository that it loads. user: who runs it, as `Popen` takes it."""

    def __init__(
        self, environment: Path, repository: Path, models: list[str], work: Path, **user: Any
    ) -> None:
        packages = next(environment.glob("lib/python3.*/site-packages"))
        server = packages / "pytriton" / "tritonserver"
        backends = work / "backends"
        shutil.copytree(server / "backends", backends)
        stub = server / "python_backend_stubs" / packages.parent.name.removeprefix("python")
        shutil.copy(stub / "triton_python_backend_stub", backends / "python")
        self.log = work / "triton.log"
        self.repository, self._models = repository, models
        self._user = user
        self._program = server / "bin" / "tritonserver"
        self._backends = backends
        self._environment = {
            **os.environ,
            "PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs"),
            **({"HOME": "/nonexistent"} if user else {}),
        }
        self.start()

    def start(self) -> None:
        self.http, self.grpc = _free_port(), _free_port()
        command = [self._program, "--model-repository", self.repository]
        command += ["--backend-directory", self._backends]
        for name, port in (("http", self.http), ("grpc", self.grpc)):
            command += [f"--{name}-address", "127.0.0.1", f"--{name}-port", port]
        command += ["--allow-metrics", "false", "--exit-on-error", "false", "--log-verbose", "1"]
        command += ["--model-control-mode", "explicit"]
        for model in self._models:
            command += ["--load-model", model]
        self._file = self.log.open("ab")
        self._process = subprocess.Popen(
            list(map(str, command)),
            stdout=self._file,
            stderr=subprocess.STDOUT,
            env=self._environment,
            start_new_session=True,
            **self._user,
        )
        end = time.monotonic() + 120
        while "Started HTTPService" not in self.log.read_text(errors="replace"):
            assert self._process.poll() is None, self.said
            assert time.monotonic() < end, self.said
            time.sleep(0.2)

    @property
    def process(self) -> int:
        return self._process.pid

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def addresses(self) -> tuple[str, str]:
        return f"grpc://127.0.0.1:{self.grpc}", f"http://127.0.0.1:{self.http}"

    def stop(self) -> int:
        """Its exit code."""
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(60)
        self._file.close()
        self.log.write_text("")
        return code

    def kill(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._file.close()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
    return port


Serve = Callable[..., Triton]


@pytest.fixture(scope="session")
def triton_environment() -> Path:
    named = os.environ.get("SRTOOL_TRITON")
    if named and (Path(named) / "bin" / "python").exists() and sys.platform == "linux":
        # The backend's Python is the environment's, which ignores PYTHONPATH.
        packages = next(Path(named).glob("lib/python3.*/site-packages"))
        (packages / "srtool-under-test.pth").write_text(f"{SOURCES}\n")
        return Path(named)
    if os.environ.get("SRTOOL_NEEDS_TRITON"):
        pytest.fail(f"SRTOOL_TRITON={named} names no environment")
    pytest.skip("SRTOOL_TRITON names no environment with nvidia-pytriton")


@pytest.fixture(scope="module")
def serve(triton_environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Serve models of a repository until the end of the module, at most."""
    started: list[Triton] = []

    def serving(
        repository: Path,
        *models: str,
        environment: Path | None = None,
        work: Path | None = None,
        **user: Any,
    ) -> Triton:
        """environment, work: others than the tests' own."""
        environment, work = environment or triton_environment, work or tmp_path_factory.mktemp("t")
        started.append(Triton(environment, repository, list(models), work, **user))
        return started[-1]

    yield serving
    for server in started:
        server.kill()
