"""Tiles cover an image once, are of one size, and leave no trace where they meet."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from srtool.errors import UsageError
from srtool.manifest import ModelFacts
from srtool.runtime.backends.onnxruntime import OnnxRuntime
from srtool.runtime.engine import Engine, EngineInfo
from srtool.runtime.session import DirectSession, TooLarge
from srtool.runtime.tiling import Canvas, Span, Tiling, fitted, pieces, spans, upscale_tiled


def test_spans_by_hand() -> None:
    assert spans(100, 100, 10) == [Span(0, 100, 0, 100)]
    assert spans(7, 100, 60) == [Span(0, 7, 0, 7)]
    assert spans(100, 60, 10) == [Span(0, 60, 0, 50), Span(40, 100, 50, 100)]
    assert spans(101, 60, 10) == [Span(0, 60, 0, 40), Span(20, 80, 40, 60), Span(41, 101, 60, 101)]
    assert spans(5, 2, 0) == [Span(0, 2, 0, 2), Span(2, 4, 2, 3), Span(3, 5, 3, 5)]


def test_spans_of_many_sizes() -> None:
    choose = random.Random(0)
    for _ in range(2000):
        halo = choose.choice([0, 1, 2, 8, 16, choose.randint(0, 70)])
        tile = 2 * halo + choose.choice([1, 2, 3, choose.randint(1, 300)])
        length = choose.choice([1, tile, tile + 1, choose.randint(1, 1000)])
        found = spans(length, tile, halo)
        what = f"length {length}, tile {tile}, halo {halo}: {found}"
        assert found[0].first == 0, what
        assert found[-1].last == length, what
        for span in found:
            assert span.stop - span.start == min(tile, length), what
            assert 0 <= span.start <= span.first < span.last <= span.stop <= length, what
            assert span.start == 0 or span.first - span.start >= halo, what
            assert span.stop == length or span.stop - span.last >= halo, what
        for left, right in pairwise(found):
            assert left.last == right.first, what
            assert left.start < right.start, what
        fewer = (len(found) - 1) * (tile - 2 * halo) + 2 * halo
        assert len(found) == 1 or fewer < length, what


@pytest.mark.parametrize(("tile", "halo"), [(32, 16), (31, 16), (2, 1), (16, 64)])
def test_a_halo_that_leaves_nothing_is_refused(complains: Any, tile: int, halo: int) -> None:
    with complains(
        UsageError, f"tile of {tile}", "--tile", f"halo of {halo}", f"at least {2 * halo + 1}"
    ):
        spans(1000, tile, halo)


RADIUS = 3


def blur(batch: NDArray[Any]) -> NDArray[Any]:
    """(N, 3, H, W) -> (N, 3, 2H, 2W): a mean over a square, zeros beyond the image."""
    pad = [(0, 0), (0, 0), (RADIUS, RADIUS), (RADIUS, RADIUS)]
    wide = np.pad(batch.astype(np.float64), pad)
    height, width = batch.shape[2:]
    size = range(2 * RADIUS + 1)
    total = sum(wide[:, :, i : i + height, j : j + width] for i in size for j in size)
    mean: NDArray[Any] = np.float32(total / len(size) ** 2)  # type: ignore[operator]
    return mean.repeat(2, 2).repeat(2, 3)


def blurring(halo: int, multiple_of: int = 1, seen: Any = None) -> Engine:
    """seen: gathers the sides of the tiles that the network gets."""

    def session(batch: NDArray[Any]) -> NDArray[Any]:
        if seen is not None:
            seen.add(batch.shape[2:])
        return blur(batch)

    facts = ModelFacts(
        scale=2,
        io="float32",
        precision="fp32",
        architecture="blur",
        halo=halo,
        multiple_of=multiple_of,
    )
    return engine_of(facts, session)


def engine_of(facts: ModelFacts, function: Any) -> Engine:
    info = EngineInfo(Path("blur.onnx"), facts, OnnxRuntime())
    return Engine(info, DirectSession(facts, function))


def noise(height: int, width: int, dtype: Any = np.float32) -> NDArray[Any]:
    values = np.random.default_rng(height * width).random((height, width, 3))
    return (values * 255).round().astype(dtype) if dtype == np.uint8 else values.astype(dtype)


@pytest.mark.parametrize(
    ("length", "tile", "halo", "side"),
    [
        (100, 256, 8, 256),  # one tile, of the image's own size
        (256, 256, 8, 256),
        (257, 256, 8, 137),  # 2 x 137 = 257 + 2 x 8, rounded up
        (768, 256, 8, 204),  # 4 x 204 = 768 + 3 x 16
        (496, 256, 8, 256),  # comes out even
        (497, 256, 8, 177),
    ],
)
def test_tiles_are_no_larger_than_their_number_asks(
    length: int, tile: int, halo: int, side: int
) -> None:
    assert fitted(length, tile, halo) == side
    assert len(spans(length, side, halo)) == len(spans(length, tile, halo))
    if length > tile:
        assert len(spans(length, side - 1, halo)) > len(spans(length, tile, halo))


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize("tile", [8, 9, 16, 31])
def test_tiled_equals_untiled(tile: int, dtype: Any) -> None:
    for size in [(1, 1), (3, 50), (50, 7), (31, 31), (32, 33), (57, 40)]:
        image = noise(*size, dtype)
        whole = upscale_tiled(image, blurring(0), Tiling(max(size), 0))
        seen: set[tuple[int, int]] = set()
        tiled = upscale_tiled(image, blurring(RADIUS, seen=seen), Tiling(tile))
        assert tiled.shape == (2 * size[0], 2 * size[1], 3)
        assert tiled.dtype == dtype
        assert np.array_equal(tiled, whole)
        ((height, width),) = seen  # one shape for a whole image: a network compiles for it
        assert height <= min(tile, size[0])
        assert width <= min(tile, size[1])


def test_a_smaller_halo_would_show() -> None:
    image = noise(40, 40)
    whole = upscale_tiled(image, blurring(RADIUS), Tiling(40))
    assert not np.array_equal(upscale_tiled(image, blurring(RADIUS), Tiling(16, RADIUS - 1)), whole)
    assert np.array_equal(upscale_tiled(image, blurring(0), Tiling(16, RADIUS)), whole)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize("size", [(1, 1), (5, 8), (17, 50)])
def test_sides_are_padded_to_what_the_network_needs(size: tuple[int, int], dtype: Any) -> None:
    image = noise(*size, dtype)
    seen: set[tuple[int, int]] = set()
    found = upscale_tiled(image, blurring(RADIUS, multiple_of=8, seen=seen), Tiling(21))
    assert all(side % 8 == 0 for shape in seen for side in shape)
    # The padding mirrors the image, and then repeats its edge, instead of the zeros beyond it.
    wide = image
    for axis in (0, 1):
        missing = -size[axis] % 8
        mirrored = min(missing, size[axis] - 1)
        for mode, count in (("reflect", mirrored), ("edge", missing - mirrored)):
            padding = [(0, count if each == axis else 0) for each in range(3)]
            wide = np.pad(wide, padding, mode=mode) if count else wide  # type: ignore[call-overload]
    whole = upscale_tiled(wide, blurring(0), Tiling(99))[: 2 * size[0], : 2 * size[1]]
    assert np.array_equal(found, whole)


def test_repeated_pixels(nearest: Any) -> None:
    image = noise(70, 45, np.uint8)
    found = upscale_tiled(image, nearest(), Tiling(24))
    assert np.array_equal(found, image.repeat(4, 0).repeat(4, 1))


def test_tiles_are_checked_only_where_there_are_any(nearest: Any) -> None:
    image = noise(16, 16, np.uint8)
    assert upscale_tiled(image, nearest(halo=100), Tiling(16)).shape == (64, 64, 3)
    with pytest.raises(UsageError):
        upscale_tiled(noise(16, 17, np.uint8), nearest(halo=100), Tiling(16))


# Parts of an image


def test_pieces_by_hand() -> None:
    whole = Span(0, 100, 0, 100)
    assert pieces(whole, 60, 10) == spans(100, 60, 10)
    assert pieces(Span(20, 80, 40, 60), 60, 10) == [Span(20, 80, 40, 60)]
    assert pieces(Span(20, 80, 30, 70), 40, 10) == [Span(20, 60, 30, 50), Span(40, 80, 50, 70)]
    # What only covers what is not kept is left out.
    assert pieces(Span(20, 80, 60, 70), 40, 10) == [Span(40, 80, 60, 70)]


def test_pieces_of_many_spans() -> None:
    choose = random.Random(1)
    for _ in range(2000):
        halo = choose.randint(0, 20)
        length, tile = choose.randint(1, 400), 2 * halo + choose.randint(2, 100)
        small = choose.randint(2 * halo + 1, tile)
        for span in spans(length, tile, halo):
            found = pieces(span, small, halo)
            assert found[0].first == span.first
            assert found[-1].last == span.last
            for left, right in pairwise(found):
                assert left.last == right.first
            for piece in found:
                assert span.start <= piece.start <= piece.first < piece.last <= piece.stop
                assert piece.stop <= span.stop
                assert piece.stop - piece.start == min(small, span.stop - span.start)
                assert piece.start == 0 or piece.first - piece.start >= halo
                assert piece.stop == length or piece.stop - piece.last >= halo


# An engine that delivers later


class Later(Engine):
    """Keeps tiles until it is flushed, and then takes those that are not larger than `most`."""

    def __init__(self, halo: int, most: int) -> None:
        blurs = blurring(halo)
        super().__init__(blurs.info, blurs._session)
        self.most, self.kept = most, list[Any]()

    def tile_of(self, dtype: Any) -> tuple[int, int]:
        return self.most, self.most

    def submit(self, tile: NDArray[Any], callback: Any) -> None:
        self.kept.append((tile, callback))

    def flush(self) -> None:
        while self.kept:
            tile, callback = self.kept.pop(len(self.kept) // 2)
            if max(tile.shape) > self.most:
                callback(TooLarge("too large"))
            else:
                callback(self._session.run(tile[None])[0])


def test_tiles_that_become_too_large_on_the_way() -> None:
    image = noise(60, 77)
    whole = upscale_tiled(image, blurring(0), Tiling(99))
    engine = Later(RADIUS, 40)
    canvas = Canvas(image, engine)
    assert not canvas.is_done
    engine.most = 15  # it ran out of memory
    engine.flush()
    assert canvas.is_done
    assert np.array_equal(canvas.result(), whole)


def test_tiles_that_become_too_large_for_their_halo() -> None:
    engine = Later(RADIUS, 40)
    canvas = Canvas(noise(60, 77), engine)
    engine.most = 6
    engine.flush()
    with pytest.raises(UsageError, match="halo of 3"):
        canvas.result()


def test_the_first_error_of_a_tile_is_that_of_the_image() -> None:
    engine = Later(RADIUS, 40)
    canvas = Canvas(noise(60, 77), engine)
    kept, engine.kept = engine.kept, []
    for number, (tile, callback) in enumerate(kept):
        failed = number in (1, 2)
        callback(RuntimeError(f"tile {number}") if failed else engine.upscale_batch(tile[None])[0])
    assert canvas.is_done
    with pytest.raises(RuntimeError, match="tile 1"):
        canvas.result()


def test_no_more_tiles_are_tried_after_an_error() -> None:
    calls = []

    def failing(batch: NDArray[Any]) -> NDArray[Any]:
        calls.append(batch)
        raise RuntimeError("broken")

    engine = engine_of(blurring(RADIUS).facts, failing)
    with pytest.raises(RuntimeError, match="broken"):
        upscale_tiled(noise(60, 77), engine, Tiling(20))
    assert len(calls) == 1


@pytest.mark.parametrize("multiple_of", [1, 8])
@pytest.mark.parametrize("size", [(50, 70), (16, 16), (33, 7)])
def test_all_tiles_are_announced_before_they_come(
    size: tuple[int, int], multiple_of: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[Any, int]] = []
    seen: list[Any] = []
    monkeypatch.setattr(
        Engine, "prepare", lambda self, shape, dtype, times: told.append((shape, times))
    )
    submit = Engine.submit
    monkeypatch.setattr(
        Engine,
        "submit",
        lambda self, tile, callback: (seen.append((1, *tile.shape)), submit(self, tile, callback)),
    )
    image = np.random.default_rng(0).random((*size, 3), np.float32)
    engine = blurring(halo=4, multiple_of=multiple_of)
    Canvas(image, engine, Tiling(32, times=5))
    ((shape, times),) = told
    assert set(seen) == {shape}
    assert times == 5 * len(seen)
