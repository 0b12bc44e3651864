"""Pictures that come into a folder: whole ones only, each once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srtool.runtime.inputs import Inputs, Job, jobs_from_inputs
from srtool.runtime.watching import arriving

WAIT = 0.01  # seconds between two looks
Look = Callable[[], Inputs]

LOCK = """
import fcntl, sys
file = open(sys.argv[1], "rb+")
getattr(fcntl, sys.argv[2])(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


class Scene:
    """A watched folder. `after` is called before each look, with its number from 0."""

    def __init__(self, top: Path, write_png: Any) -> None:
        self.folder, self.said = top / "in", list[str]()
        self.folder.mkdir()
        random = np.random.default_rng(0)
        path = write_png(top / "model.png", random.integers(0, 256, (9, 9, 3), np.uint8))
        self.content = path.read_bytes()

    def put(self, name: str) -> Path:
        path = self.folder / name
        path.write_bytes(self.content)
        return path

    def arrivals(
        self, before: Callable[[int], object], looks: int, format: str | None = None
    ) -> list[list[str]]:
        """What came in so many looks, a list of names for each time that something came."""
        inputs, out = [str(self.folder)], self.folder.parent / "out"
        count = iter(range(looks))

        def look() -> Inputs:
            number = next(count, None)
            if number is None:
                raise KeyboardInterrupt
            before(number)
            return jobs_from_inputs(inputs, out, format=format, watching=True)

        found: list[list[str]] = []
        names = (
            [job.source.name for job in jobs] for jobs in arriving(look, self.said.append, WAIT)
        )
        with pytest.raises(KeyboardInterrupt):
            found.extend(names)
        return found


@pytest.fixture
def scene(tmp_path: Path, write_png: Any) -> Scene:
    return Scene(tmp_path, write_png)


def test_what_lies_there_comes_once_and_what_is_new_when_it_is_there(scene: Scene) -> None:
    scene.put("b.png")
    scene.put("a.png")

    def before(number: int) -> None:
        if number == 3:
            scene.put("c.png")

    assert scene.arrivals(before, 8) == [["a.png", "b.png"], ["c.png"]]


def test_a_file_that_grows_waits(scene: Scene) -> None:
    path = scene.folder / "a.png"
    came = []

    def before(number: int) -> None:
        came.append(number)
        if number < 6:
            path.write_bytes(scene.content[: 20 * number])

    assert scene.arrivals(before, 6) == []
    scene.put("a.png")
    assert scene.arrivals(lambda number: None, 3) == [["a.png"]]


def test_an_empty_file_waits(scene: Scene) -> None:
    path = scene.folder / "a.png"
    path.touch()

    def before(number: int) -> None:
        if number == 4:
            path.write_bytes(scene.content)

    assert scene.arrivals(before, 4) == []
    assert scene.arrivals(before, 8) == [["a.png"]]


def test_what_changes_comes_again(scene: Scene) -> None:
    path = scene.put("a.png")

    def before(number: int) -> None:
        if number == 4:
            path.write_bytes(scene.content + b"more")

    assert scene.arrivals(before, 9) == [["a.png"], ["a.png"]]


@pytest.mark.skipif(sys.platform == "win32", reason="there, an open file is locked by itself")
@pytest.mark.parametrize("kind", ["flock", "lockf"])
def test_a_locked_file_waits(scene: Scene, kind: str) -> None:
    path = scene.put("a.png")
    command = [sys.executable, "-c", LOCK, str(path), kind]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as holder:  # type: ignore[call-overload]
        assert holder.stdout.readline() == "locked\n"
        assert scene.arrivals(lambda number: None, 5) == []
        holder.communicate()
    assert scene.arrivals(lambda number: None, 3) == [["a.png"]]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pipes in folders")
def test_a_pipe_does_not_stop_the_watch(scene: Scene) -> None:
    import os

    os.mkfifo(scene.folder / "a.png")
    scene.put("b.png")
    assert scene.arrivals(lambda number: None, 4) == [["a.png", "b.png"]]


def test_a_folder_that_is_gone_for_a_time(scene: Scene) -> None:
    scene.put("a.png")
    away = scene.folder.with_name("away")

    def before(number: int) -> None:
        if number == 3:
            scene.folder.rename(away)
        if number == 6:
            away.rename(scene.folder)
            scene.put("b.png")

    found = scene.arrivals(before, 10)
    assert found[0] == ["a.png"]
    assert "b.png" in found[1]
    assert [line for line in scene.said if str(scene.folder) in line] == scene.said
    assert len(scene.said) == 1


def test_two_pictures_for_one_result(scene: Scene) -> None:
    scene.put("a.png")
    scene.put("a.webp")
    assert scene.arrivals(lambda number: None, 5, format="jpg") == [["a.png"]]
    assert len(scene.said) == 1
    assert "a.webp" in scene.said[0]


def test_results_beside_their_sources_are_not_taken(scene: Scene) -> None:
    scene.put("a.png")
    look = partial(jobs_from_inputs, [str(scene.folder)], scene.folder, suffix="_x4", watching=True)
    batches: Iterator[list[Job]] = arriving(look, scene.said.append, WAIT)
    (job,) = next(batches)
    job.target.write_bytes(scene.content)
    scene.put("b.png")
    assert [job.source.name for job in next(batches)] == ["b.png"]
