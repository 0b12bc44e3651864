"""The index of an output folder, results told from inputs, shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srtool.errors import UsageError
from srtool.images.reading import read_image
from srtool.runtime.events import Event
from srtool.runtime.folder import upscale_images
from srtool.runtime.index import Entry, Index, Shard
from srtool.runtime.inputs import Job, jobs_from_inputs, shard_of
from srtool.runtime.upscaling import Options


@pytest.fixture
def images(tmp_path: Path, write_png: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder `in` of the current folder with three images."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png", "x/c.png"):
        write_png(Path("in", name), np.full((8, 8, 3), 100, np.uint8))
    return Path("in")


def done(
    engine: Any, inputs: str, out: str, options: Options | None = None, suffix: str = ""
) -> list[tuple[str, str]]:
    """What happened to each source."""
    found = jobs_from_inputs([inputs], Path(out), suffix)
    assert found.folder is not None
    index = Index(found.folder)
    try:
        events = list(upscale_images(found.jobs, engine, options, None, index))
    finally:
        index.close()
    return [(e.job.source.name, e.kind) for e in events if e.kind != "note"]


def all_of(kind: str) -> list[tuple[str, str]]:
    return [("a.png", kind), ("b.png", kind), ("c.png", kind)]


def test_results_are_no_inputs_of_later_runs(images: Path, nearest: Any) -> None:
    assert done(nearest(), "in", "in", suffix="_4x") == all_of("done")
    # Neither with another suffix, nor into another folder below, nor by a pattern
    assert done(nearest(), "in", "in", suffix="_big") == all_of("done")
    assert done(nearest(), "in", "in/up") == all_of("done")
    assert done(nearest(), "in", "in/up2") == all_of("done")
    assert [name for name, _ in done(nearest(), "in/**/*.png", "in/up3")] == [
        "a.png",
        "b.png",
        "c.png",
    ]
    # Who names the folder of results wants them upscaled
    assert done(nearest(), "in/up", "again") == all_of("done")
    assert read_image(Path("again/a.png")).pixels.shape == (128, 128, 3)


def test_results_of_another_engine_or_other_options_are_named(images: Path, nearest: Any) -> None:
    first = nearest(weights_sha256="1" * 64)
    assert done(first, "in", "out") == all_of("done")
    assert done(first, "in", "out") == all_of("skipped")
    assert done(first, "in", "out", Options(tile=16, halo=1)) == all_of("skipped")
    assert done(first, "in", "out", Options(depth=8)) == all_of("other")
    other = nearest(weights_sha256="2" * 64)
    assert done(other, "in", "out") == all_of("other")
    assert done(other, "in", "out", Options(overwrite=True)) == all_of("done")
    assert done(first, "in", "out") == all_of("other")
    assert done(other, "in", "out") == all_of("skipped")


def test_what_is_no_result_is_no_result(images: Path, nearest: Any) -> None:
    Path("out").mkdir()
    Path("out/a.png").touch()
    Path("out/b.png").mkdir()
    assert dict(done(nearest(), "in", "out")) == {
        "a.png": "done",
        "b.png": "failed",
        "c.png": "done",
    }
    assert read_image(Path("out/a.png")).pixels.shape == (32, 32, 3)


def test_names_that_are_too_long_cost_one_image(images: Path, nearest: Any) -> None:
    (images / "b.png").rename(images / f"{'b' * 250}.png")
    found = done(nearest(), "in", "out", suffix="_upscaled")
    assert [kind for _, kind in found].count("done") == 2
    assert [kind for _, kind in found].count("failed") == 1


@pytest.mark.parametrize("tail", ["", '{"file": "b.p', "\n\n[]\n5\n", '{"what": 1}\n', "\x00\xff"])
def test_lines_that_were_cut_off_count_for_nothing(tail: str, tmp_path: Path) -> None:
    index = Index(tmp_path)
    index.add(Entry("a.png", "e", "x4", "{}"))
    index.close()
    with index.path.open("a", encoding="utf-8") as file:
        file.write(tail)
    assert list(Index(tmp_path).entries) == ["a.png"]


def test_one_listing_tells_all_shards(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        index = Index(tmp_path, Shard(number, 3))
        index.add(Entry(f"{number}.png", "e"))
        index.add(Entry("common.png", "" if number == 2 else "e", failed="x" * (number == 2)))
        index.close()
    index = Index(tmp_path)
    assert sorted(index.entries) == ["1.png", "2.png", "3.png", "common.png"]
    assert not index.entries["common.png"].failed
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_shards_are_disjoint_complete_and_stable(count: int) -> None:
    names = [Path(f"folder/{number}.png") for number in range(500)]
    shards = [shard_of(name, count) for name in names]
    assert set(shards) <= set(range(1, count + 1))
    assert [shard_of(name, count) for name in reversed(names)] == shards[::-1]
    if count <= 7:
        assert min(shards.count(number) for number in range(1, count + 1)) > 500 / count / 2
    assert shard_of(Path("x/c.png"), 8) == 3  # other machines and versions must agree


def test_every_image_is_in_one_shard(images: Path) -> None:
    def part(number: int) -> list[Path]:
        found = jobs_from_inputs(["in"], Path("out"), shard=Shard(number, 2))
        return [job.source for job in found.jobs]

    assert sorted(part(1) + part(2)) == [images / "a.png", images / "b.png", images / "x/c.png"]
    with pytest.raises(UsageError, match="3 of 2"):
        part(3)


def test_closing_the_iterator_finishes_what_is_being_written(images: Path, nearest: Any) -> None:
    jobs = [Job(images / name, Path("out", name)) for name in ("a.png", "b.png")]
    events = upscale_images(jobs, nearest())
    first: Event = next(events)
    assert first.kind == "done"
    events.close()
    for path in Path("out").iterdir():
        assert read_image(path).pixels.shape == (32, 32, 3)
