"""The container recipes: linted, and their steps run without a container."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest

from srtool.images.picture import Picture
from srtool.images.writing import write_image

CHECKOUT = Path(__file__).resolve().parents[2]
DEPLOY = CHECKOUT / "deploy"
NOBODY = 65534


@pytest.mark.parametrize("name", ["Dockerfile.cpu", "Dockerfile.triton"])
def test_recipe(name: str) -> None:
    """Pinned, not root, with a health check; hadolint finds nothing where it is installed."""
    text = (DEPLOY / name).read_text()
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert all(re.search(r":\d+\.\d+", base) for base in bases)
    assert re.search(r"^USER \d+$", text, re.MULTILINE)
    assert "HEALTHCHECK" in text
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if linter:
        found = subprocess.run([linter, DEPLOY / name], capture_output=True, text=True)
        assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.parametrize("name", ["cpu", "triton"])
def test_every_dependency_is_pinned(name: str) -> None:
    lines = (DEPLOY / f"constraints-{name}.txt").read_text().splitlines()
    pinned = {line.partition("==")[0] for line in lines if "==" in line}
    assert {"numpy", "pyvips", "onnxruntime", "openvino", "typer", "rich", "pydantic"} <= pinned


@pytest.mark.slow
def test_steps_of_the_cpu_image(folder_for_all: Path, installed: Any) -> None:
    """The wheel into an empty environment, and the server as a user who may write nowhere but
    into a temporary folder."""
    recipe = (DEPLOY / "Dockerfile.cpu").read_text()
    environment, work = installed(recipe, "cpu"), folder_for_all / "work"
    work.mkdir()
    work.chmod(0o777)
    write_image(work / "photo.png", Picture(np.full((40, 50, 3), 99, np.uint8)))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (command,) = re.findall(r'^CMD \["serve".*$', recipe, re.MULTILINE)
    assert "0.0.0.0" in command  # in a container; here it is this machine alone
    server = subprocess.Popen(
        [environment / "bin/srtool", "serve", "--port", str(port)],
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        cwd="/",
        env={"PATH": os.environ["PATH"], "TMPDIR": str(work), "HOME": "/nonexistent"},
    )
    try:
        check = re.search(r"HEALTHCHECK .*?CMD (\[.*?\])$", recipe, re.MULTILINE | re.DOTALL)
        assert check
        healthy = [part.replace("8765", str(port)) for part in json.loads(check[1])]
        healthy[0] = str(environment / "bin" / healthy[0])
        end = time.monotonic() + 120
        while subprocess.run(healthy, stderr=subprocess.DEVNULL).returncode:
            assert server.poll() is None
            assert time.monotonic() < end
            time.sleep(0.5)
        request = Request(f"http://127.0.0.1:{port}/v1/upscale", (work / "photo.png").read_bytes())
        with urlopen(request, timeout=60) as answer:
            upscaled = answer.read()
    finally:
        server.terminate()
        assert server.wait(60) == 0
    upscale = [environment / "bin/srtool", "infer", work / "photo.png", "-o", work / "out"]
    alone = {"user": NOBODY, "group": NOBODY, "extra_groups": [], "cwd": "/"}
    subprocess.run(upscale, check=True, env={"PATH": os.environ["PATH"]}, **alone)
    assert (work / "out/photo.png").read_bytes() == upscaled
