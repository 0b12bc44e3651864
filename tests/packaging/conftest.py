"""Wheels of this checkout, built as a user's pip builds them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).resolve().parents[2]


def run_command(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program as a user of another environment would, without this process's paths."""
    hidden = {"PYTHONPATH", "VIRTUAL_ENV", "SRTOOL_ASSETS"}
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    return subprocess.run(
        [str(argument) for argument in arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
    )


@pytest.fixture(scope="session")
def command() -> Command:
    return run_command


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The git tree of all that is tracked here, as it stands in the working tree."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout, so that there is nothing to clone")
    index = tmp_path_factory.mktemp("index") / "index"
    environment = {**os.environ, "GIT_INDEX_FILE": str(index)}

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, cwd=ROOT, env=environment
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    git("read-tree", "HEAD")
    git("add", "--all")
    return git("write-tree")


@pytest.fixture(scope="session")
def build_wheel(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Build the wheel of a source folder, with the setuptools that is installed here."""

    def build(sources: Path) -> Path:
        pytest.importorskip("setuptools")
        out = tmp_path_factory.mktemp("wheel")
        options = ["--no-deps", "--no-index", "--no-build-isolation", "--quiet"]
        pip = [sys.executable, "-m", "pip", "wheel", *options]
        done = run_command(*pip, "--wheel-dir", out, sources, folder=out)
        assert done.returncode == 0, done.stderr
        (wheel,) = out.glob("*.whl")
        return wheel

    return build


@pytest.fixture(scope="session")
def archive(tree: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources as `git archive` packs them, unpacked with their links."""
    folder = tmp_path_factory.mktemp("archive")
    packed = folder / "sources.tar"
    done = run_command("git", "archive", "--output", packed, tree, folder=ROOT)
    assert done.returncode == 0, done.stderr
    sources = folder / "sources"
    sources.mkdir()
    done = run_command("tar", "-xf", packed, "-C", sources, folder=folder)
    assert done.returncode == 0, done.stderr
    return sources


@pytest.fixture(scope="session")
def wheel(archive: Path, build_wheel: Callable[[Path], Path]) -> Path:
    """The wheel of these sources."""
    return build_wheel(archive)
