"""The ring on a GPU that works late and in random order: every pixel must come out right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from srtool.errors import EngineError, UsageError
from srtool.runtime.backends.tensorrt import TensorRt
from srtool.runtime.engine import Engine, EngineInfo
from srtool.runtime.gpu.scheduler import Ring, TooLarge
from srtool.runtime.tiling import Canvas, Tiling, upscale_tiled

Opened = Callable[..., tuple[Ring, Any]]
# One main shape of 4 tiles of 24x16, other sizes from 4x4 to 32x32.
SIDES = (16, 24)


def noise(height: int, width: int, seed: int = 0, dtype: Any = np.uint8) -> NDArray[Any]:
    values = np.random.default_rng([seed, height, width]).integers(0, 256, (height, width, 3))
    return (values / 255).astype(np.float32) if dtype == np.float32 else values.astype(dtype)


def enlarged(image: NDArray[Any]) -> NDArray[Any]:
    return image.repeat(4, 0).repeat(4, 1)


@pytest.fixture
def opened(make_plan: Any) -> Opened:
    """A ring on a fake plan, and what `make_plan` gives."""

    def open_ring(generation: str = "11", **wanted: Any) -> tuple[Ring, Any]:
        made = make_plan(generation, **wanted)
        return backend_of(made).open(made.path, made.facts), made

    return open_ring


def backend_of(made: Any) -> TensorRt:
    return TensorRt(made.flavour, made.facts.precision)


def engine_of(ring: Ring, made: Any) -> Engine:
    return Engine(EngineInfo(made.path, made.facts, backend_of(made)), ring)


class Delivered:
    """Where results go: copies, by the number of the tile."""

    def __init__(self) -> None:
        self.results: dict[int, NDArray[Any] | Exception] = {}

    def to(self, number: int) -> Callable[[Any], None]:
        def deliver(found: NDArray[Any] | Exception) -> None:
            assert number not in self.results, "delivered twice"
            self.results[number] = found if isinstance(found, Exception) else found.copy()

        return deliver

    def are(self, tiles: list[NDArray[Any]]) -> bool:
        return all(
            np.array_equal(np.asarray(self.results[number]), enlarged(tile))
            for number, tile in enumerate(tiles)
        )


# Right pixels


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("library", ["cuda-python", "PyCUDA"])
def test_every_tile_comes_back_as_it_should(opened: Opened, library: str, seed: int) -> None:
    ring, made = opened(library=library, seed=seed)
    tiles = [noise(*SIDES, number) for number in range(61)]
    delivered = Delivered()
    for number, tile in enumerate(tiles):
        ring.submit(tile, delivered.to(number))
    assert len(delivered.results) < 61  # some are on their way
    ring.flush()
    assert delivered.are(tiles)
    assert list(delivered.results) == list(range(61))
    assert made.gpu.launched > 0
    ring.close()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("io", ["uint8", "float32"])
def test_tiles_of_all_sizes_in_between(opened: Opened, io: str, seed: int) -> None:
    ring, _ = opened(seed=seed, io=io)
    random = np.random.default_rng(seed)
    tiles = []
    for number in range(80):
        sides = SIDES if random.random() < 0.5 else random.integers([4, 4], [17, 25])
        tiles.append(noise(*(int(side) for side in sides), number, io))
    delivered = Delivered()
    for number, tile in enumerate(tiles):
        ring.submit(tile, delivered.to(number))
        if random.random() < 0.05:
            ring.flush()
    ring.flush()
    assert delivered.are(tiles)


@pytest.mark.parametrize("io", ["uint8", "float32"])
def test_as_a_session(opened: Opened, io: str) -> None:
    ring, _ = opened(io=io)
    batch = np.stack([noise(*SIDES, number, io) for number in range(9)])
    out = ring.run(batch)
    assert out.flags.c_contiguous
    assert np.array_equal(out, batch.repeat(4, 1).repeat(4, 2))
    with pytest.raises(RuntimeError, match="24x16"):
        ring.run(np.zeros((1, 40, 40, 3), batch.dtype))


def test_padding_smaller_tiles_than_the_engine_takes(opened: Opened) -> None:
    ring, _ = opened(profiles=[((2, 16, 24), (2, 16, 24), (2, 16, 24))])
    tiles = [noise(3, 2), noise(16, 5, 1), noise(*SIDES, 2)]
    delivered = Delivered()
    for number, tile in enumerate(tiles):
        ring.submit(tile, delivered.to(number))
    ring.flush()
    assert delivered.are(tiles)
    (note,) = ring.notes
    assert "2x3" in note
    assert "mirror image to 24x16" in note or "24x16" in note


def test_several_profiles(opened: Opened) -> None:
    profiles = [((1, 4, 4), (4, 16, 24), (4, 16, 24)), ((2, 4, 32), (3, 8, 40), (6, 8, 40))]
    ring, made = opened(profiles=profiles)
    assert ring.tile == SIDES
    ring.use_tile(8)
    assert (ring.layout.batch, ring.tile) == (4, (8, 8))
    engine = engine_of(ring, made)
    image = noise(50, 60)
    assert np.array_equal(upscale_tiled(image, engine), enlarged(image))


# Overlap


def test_uploads_run_ahead_of_the_computation(opened: Opened) -> None:
    """Nobody waits for a lane but to use it again: three batches are queued before anything has
    to be done."""
    ring, made = opened()
    delivered = Delivered()
    for number in range(12):
        ring.submit(noise(*SIDES, number), delivered.to(number))
    assert ring.layout.lanes == 3
    assert delivered.results == {}
    assert sum(bool(stream.work) for stream in made.gpu.streams.values()) == 3
    ring.flush()


def test_tiles_of_different_images_share_a_batch(opened: Opened) -> None:
    ring, made = opened()
    engine = engine_of(ring, made)
    images = [noise(16, 24, number) for number in range(8)]
    canvases = [Canvas(image, engine) for image in images]
    assert [canvas.is_done for canvas in canvases] == [False] * 8
    engine.flush()
    assert [np.array_equal(c.result(), enlarged(i)) for c, i in zip(canvases, images, strict=True)]
    assert made.gpu.log.count("upload") == 2


def test_the_main_shape_becomes_a_graph_for_each_lane(opened: Opened) -> None:
    ring, made = opened("10.13")
    for number in range(40):
        ring.submit(noise(*SIDES, number), lambda found: None)
    ring.flush()
    assert len(made.gpu.graphs) == 3
    assert made.gpu.launched == 10 - 3  # all but the first of each lane
    ring.submit(noise(9, 9), lambda found: None)
    ring.flush()
    assert made.gpu.launched == 7
    ring.close()
    assert made.gpu.graphs == {}


def test_a_network_that_cannot_be_captured_runs_without(opened: Opened) -> None:
    ring, made = opened()
    made.gpu.captures = False
    tiles = [noise(*SIDES, number) for number in range(30)]
    delivered = Delivered()
    for number, tile in enumerate(tiles):
        ring.submit(tile, delivered.to(number))
    ring.flush()
    assert delivered.are(tiles)
    assert made.gpu.launched == 0


def test_time_of_the_gpu(opened: Opened) -> None:
    """Lanes that compute at the same time are counted once."""
    ring, made = opened(seed=5)
    start = made.gpu.clock
    for number in range(40):
        ring.submit(noise(*SIDES, number), lambda found: None)
    ring.flush()
    passed = made.gpu.clock - start
    assert 0.8 * passed < ring.busy <= passed * 1.0001


# Memory


def bytes_of(batch: int, height: int, width: int) -> int:
    """Of a lane of the fake plan: pixels, 16 times as many, and scratch memory."""
    return batch * height * width * (3 * 17 + 4)


@pytest.mark.parametrize(
    ("lanes", "expected"),
    [
        (3.4, "4 tiles of 24x16 at a time in 3 lanes"),
        (2.4, "4 tiles of 24x16 at a time in 2 lanes"),
        (1.7, "2 tiles of 24x16 at a time in 3 lanes"),
        (1.2, "2 tiles of 24x16 at a time in 2 lanes"),
        (0.6, "1 tile of 24x16 at a time in 2 lanes"),
        (0.3, "1 tile of 24x16 at a time in 1 lane"),
        (0.08, "1 tile of 12x8 at a time in 1 lane"),
    ],
)
def test_free_memory_decides_how_much_at_a_time(
    opened: Opened, lanes: float, expected: str
) -> None:
    ring, made = opened("10.13", capacity=round(lanes * bytes_of(4, *SIDES)))
    assert str(ring.layout) == expected
    image = noise(40, 60)
    assert np.array_equal(upscale_tiled(image, engine_of(ring, made)), enlarged(image))
    assert ring.notes == []
    ring.close()
    assert made.gpu.used == 0
    assert made.gpu.host == {}


def test_no_memory_at_all(make_plan: Any, complains: Any) -> None:
    made = make_plan(capacity=300)
    with complains(EngineError, made.path.name, "0.0 GiB", "--shapes"):
        backend_of(made).open(made.path, made.facts)
    assert made.gpu.used == 0
    assert made.gpu.host == {}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("generation", "library"), [("8.6", "cuda-python"), ("11", "PyCUDA"), ("rtx", "cuda-python")]
)
@pytest.mark.parametrize(
    ("pixels", "expected"),
    [(800, (2, 16, 24)), (700, (1, 16, 24)), (200, (1, 8, 12)), (60, (1, 6, 6))],
)
def test_running_out_of_memory_halves_the_batch_and_then_the_tile(
    opened: Opened, generation: str, library: str, seed: int, pixels: int, expected: Any
) -> None:
    """TensorRT wants more memory than it said, while it runs: the same images go on."""
    ring, made = opened(generation, library=library, seed=seed, hidden=1)
    engine = engine_of(ring, made)
    images = [noise(20 + number, 44 - number, number) for number in range(3)]
    canvases = [Canvas(images[0], engine)]
    made.gpu.spare = pixels
    canvases += [Canvas(image, engine) for image in images[1:]]
    engine.flush()
    for canvas, image in zip(canvases, images, strict=True):
        assert np.array_equal(canvas.result(), enlarged(image))
    assert ring.layout.shape == expected
    notes = engine.notes()
    assert "4 tiles of 24x16" in notes[0]
    assert "2 tiles of 24x16" in notes[0]
    assert engine.notes() == []
    image = noise(17, 25)
    assert np.array_equal(upscale_tiled(image, engine), enlarged(image))


def test_not_even_the_smallest_tile(opened: Opened) -> None:
    ring, made = opened(hidden=1 << 61)
    engine = engine_of(ring, made)
    with pytest.raises(RuntimeError, match="too little free memory"):
        upscale_tiled(noise(30, 40), engine)
    assert ring.layout.lanes == 1
    with pytest.raises(RuntimeError, match="too little free memory"):
        upscale_tiled(noise(30, 40), engine)


def test_tiles_are_not_halved_below_the_halo(opened: Opened) -> None:
    ring, made = opened(hidden=1 << 61, halo=4)
    with pytest.raises(RuntimeError):
        upscale_tiled(noise(30, 40), engine_of(ring, made))
    assert ring.tile == (12, 12)


def test_somebody_else_takes_the_memory(opened: Opened) -> None:
    """The ring gives its lanes back to build smaller ones, and then there is even less."""
    ring, made = opened(hidden=1)
    delivered = Delivered()
    ring.submit(noise(*SIDES), delivered.to(0))
    made.gpu.spare, made.gpu.stingy = 0, True
    ring.flush()
    assert isinstance(delivered.results[0], EngineError)
    ring.submit(noise(*SIDES), delivered.to(1))
    assert isinstance(delivered.results[1], EngineError)
    assert made.gpu.used == 0


# What goes wrong otherwise


def test_tiles_that_are_too_large_are_sent_back(opened: Opened) -> None:
    ring, _ = opened()
    delivered = Delivered()
    ring.submit(noise(17, 24), delivered.to(0))
    ring.submit(noise(16, 25), delivered.to(1))
    assert [type(found) for found in delivered.results.values()] == [TooLarge] * 2


def test_a_canvas_cuts_them_up(opened: Opened) -> None:
    ring, made = opened()
    image = noise(100, 75)
    for tile in (20, 40, 200):
        found = upscale_tiled(image, engine_of(ring, made), Tiling(tile))
        assert np.array_equal(found, enlarged(image))


def test_an_engine_that_fails(opened: Opened) -> None:
    ring, made = opened(broken="Error Code 2: Internal Error (Assertion failed)")
    delivered = Delivered()
    for number in range(9):
        ring.submit(noise(*SIDES), delivered.to(number))
    ring.flush()
    assert len(delivered.results) == 9
    assert all("Assertion failed" in str(found) for found in delivered.results.values())
    assert ring.layout.batch == 4  # which is no question of memory
    with pytest.raises(RuntimeError, match="Assertion failed"):
        upscale_tiled(noise(99, 99), engine_of(ring, made))


def test_a_gpu_that_falls_over_on_the_way(opened: Opened) -> None:
    ring, made = opened()
    delivered = Delivered()
    for number in range(9):
        ring.submit(noise(*SIDES), delivered.to(number))
    made.gpu.pending_error = 719
    ring.flush()
    assert [("719" in str(found)) for found in delivered.results.values()] == [True] * 9
    ring.close()  # without a word


def test_sides_that_it_was_not_built_for(opened: Opened, complains: Any) -> None:
    ring, _ = opened()
    with complains(UsageError, "--tile 33", "4 to 32"):
        ring.use_tile(33)
    assert ring.tile == SIDES
    ring.use_tile(32)
    assert (ring.layout.batch, ring.tile) == (1, (32, 32))
    tiles = [noise(32, 32, number) for number in range(5)]
    assert np.array_equal(ring.run(np.stack(tiles)), np.stack([enlarged(tile) for tile in tiles]))


def test_closed(opened: Opened, complains: Any) -> None:
    ring, made = opened()
    delivered = Delivered()
    for number in range(9):
        ring.submit(noise(*SIDES), delivered.to(number))
    ring.close()
    assert (made.gpu.used, made.gpu.host, made.gpu.events) == (0, {}, {})
    ring.submit(noise(*SIDES), delivered.to(9))
    assert isinstance(delivered.results[9], EngineError)


def test_an_interrupt_leaves_nothing_that_the_gpu_still_writes_to(opened: Opened) -> None:
    ring, made = opened()

    def interrupt(found: Any) -> None:
        raise KeyboardInterrupt

    batch = [noise(*SIDES, number) for number in range(40)]
    with pytest.raises(KeyboardInterrupt):
        [ring.submit(tile, interrupt) for tile in batch]
    ring.close()
    assert not any(stream.work for stream in made.gpu.streams.values())
    assert made.gpu.contexts == []
