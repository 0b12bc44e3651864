"""How patches are drawn from a folder or a packed file, and which sources are refused."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from srtool.errors import DataError
from srtool.images.datasets import Pair, digest, load_dataset
from srtool.images.imresize import make_lr
from srtool.train.data.augment import KINDS, Mixture, forced
from srtool.train.data.packed import pack
from srtool.train.data.patches import Patches


@pytest.fixture(params=["folder", "packed"])
def source(request: pytest.FixtureRequest, photographs: Path) -> Path:
    """The photographs as a folder, and packed whole, so that both hold the same pairs."""
    if request.param == "folder":
        return photographs
    out = photographs.parent / "packed.h5"
    pack(photographs, out, side=64)
    return out


@pytest.fixture(params=["none", *KINDS])
def mixture(request: pytest.FixtureRequest) -> Mixture:
    return forced(Mixture(), request.param)


def same(one: tuple[torch.Tensor, ...], other: tuple[torch.Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def pixels(batch: torch.Tensor) -> NDArray[np.uint8]:
    """(N, H, W, 3)"""
    array: NDArray[np.uint8] = batch.permute(0, 2, 3, 1).numpy()
    return array


def views(image: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """The four quarter turns of an image and of its mirror image."""
    return [np.rot90(mirror, turns) for mirror in (image, image[:, ::-1]) for turns in range(4)]


def locate(pair: Pair, patch: NDArray[np.uint8]) -> tuple[int, int, int] | None:
    """Where in the LR image, and in which of eight views, an HR patch was cut."""
    side, total = len(patch), patch.sum()
    for top in range(0, pair.hr.shape[0] - side + 1, 4):
        for left in range(0, pair.hr.shape[1] - side + 1, 4):
            crop = pair.hr[top : top + side, left : left + side]
            if crop.sum() != total:
                continue
            for view, image in enumerate(views(crop)):
                if np.array_equal(image, patch):
                    return top // 4, left // 4, view
    return None


def test_lr_and_hr_patches_show_the_same_place(photographs: Path, source: Path) -> None:
    patches = Patches(source, 16, 4, seed=3)
    whole = {pair.path.name: make_lr(pair.hr) for pair in load_dataset(photographs)}
    seen, corners = set(), set()
    for step in range(1, 16):
        lr, hr = patches.at(step)
        assert lr.shape == (4, 3, 4, 4)
        assert hr.shape == (4, 3, 16, 16)
        assert lr.dtype == hr.dtype == torch.uint8
        for low, high in zip(lr.permute(0, 2, 3, 1), hr.permute(0, 2, 3, 1), strict=True):
            places = [(p, locate(p, high.numpy())) for p in patches.pairs]
            ((pair, place),) = [(p, place) for p, place in places if place]
            top, left, view = place
            expected = views(whole[pair.path.name][top : top + 4, left : left + 4])[view]
            assert np.array_equal(low.numpy(), expected)
            seen.add(view)
            corners.add((pair.path.name, top, left))
    assert seen == set(range(8))
    assert len(corners) > 40


def test_the_last_row_and_column_can_be_drawn(tmp_path: Path, write_png: Any) -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    image[-1, -1] = 255
    write_png(tmp_path / "x.png", image)
    patches = Patches(tmp_path, 16, 8, seed=0)
    found = [(patches.at(step)[1] == 255).flatten(1).any(1).float().mean() for step in range(30)]
    assert np.mean(found) == pytest.approx(0.25, abs=0.08)  # one of four places


def test_images_are_drawn_by_their_area(tmp_path: Path, write_png: Any) -> None:
    write_png(tmp_path / "small.png", np.full((32, 32, 3), 10, np.uint8))
    write_png(tmp_path / "large.png", np.full((96, 32, 3), 200, np.uint8))
    patches = Patches(tmp_path, 16, 32, seed=0)
    large = np.mean([(patches.at(step)[1] == 200).float().mean() for step in range(25)])
    assert large == pytest.approx(0.75, abs=0.05)


def test_a_batch_depends_on_seed_and_step_alone(source: Path) -> None:
    first, again = Patches(source, 16, 4, seed=1), Patches(source, 16, 4, seed=1)
    again.at(3)
    for a, b in zip(first.at(7), again.at(7), strict=True):
        assert torch.equal(a, b)
    others = (first.at(8), Patches(source, 16, 4, seed=2).at(7))
    assert not any(torch.equal(first.at(7)[1], other[1]) for other in others)


@pytest.mark.parametrize(("first", "last"), [(1, 30), (3, 11), (4, 12), (5, 5), (6, 5)])
def test_batches_are_those_of_every_step_in_order(photographs: Path, first: int, last: int) -> None:
    patches = Patches(photographs, 16, 2, seed=0)
    found = list(patches.batches(first, last))
    expected = [patches.at(step) for step in range(first, last + 1)]
    assert len(found) == len(expected)
    for pair, wanted in zip(found, expected, strict=True):
        assert torch.equal(pair[0], wanted[0])
        assert torch.equal(pair[1], wanted[1])


def test_batches_of_a_packed_file_are_those_of_its_folder(photographs: Path) -> None:
    out = photographs.parent / "packed.h5"
    pack(photographs, out, side=64)
    folder, packed = Patches(photographs, 16, 4, seed=0), Patches(out, 16, 4, seed=0)
    assert all(same(folder.at(step), packed.at(step)) for step in range(10))
    assert folder.digests == packed.digests
    assert folder.photographs == packed.photographs == 3


def test_sub_images_are_drawn_by_the_area_of_their_photograph(
    tmp_path: Path, write_png: Any
) -> None:
    folder = tmp_path / "photographs"
    write_png(folder / "small.png", np.full((32, 32, 3), 10, np.uint8))
    write_png(folder / "large.png", np.full((32, 96, 3), 200, np.uint8))
    pack(folder, tmp_path / "packed.h5", side=40)  # three sub-images of 40, that is 120 pixels
    patches = Patches(tmp_path / "packed.h5", 16, 32, seed=0)
    large = np.mean([(patches.at(step)[1] == 200).float().mean() for step in range(50)])
    assert large == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("share", [slice(0, 2), slice(2, 5), slice(1, None, 2), slice(5, 5)])
def test_a_share_is_its_part_of_the_batch(source: Path, share: slice) -> None:
    patches = Patches(source, 16, 5, seed=1)
    lr, hr = patches.at(3)
    assert same(patches.at(3, share), (lr[share], hr[share]))


def test_shares_of_a_mixed_batch_are_parts_of_it(source: Path, mixture: Mixture) -> None:
    patches = Patches(source, 16, 5, seed=1, mixture=mixture)
    for step in range(4):
        whole = patches.at(step)
        parts = [patches.at(step, share) for share in (slice(0, 2), slice(2, 3), slice(3, 5))]
        assert same(tuple(map(torch.cat, zip(*parts, strict=True))), whole)


def test_samples_are_mixed_at_hr_size_with_their_partners(
    photographs: Path, mixture: Mixture
) -> None:
    """Mixed by hand from the batch without augmentation, which has the same draws."""
    mixed = Patches(photographs, 16, 6, seed=2, mixture=mixture)
    for step in range(5):
        low, high = map(pixels, Patches(photographs, 16, 6, seed=2).at(step))
        low = low.repeat(4, 1).repeat(4, 2)
        mixing = mixed.draw(step).mixing
        assert mixing is not None
        lr, hr = map(pixels, mixed.at(step))
        assert lr.shape == hr.shape == (6, 16, 16, 3)
        for i, j in enumerate(mixing.partners):
            expected = mixing.apply(i, low[i], high[i], low[j], high[j])
            assert np.array_equal(lr[i], expected[0])
            assert np.array_equal(hr[i], expected[1])


def test_batches_are_whole_blocks_of_memory(source: Path) -> None:
    for mixture in (None, Mixture()):
        for images in Patches(source, 16, 3, seed=0, mixture=mixture).at(1):
            assert images.is_contiguous(memory_format=torch.channels_last)


def test_any_number_of_threads_makes_the_same_batches(source: Path) -> None:
    patches = Patches(source, 16, 4, seed=0, mixture=Mixture())
    expected = [patches.at(step) for step in range(40)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(patches.at, range(40)))
    assert all(same(*pair) for pair in zip(found, expected, strict=True))


def test_batches_give_the_share_asked_for(photographs: Path) -> None:
    patches = Patches(photographs, 16, 4, seed=0)
    found = list(patches.batches(5, 9, slice(1, 3)))
    assert all(same(f, patches.at(5 + n, slice(1, 3))) for n, f in enumerate(found))


def test_the_wait_for_data_is_measured(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patches = Patches(photographs, 16, 2, seed=0)
    start = time.perf_counter()
    for _ in patches.batches(1, 20):
        time.sleep(0.005)
    assert 0 <= patches.waited <= time.perf_counter() - start - 20 * 0.005
    at = Patches.at

    def slow(self: Patches, step: int, share: slice | None = None) -> Any:
        time.sleep(0.05)
        return at(self, step, share)

    monkeypatch.setattr(Patches, "at", slow)
    before = patches.waited
    list(patches.batches(1, 8))  # on two threads
    assert patches.waited - before > 0.15


def test_a_consumer_that_stops_leaves_no_work_behind(
    photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def slow(self: Patches, step: int, share: slice | None = None) -> None:
        time.sleep(0.02)
        made.append(step)

    monkeypatch.setattr(Patches, "at", slow)
    batches = Patches(photographs, 16, 2, seed=0).batches(1, 1000)
    next(batches)
    batches.close()
    assert len(made) < 7  # of nine that were in the queue


def test_an_error_in_a_thread_reaches_the_consumer(
    photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Patches, step: int, share: slice | None = None) -> Any:
        raise OSError("the disk is gone")

    monkeypatch.setattr(Patches, "at", broken)
    with pytest.raises(OSError, match="gone"):
        next(iter(Patches(photographs, 16, 2, seed=0).batches(1, 9)))


def test_images_smaller_than_the_patch_are_left_out(photographs: Path, write_png: Any) -> None:
    write_png(photographs / "dot.png", np.zeros((2, 3, 3), np.uint8))
    out = photographs.parent / "packed.h5"
    pack(photographs, out)
    first = digest(load_dataset(photographs)[0])
    for source in (photographs, out):
        patches = Patches(source, 48, 2, 0)
        assert [pair.path.name for pair in patches.pairs] == ["0.png"]
        assert (patches.photographs, patches.skipped) == (1, 3)
        assert patches.digests == {first}


def test_photographs_that_are_trained_on_are_recognised(source: Path, photographs: Path) -> None:
    found = Patches(source, 16, 2, 0).digests
    assert found == {digest(pair) for pair in load_dataset(photographs)}


def test_sources_without_usable_images_are_refused(
    tmp_path: Path, photographs: Path, complains: Any
) -> None:
    empty = tmp_path / "empty"
    with complains(DataError, empty, "no such folder"):
        Patches(empty, 16, 2, 0)
    empty.mkdir()
    with complains(DataError, empty, "holds no images"):
        Patches(empty, 16, 2, 0)
    with complains(DataError, photographs, "all 3 images", "patch 64"):
        Patches(photographs, 64, 2, 0)
    out = tmp_path / "packed.h5"
    pack(photographs, out, side=32)
    with complains(DataError, out, "all 12 sub-images", "patch 48", "larger"):
        Patches(out, 48, 2, 0)
    with complains(DataError, photographs / "0.png", "is no packed file"):
        Patches(photographs / "0.png", 16, 2, 0)
