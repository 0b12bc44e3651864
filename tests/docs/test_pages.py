"""What the pages tell a reader to type is typed here, page by page and in their order."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", *(f"docs/{name}.md" for name in ("quickstart", "deploy", "research")))
_BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)
# The set-up is tried by tests/packaging, in an environment that has nothing else.
_SET_UP = ("python3 -m venv ", "pip install ")


def steps(page: str) -> Iterator[tuple[str, list[str]]]:
    """Each command line, and each block of Python, of a page: what it is called, and its words."""
    for language, text in _BLOCK.findall((ROOT / page).read_text(encoding="utf-8")):
        if language == "python":
            yield text.strip().splitlines()[-1], ["-c", text]
            continue
        for line in text.splitlines():
            words = shlex.split(line, comments=True)
            if words and not line.startswith(_SET_UP):
                yield line, words


@pytest.fixture
def reader(tmp_path: Path, write_png: Callable[[Path, NDArray[Any]], Path]) -> Path:
    """The folder of a reader: photographs, and the weights of the repository."""
    random = np.random.default_rng(0)
    for number in range(3):
        y, x = np.mgrid[:140, : 160 + 8 * number]
        waves = np.stack([np.sin(y / (5 + band)) + np.cos(x / (7 + band)) for band in range(3)], 2)
        noise = random.normal(0, 4, waves.shape)
        pixels = (128 + 50 * waves + noise).clip(0, 255).astype(np.uint8)
        write_png(tmp_path / "photographs" / f"{number}.png", pixels)
    (tmp_path / "inbox").mkdir()
    shutil.copytree(ROOT / "weights", tmp_path / "weights")
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_pages_call_srtool_and_nothing_else(page: str) -> None:
    found = list(steps(page))
    assert found
    for name, words in found:
        assert words[0] in ("srtool", "-c"), name


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_every_step_of_a_page_works_as_printed(page: str, reader: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "src"),
        "SRTOOL_ASSETS": str(reader / "assets"),
    }
    for name, words in steps(page):
        words = ["-m", *words] if words[0] == "srtool" else words
        command = [sys.executable, *words]
        with subprocess.Popen(command, cwd=reader, env=environment, stderr=subprocess.PIPE) as run:
            if "--watch" in words:
                shutil.copy(reader / "photographs" / "0.png", reader / "inbox" / "came.png")
                while run.poll() is None and not (reader / "upscaled" / "came.png").is_file():
                    time.sleep(0.1)
                run.send_signal(signal.SIGINT)
            _, said = run.communicate()
        assert run.returncode == 0, f"{page}: {name}\n{said.decode()[-2000:]}"


def test_every_name_of_a_make_target_is_one() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    pages = [*PAGES, "CONTRIBUTING.md", *(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))]
    workflow = (ROOT / ".github/workflows/checks.yml").read_text(encoding="utf-8")
    for page in pages:
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"`make ([a-z-]+)", text):
            assert target in targets, f"{page}: make {target}"
    called = re.findall(r"\bmake ([a-z-]+)", workflow)
    assert called
    assert set(called) <= targets


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.slow
def test_the_pages_are_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocstrings", reason="the docs extra is not installed")
    out = tmp_path / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tools")])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "<svg" in (out / "layers.svg").read_text(encoding="utf-8")
    import srtool

    api = (out / "api" / "index.html").read_text(encoding="utf-8")
    for name in getattr(srtool, "__all__", ()):
        assert name == "__version__" or f".{name}" in api


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_the_program_in_cpp_makes_the_same_pixels(tmp_path: Path) -> None:
    import openvino

    from srtool.models import cards
    from srtool.runtime.opening import open_engine

    home = Path(openvino.__file__).parent
    libraries = sorted((home / "libs").glob("libopenvino.so.*"))
    if not libraries or not (home / "include").is_dir():
        pytest.skip("this wheel of OpenVINO has no headers")
    source, program = ROOT / "docs/examples/upscale.cpp", tmp_path / "upscale"
    options = [
        "-std=c++17",
        "-Wall",
        "-Werror",
        f"-I{home / 'include'}",
        f"-Wl,-rpath,{home / 'libs'}",
    ]
    command = ["g++", *options, str(source), str(libraries[0]), "-o", str(program)]
    subprocess.run(command, check=True)
    random = np.random.default_rng(0)
    image = random.integers(0, 255, (20, 28, 3), np.uint8, endpoint=True)
    (tmp_path / "in.ppm").write_bytes(b"P6\n28 20\n255\n" + image.tobytes())
    subprocess.run([program, cards()[0].path, "in.ppm", "out.ppm"], cwd=tmp_path, check=True)
    head, body = b"P6\n112 80\n255\n", (tmp_path / "out.ppm").read_bytes()
    assert body.startswith(head)
    made = np.frombuffer(body[len(head) :], np.uint8).reshape(80, 112, 3)
    with open_engine(cards()[0].path, "openvino", "fp32") as engine:
        expected = engine.upscale(image)
    assert np.abs(made.astype(int) - expected).max() <= 1
