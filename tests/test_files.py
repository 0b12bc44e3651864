"""Files are whole or absent."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from srtool.errors import ChangedFileError, EngineError
from srtool.files import (
    new_owner,
    open_as_one,
    private_folder,
    remove_those_of,
    settle,
    whole_file,
    whole_files,
)


def test_the_file_appears_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "x.tar.png"
    with whole_file(target) as temporary:
        temporary.write_bytes(b"whole")
        assert not target.exists()
        assert temporary.parent == target.parent
        assert temporary.name.startswith(".srtool-")
        assert temporary.suffix == ".png"
    assert target.read_bytes() == b"whole"
    assert list(target.parent.iterdir()) == [target]


def write_half_of(path: Path, error: type[BaseException]) -> None:
    path.write_bytes(b"half")
    raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [None, b"old"])
def test_an_error_leaves_what_was_there(
    tmp_path: Path, before: bytes | None, error: type[BaseException]
) -> None:
    target = tmp_path / "x.bin"
    if before is not None:
        target.write_bytes(before)
    with pytest.raises(error), whole_file(target) as temporary:
        write_half_of(temporary, error)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == ([before] if before else [])


def test_an_existing_file_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "x.bin"
    target.write_bytes(b"a longer old content")
    with whole_file(target) as temporary:
        temporary.write_bytes(b"new")
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_permissions_are_those_of_an_ordinary_new_file(
    tmp_path: Path, mask: int, mode: int
) -> None:
    target = tmp_path / "x.bin"
    before = os.umask(mask)
    try:
        with whole_file(target) as temporary:
            temporary.write_bytes(b"x")
        assert os.umask(mask) == mask  # left as it was
    finally:
        os.umask(before)
    assert stat.S_IMODE(target.stat().st_mode) == mode


def test_a_target_that_cannot_be_replaced_leaves_no_temporary_file(tmp_path: Path) -> None:
    target = tmp_path / "x.bin"
    target.mkdir()
    with pytest.raises(OSError, match=r"x\.bin"), whole_file(target) as temporary:
        temporary.write_bytes(b"x")
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(os.name == "nt", reason="asking whether a process lives would end it there")
def test_files_of_dead_processes_are_removed_and_no_others(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys; from srtool.files import whole_file\n"
        "with whole_file(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.png")], check=False)
    (stale,) = tmp_path.iterdir()
    others = [
        stale.name.replace(f"-{stale.name.split('-')[2]}-", f"-{os.getppid()}-"),  # it lives
        ".srtool-00000000-1-0123456789ab.png",  # of another machine
        ".srtool-index.jsonl",
        ".srtool-notes",
    ]
    for name in others:
        (tmp_path / name).touch()
    with whole_file(tmp_path / "b.png") as temporary:
        temporary.write_bytes(b"x")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "b.png"])


@pytest.mark.skipif(os.name == "nt", reason="asking whether a process lives would end it there")
def test_what_was_written_for_another_process_goes_with_that_one(tmp_path: Path) -> None:
    """As workers on several machines write into a folder that they share."""
    code = (
        "import os, pathlib, sys; from srtool.files import whole_file, write_for\n"
        "write_for(sys.argv[2])\n"
        "with whole_file(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )

    def left_for(owner: str) -> Path:
        before = set(tmp_path.iterdir())
        command = [sys.executable, "-c", code, str(tmp_path / "a.png"), owner]
        subprocess.run(command, check=False)
        (left,) = set(tmp_path.iterdir()) - before
        return left

    owner, other = new_owner(), new_owner()
    mine, others = left_for(owner), left_for(other)
    with whole_file(tmp_path / "b.png"):
        assert mine.exists()  # its owner lives
    remove_those_of(owner, tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([others, tmp_path / "b.png"])


def test_several_files_take_their_places_as_one(tmp_path: Path) -> None:
    paths = [tmp_path / "a.onnx", tmp_path / "a.onnx.json"]
    for text in ("old", "new"):
        with whole_files(paths) as made:
            for path in paths:
                made[path].write_text(text)
    assert [path.read_text() for path in paths] == ["new", "new"]
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in paths}


def test_an_error_before_the_end_leaves_the_old_files(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    paths[0].write_text("old")

    def fail() -> None:
        with whole_files(paths) as made:
            made[paths[0]].write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert paths[0].read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("done", range(3))
def test_what_an_ended_process_left_is_finished_by_the_next_reader(
    tmp_path: Path, done: int
) -> None:
    """An exit after any of the renames: the names are written down, so the set is the new one."""
    names = {".srtool-x1": "a", ".srtool-x2": "b", ".srtool-x3": "../c"}
    for number, (temporary, name) in enumerate(names.items()):
        target = name if number < done else temporary
        (tmp_path / Path(target).name).write_text("new")
    (tmp_path / "b").write_text("new" if done > 1 else "old")
    (tmp_path / ".srtool-y.journal").write_text(json.dumps(names))
    settle(tmp_path)
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text() == "new"
    assert not (tmp_path / ".srtool-y.journal").exists()
    assert not (tmp_path.parent / "c").exists()


class Read:
    """What was read of a set of files."""

    def __init__(self, *texts: str) -> None:
        self.texts, self.is_closed = texts, False

    def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize("fails", [False, True])
def test_files_that_are_replaced_while_they_are_opened_are_opened_again(
    tmp_path: Path, fails: bool
) -> None:
    paths = [tmp_path / "a.onnx", tmp_path / "a.onnx.json"]

    def replace(text: str) -> None:
        with whole_files(paths) as made:
            for path in paths:
                made[path].write_text(text)

    replace("old")
    opened = []

    def open_between() -> Read:
        first = paths[0].read_text()
        if not opened:
            replace("new")
        opened.append(Read(first, paths[1].read_text()))
        if fails and len(opened) == 1:
            raise EngineError("file and manifest do not fit")
        return opened[-1]

    found = open_as_one(paths, open_between)
    assert found.texts == ("new", "new")
    assert [each.is_closed for each in opened] == [not fails, False]


def test_files_that_never_rest_are_not_opened(tmp_path: Path) -> None:
    path, opened = tmp_path / "a", []

    def open_and_write() -> Read:
        path.write_text("x" * len(opened))
        opened.append(Read())
        return opened[-1]

    with pytest.raises(ChangedFileError) as caught:
        open_as_one([path], open_and_write)
    assert caught.value.path == path
    assert all(each.is_closed for each in opened)


@pytest.fixture
def temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of a test is where temporary files go."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.mark.usefixtures("temporary_files")
def test_folders_in_use_are_left_alone(tmp_path: Path) -> None:
    with private_folder() as first:
        (first / "picture").write_bytes(b"under way")
        with private_folder() as second:
            assert first != second
            assert (first / "picture").is_file()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("temporary_files")
def test_what_others_call_alike_is_left_alone(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / ".srtool-private.lock").touch()
    (tmp_path / "srtool-link").symlink_to(elsewhere)
    (tmp_path / "srtool-file").touch()
    (tmp_path / "srtool-starting").mkdir()
    (tmp_path / "srtool-photographs").mkdir()
    (tmp_path / "srtool-photographs" / "lock").touch()
    with private_folder():
        pass
    assert len(list(tmp_path.iterdir())) == 5
    assert (elsewhere / ".srtool-private.lock").is_file()


@pytest.mark.usefixtures("temporary_files")
def test_a_folder_of_a_process_that_was_killed_is_removed_by_the_next(tmp_path: Path) -> None:
    code = (
        "import os, tempfile; from srtool.files import private_folder\n"
        "with private_folder() as folder:\n"
        "    (folder / 'picture').touch(); os.kill(os.getpid(), 9)"
    )
    there = {**os.environ, "TMPDIR": str(tmp_path), "TEMP": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=there, check=False)
    (left,) = tmp_path.iterdir()
    with private_folder() as folder:
        assert list(tmp_path.iterdir()) == [folder]
    assert not left.exists()


@pytest.mark.usefixtures("temporary_files")
def test_a_folder_goes_whichever_thread_closes_it(tmp_path: Path) -> None:
    def generate() -> Iterator[Path]:
        with private_folder() as folder:
            yield folder

    generator = generate()
    next(generator)
    closing = threading.Thread(target=generator.close)  # type: ignore[attr-defined]
    closing.start()
    closing.join()
    assert list(tmp_path.iterdir()) == []
