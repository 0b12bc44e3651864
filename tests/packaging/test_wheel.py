"""What is in the wheel, whoever builds it: from a checkout with links, without links, or a zip."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINKS = ("benchmarks", "export", "runtime", "samples", "train")


def test_each_link_leads_to_a_folder_of_the_package() -> None:
    found = {path.name for path in ROOT.iterdir() if path.is_symlink() and path.name[0] != "."}
    assert found <= set(LINKS)
    for name in LINKS:
        path = ROOT / name
        # Where git was told to make no links, the file holds where the link would lead.
        target = path.readlink() if path.is_symlink() else Path(path.read_text(encoding="utf-8"))
        assert target == Path("src/srtool") / name
        assert (ROOT / target).is_dir()


def test_all_of_the_package_is_in_the_wheel(wheel: Path, archive: Path) -> None:
    package = archive / "src"
    expected = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "egg-info" not in str(path)
    }
    expected = {name for name in expected if not name.startswith("srtool/samples/LRx4/")}
    files = set(_contents(wheel))
    assert files == expected
    assert {PurePosixPath(name).parts[0] for name in files} == {"srtool"}
    assert wheel.stat().st_size < 30e6


@pytest.mark.slow
def test_a_checkout_without_links_builds_the_same_wheel(
    wheel: Path,
    tree: str,
    build_wheel: Callable[[Path], Path],
    command: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """As git for Windows makes it by default: each link is a text file."""
    # A commit that belongs to no branch.
    author = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    commit = command("git", *author, "commit-tree", tree, "-m", "test", folder=ROOT)
    assert commit.returncode == 0, commit.stderr
    sources = tmp_path / "clone"
    sources.mkdir()
    for arguments in (
        ["init", "--quiet"],
        ["config", "core.symlinks", "false"],
        ["fetch", "--quiet", "--depth=1", ROOT, commit.stdout.strip()],
        ["checkout", "--quiet", "FETCH_HEAD"],
    ):
        done = command("git", *arguments, folder=sources)
        assert done.returncode == 0, done.stderr
    assert (sources / "runtime").is_file()
    assert not (sources / "runtime").is_symlink()
    assert _contents(build_wheel(sources)) == _contents(wheel)


@pytest.mark.slow
def test_a_downloaded_zip_builds_the_same_wheel(
    wheel: Path,
    tree: str,
    build_wheel: Callable[[Path], Path],
    command: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """Python's zipfile, as many programs, unpacks a link as a text file."""
    packed = tmp_path / "sources.zip"
    done = command("git", "archive", "--prefix=srtool/", "--output", packed, tree, folder=ROOT)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(packed) as file:
        file.extractall(tmp_path)
    assert (tmp_path / "srtool" / "runtime").is_file()
    assert _contents(build_wheel(tmp_path / "srtool")) == _contents(wheel)


def _contents(wheel: Path) -> dict[str, int]:
    """Each file of the package and the CRC of its content; without the wheel's own metadata."""
    with zipfile.ZipFile(wheel) as file:
        return {
            item.filename: item.CRC
            for item in file.infolist()
            if ".dist-info/" not in item.filename
        }
