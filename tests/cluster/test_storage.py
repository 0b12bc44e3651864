"""Folders in object storage: whole objects or none, whatever the line does."""

from __future__ import annotations

import time
from pathlib import Path
from zipfile import ZipFile

import pytest

from srtool.cluster import storage
from srtool.cluster.storage import open_folder
from srtool.errors import StorageError

pytest.importorskip("s3fs")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    path.write_bytes(bytes(range(256)) * 4000)
    return path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_FIRST_WAIT", 0.01)


@pytest.mark.slow
@pytest.mark.usefixtures("line")
def test_what_is_written_is_listed_and_read(picture: Path) -> None:
    folder = open_folder("s3://pictures/out")
    assert folder.sizes() == {}
    folder.write("a b/ü.png", picture)
    assert folder.sizes() == {"a b/ü.png": picture.stat().st_size}
    assert folder.read("a b/ü.png") == picture.read_bytes()


@pytest.mark.slow
def test_a_throttled_store_is_asked_again(line: object, picture: Path, quick: None) -> None:
    folder = open_folder("s3://pictures/out")
    line.busy = 3  # type: ignore[attr-defined]
    folder.write("x.png", picture)
    assert line.faults == 3  # type: ignore[attr-defined]
    assert folder.read("x.png") == picture.read_bytes()


@pytest.mark.slow
def test_a_line_cut_in_an_upload_leaves_no_part(line: object, picture: Path, quick: None) -> None:
    folder = open_folder("s3://pictures/out")
    line.cut = 2  # type: ignore[attr-defined]
    folder.write("x.png", picture)
    assert line.faults == 2  # type: ignore[attr-defined]
    assert folder.sizes() == {"x.png": picture.stat().st_size}


@pytest.mark.slow
def test_a_line_that_stays_cut_leaves_nothing(
    line: object, picture: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "TRIES", 2)
    folder = open_folder("s3://pictures/out")
    line.cut = 1000  # type: ignore[attr-defined]
    with pytest.raises(StorageError) as caught:
        folder.write("x.png", picture)
    assert "a-secret" not in str(caught.value)
    line.cut = 0  # type: ignore[attr-defined]
    assert folder.sizes() == {}


def test_other_stores(picture: Path, tmp_path: Path) -> None:
    memory = open_folder("memory://pictures/out")
    memory.write("a/b.png", picture)
    assert memory.sizes() == {"a/b.png": picture.stat().st_size}
    with ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.write(picture, "a/b.png")
    zipped = open_folder(f"zip://*::{tmp_path}/photos.zip")
    assert zipped.read("a/b.png") == picture.read_bytes()
    local = open_folder(f"file://{tmp_path}/there")
    local.write("b.png", picture)
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["b.png"]


@pytest.mark.parametrize("url", ["nowhere://bucket/in", "az:/x://y", "zip://*::/no/such.zip"])
def test_what_cannot_be_opened_is_said_at_once(url: str) -> None:
    start = time.monotonic()
    with pytest.raises(StorageError, match="cannot be opened"):
        open_folder(url)
    assert time.monotonic() - start < 20
