"""What is found in a folder, and that what is not is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from srtool.images.folders import images_below

PNG = b"\x89PNG\r\n\x1a\n"


def touch(top: Path, *names: str, content: bytes = b"") -> None:
    for name in names:
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def test_suffixes_that_are_read_and_those_that_are_counted(tmp_path: Path) -> None:
    read = ["a.jfif", "b.JPE", "c.jpg", "d.pjpeg", "e.bmp", "f.ppm", "g.jp2", "l.apng", "m.heic"]
    touch(tmp_path, *read, "h.tga", "i.dds", "j.DDS", "notes.txt", "Makefile")
    touch(tmp_path, "noext", content=PNG)
    found = images_below(tmp_path)
    assert [path.name for path in found.files] == sorted([*read, "noext"])
    assert found.passed == {".tga": 1, ".dds": 2, ".txt": 1, "": 1}
    (note,) = found.notes
    assert "5 files" in note
    assert "2 .dds" in note


@pytest.mark.parametrize(
    "folder", [".thumbnails", "@eaDir", "@EADIR/a.jpg", ".@__thumb", "__MACOSX", "x/.hidden/y"]
)
def test_hidden_and_thumbnail_folders_are_counted(folder: str, tmp_path: Path) -> None:
    touch(tmp_path, "a.png", f"{folder}/b.jpg", f"{folder}/notes.txt")
    found = images_below(tmp_path)
    assert [path.name for path in found.files] == ["a.png"]
    assert (found.hidden, found.passed.total()) == (1, 0)
    assert len(found.notes) == 1


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png", "other/b.png")
    os.symlink(tmp_path / "other", tmp_path / "in" / "link")
    os.symlink(tmp_path / "in", tmp_path / "other" / "back")
    os.symlink(tmp_path / "gone", tmp_path / "in" / "dangling")
    os.symlink(tmp_path / "in" / "a.png", tmp_path / "in" / "c.png")
    names = [str(path.relative_to(tmp_path)) for path in images_below(tmp_path / "in").files]
    assert names == ["in/a.png", "in/c.png", "in/link/b.png"]


def test_folders_that_cannot_be_read_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a.png", "x/b.png")
    scandir = os.scandir

    def refuse(folder: Path) -> object:
        if folder == tmp_path / "x":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    # The tests may run as root, to whom nothing is forbidden
    monkeypatch.setattr("srtool.images.folders.os.scandir", refuse)
    found = images_below(tmp_path)
    assert [path.name for path in found.files] == ["a.png"]
    assert found.unreadable == [tmp_path / "x"]
    assert str(tmp_path / "x") in found.notes[0]


def test_a_folder_can_be_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "out/b.png", ".srtool-index.jsonl", ".srtool-12.png")
    found = images_below(tmp_path, leave_out=(tmp_path / "out").resolve())
    assert [path.name for path in found.files] == ["a.png"]
    assert found.indexes == [tmp_path / ".srtool-index.jsonl"]
    assert found.notes == []
