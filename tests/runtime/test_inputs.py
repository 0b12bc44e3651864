"""Files, folders and patterns -> what is read and what is written, and nothing lost on the way."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from srtool.errors import UsageError
from srtool.runtime.inputs import Job, check_writable, jobs_from_inputs

Touch = Callable[..., None]


@pytest.fixture
def touch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Touch:
    """Make files below the current folder, which is empty and new."""
    monkeypatch.chdir(tmp_path)

    def make(*names: str) -> None:
        for name in names:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_bytes(b"x")

    return make


def plan(inputs: str | list[str], out: str, *arguments: Any) -> dict[str, str]:
    """Source -> target, as text."""
    given = [inputs] if isinstance(inputs, str) else inputs
    jobs = jobs_from_inputs(given, Path(out), *arguments).jobs
    assert len({job.target for job in jobs}) == len(jobs)
    return {str(job.source): str(job.target) for job in jobs}


# Files


def test_one_file_into_a_folder_or_a_file(touch: Touch) -> None:
    touch("in/a.png", "there.jpg/keep")
    assert plan("in/a.png", "out") == {"in/a.png": "out/a.png"}
    assert plan("in/a.png", "out", "_x4", "webp") == {"in/a.png": "out/a_x4.webp"}
    assert plan("in/a.png", "new/b.jpg") == {"in/a.png": "new/b.jpg"}
    assert plan("in/a.png", "B.TIFF") == {"in/a.png": "B.TIFF"}
    assert plan("in/a.png", "there.jpg") == {"in/a.png": "there.jpg/a.png"}  # a folder


def test_a_file_is_tried_whatever_its_name(touch: Touch) -> None:
    touch("notes.txt", ".hidden.png", "no_suffix")
    assert plan(["notes.txt", ".hidden.png", "no_suffix"], "out") == {
        "notes.txt": "out/notes.png",
        ".hidden.png": "out/.hidden.png",
        "no_suffix": "out/no_suffix.png",
    }


def test_formats(touch: Touch) -> None:
    touch("a.jpeg", "b.GIF", "c.TIF", "d.avif", "e.webp")
    sources = ["a.jpeg", "b.GIF", "c.TIF", "d.avif", "e.webp"]
    targets = ["o/a.jpeg", "o/b.png", "o/c.TIF", "o/d.avif", "o/e.webp"]
    assert plan(sources, "o") == dict(zip(sources, targets, strict=True))
    assert set(plan(sources, "o", "", "jpg").values()) == {f"o/{name}.jpg" for name in "abcde"}


def test_a_format_and_a_file_name_agree(touch: Touch, complains: Any) -> None:
    touch("a.png")
    assert plan(["a.png"], "b.jpeg", "", "jpg") == {"a.png": "b.jpeg"}
    with complains(UsageError, "b.png", "--format"):
        plan(["a.png"], "b.png", "", "jpg")


def test_names_with_dots_and_brackets(touch: Touch) -> None:
    touch("a.b.c.png", "[1] x*.png")
    assert plan(["a.b.c.png", "[1] x*.png"], "o", "_x4") == {
        "a.b.c.png": "o/a.b.c_x4.png",
        "[1] x*.png": "o/[1] x*_x4.png",
    }


def test_a_file_named_twice_is_done_once(touch: Touch) -> None:
    touch("in/a.png")
    inputs = ["in/a.png", "in", "in/*.png", "./in/../in/a.png"]
    assert plan(inputs, "out") == {"in/a.png": "out/a.png"}


def test_several_images_do_not_fit_into_one_file(touch: Touch, complains: Any) -> None:
    touch("in/a.png", "in/b.png", "one/a.png")
    for inputs in (["in/a.png", "in/b.png"], ["in"], ["one"], ["in/*"]):
        with complains(UsageError, "out.png", "-o"):
            plan(inputs, "out.png")


# Folders


def test_folders_keep_their_structure(touch: Touch) -> None:
    touch("in/a.png", "in/x/a.jpg", "in/x/y/b.webp", "in/notes.txt", "in/x/.srtool-1.png")
    assert plan("in", "out") == {
        "in/a.png": "out/a.png",
        "in/x/a.jpg": "out/x/a.jpg",
        "in/x/y/b.webp": "out/x/y/b.webp",
    }
    assert plan("in/", "out") == plan("in", "out") == plan("./in", "out")
    assert plan("in/x", "out") == {"in/x/a.jpg": "out/a.jpg", "in/x/y/b.webp": "out/y/b.webp"}


def test_a_folder_named_like_an_image_is_no_image(touch: Touch) -> None:
    touch("in/folder.png/a.png")
    assert plan("in", "out") == {"in/folder.png/a.png": "out/folder.png/a.png"}


@pytest.mark.parametrize("out", ["in/up", "in/x/deep/up"])
def test_results_in_the_input_folder_are_not_read_again(touch: Touch, out: str) -> None:
    touch("in/a.png", "in/x/b.png")
    first = plan("in", out)
    assert first == {"in/a.png": f"{out}/a.png", "in/x/b.png": f"{out}/x/b.png"}
    touch(*first.values())
    assert plan("in", out) == first
    assert plan(str(Path("in").resolve()), str(Path(out).resolve())).keys() == {
        str(Path(source).resolve()) for source in first
    }


@pytest.mark.parametrize("out", [".", "in", "in/.."])
def test_an_output_folder_around_the_input_hides_nothing(touch: Touch, out: str) -> None:
    touch("in/x/a.png", "in/b.png")
    assert plan("in", out, "_x4") == {
        "in/b.png": f"{Path(out)}/b_x4.png".removeprefix("./"),
        "in/x/a.png": f"{Path(out)}/x/a_x4.png".removeprefix("./"),
    }


@pytest.mark.parametrize("inputs", ["in", "in/*.png", "in/**/*"])
@pytest.mark.parametrize("format", [None, "jpg"])
def test_results_beside_their_sources_are_not_read_again(
    touch: Touch, inputs: str, format: str | None
) -> None:
    touch("in/a.png", "in/b.png")
    first = plan(inputs, "in", "_x4", format)
    assert first.keys() == {"in/a.png", "in/b.png"}
    touch(*first.values())
    assert plan(inputs, "in", "_x4", format) == first


def test_a_source_that_only_looks_like_a_result_is_read(touch: Touch) -> None:
    touch("in/a_x4.png")
    assert plan("in", "in", "_x4") == {"in/a_x4.png": "in/a_x4_x4.png"}
    assert plan("in", "out", "_x4") == {"in/a_x4.png": "out/a_x4_x4.png"}


# Patterns


def test_patterns(touch: Touch) -> None:
    touch("in/a.png", "in/b.jpg", "in/x/c.png", "in/notes.txt", "in/d.png/e.png")
    assert plan("in/*.png", "out") == {"in/a.png": "out/a.png"}
    assert plan("in/?.???", "out") == {"in/a.png": "out/a.png", "in/b.jpg": "out/b.jpg"}
    assert plan("in/*", "out").keys() == {"in/a.png", "in/b.jpg"}
    assert plan("in/**/*.png", "out").keys() == {"in/a.png", "in/x/c.png", "in/d.png/e.png"}


@pytest.mark.parametrize("inputs", ["in/**/*.png", "./in/**", "in/*/*.png"])
def test_results_below_a_pattern_are_not_read_again(touch: Touch, inputs: str) -> None:
    touch("in/a.png", "in/x/b.png")
    first = plan(inputs, "in/up")
    assert first
    touch(*first.values())
    assert plan(inputs, "in/up") == first


# What is refused


@pytest.mark.parametrize("name", ["none", "none.png", "none/*.png", "*.png", "in/[a-c].png"])
def test_inputs_that_are_not_there(touch: Touch, complains: Any, name: str) -> None:
    touch("in/d.png")
    with complains(UsageError, name):
        plan(name, "out")


def test_a_folder_without_images(touch: Touch, complains: Any) -> None:
    touch("in/notes.txt")
    with complains(UsageError, "in", "no images", ".png", ".avif"):
        plan("in", "out")


@pytest.mark.parametrize(
    ("inputs", "arguments", "names"),
    [
        (["x", "y"], (), ["x/a.png", "y/a.png", "out/a.png"]),
        (["x/a.png", "y/*.png"], (), ["x/a.png", "y/a.png", "out/a.png"]),
        (["z"], ("", "png"), ["z/a.jpg", "z/a.png", "out/a.png"]),
        (["z"], (), ["z/a.gif", "z/a.png", "out/a.png"]),
        (["w/**"], (), ["w/1/a.png", "w/2/a.png"]),
    ],
)
def test_two_images_for_one_file(
    touch: Touch, complains: Any, inputs: list[str], arguments: Any, names: list[str]
) -> None:
    touch("x/a.png", "y/a.png", "z/a.png", "z/a.jpg", "z/a.gif", "w/1/a.png", "w/2/a.png")
    if "png" not in arguments:
        Path("z/a.jpg").unlink()
    else:
        Path("z/a.gif").unlink()
    with complains(UsageError, *names, "-o"):
        plan(inputs, "out", *arguments)


def test_a_source_is_never_overwritten(touch: Touch, complains: Any) -> None:
    touch("in/a.png", "other/b.png")
    os.symlink("in", "link")
    os.link("in/a.png", "hard.png")
    for inputs, out in [
        ("in/a.png", "in/a.png"),
        ("in/a.png", "in"),
        ("in", "in"),
        ("in/*.png", "in"),
        ("in", "other/../in"),
        ("in", "link"),
        ("link", "in"),
        ("in/a.png", "hard.png"),
        (["other", "in"], "in"),
    ]:
        with complains(UsageError, "a.png", "overwritten", "-o", "--suffix"):
            plan(inputs, out)


@pytest.mark.parametrize("is_made", [True, False])
@pytest.mark.parametrize("folder", ["file.txt/out", "file.txt", "/proc/srtool", "/dev/null/x"])
def test_folders_that_cannot_be_written(
    touch: Touch, complains: Any, folder: str, is_made: bool
) -> None:
    touch("file.txt", "a.png")
    with complains(UsageError, folder, "cannot be written", "-o"):
        check_writable([Job(Path("a.png"), Path(folder, "a.png"))], is_made=is_made)


def test_folders_are_made_and_left_empty(touch: Touch) -> None:
    touch("a.png")
    check_writable([Job(Path("a.png"), Path("new/x/a.png")), Job(Path("b.png"), Path("new/b.png"))])
    assert [str(path) for path in Path("new").rglob("*")] == ["new/x"]
