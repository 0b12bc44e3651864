"""The scheduler on a GPU that works late and in random order: every pixel must come out right."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from srtool.errors import EngineError, UsageError
from srtool.runtime.backends.tensorrt import TensorRt
from srtool.runtime.engine import Engine, EngineInfo
from srtool.runtime.gpu.scheduler import Scheduler, TooLarge
from srtool.runtime.tiling import Canvas, Tiling, upscale_tiled

Opened = Callable[..., tuple[Scheduler, Any]]
# One main shape of 4 tiles of 24x16, other sizes from 4x4 to 32x32.
SIDES = (16, 24)


def noise(height: int, width: int, seed: int = 0, dtype: Any = np.uint8) -> NDArray[Any]:
    values = np.random.default_rng([seed, height, width]).integers(0, 256, (height, width, 3))
    return (values / 255).astype(np.float32) if dtype == np.float32 else values.astype(dtype)


def enlarged(image: NDArray[Any]) -> NDArray[Any]:
    return image.repeat(4, 0).repeat(4, 1)


@pytest.fixture
def opened(make_plan: Any) -> Opened:
    """A scheduler on a fake plan, and what `make_plan` gives."""

    def open_ring(generation: str = "11", **wanted: Any) -> tuple[Scheduler, Any]:
        made = make_plan(generation, **wanted)
        return backend_of(made).open(made.path, made.facts), made

    return open_ring


def backend_of(made: Any) -> TensorRt:
    return TensorRt(made.flavour, made.facts.precision)


def engine_of(scheduler: Scheduler, made: Any) -> Engine:
    return Engine(EngineInfo(made.path, made.facts, backend_of(made)), scheduler)


class Delivered:
    """Where results go: copies, by the number of the tile."""

    def __init__(self) -> None:
        self.results: dict[int, NDArray[Any] | Exception] = {}

    def to(self, number: int) -> Callable[[Any], None]:
        def callback(found: NDArray[Any] | Exception) -> None:
            assert number not in self.results, "delivered twice"
            self.results[number] = found if isinstance(found, Exception) else found.copy()

        return callback

    def are(self, tiles: list[NDArray[Any]]) -> bool:
        return all(
            np.array_equal(np.asarray(self.results[number]), enlarged(tile))
            for number, tile in enumerate(tiles)
        )


# Right pixels


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("library", ["cuda-python", "PyCUDA"])
def test_every_tile_comes_back_as_it_should(opened: Opened, library: str, seed: int) -> None:
    scheduler, made = opened(library=library, seed=seed)
    tiles = [noise(*SIDES, number) for number in range(61)]
    delivered = Delivered()
    for number, tile in enumerate(tiles):
        scheduler.submit(tile, delivered.to(number))
    assert len(delivered.results) < 61  # some are on their way
    scheduler.flush()
    assert delivered.are(tiles)
    assert list(delivered.results) == list(range(61))
    assert made.gpu.launched > 0
    scheduler.close()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("io", ["uint8", "float32"])
def test_tiles_of_all_sizes_in_between(opened: Opened, io: str, seed: int) -> None:
    scheduler, _ = opened(seed=seed, io=io)
    random = np.random.default_rng(seed)
    tiles = []
    for number in range(80):
        sides = SIDES if random.random() < 0.5 else random.integers([4, 4], [17, 25])
        tiles.append(noise(*(int(side) for side in sides), number, io))
    delivered = Delivered()
    for number, tile in enumerate(tiles):
        scheduler.submit(tile, delivered.to(number))
        if random.random() < 0.05:
            scheduler.flush()
    scheduler.flush()
    assert delivered.are(tiles)


@pytest.mark.parametrize("io", ["uint8", "float32"])
def test_as_a_session(opened: Opened, io: str) -> None:
    scheduler, _ = opened(io=io)
    batch = np.stack([noise(*SIDES, number, io) for number in range(9)])
    out = scheduler.run(batch)
    assert out.flags.c_contiguous
    assert np.array_equal(out, batch.repeat(4, 1).repeat(4, 2))
    with pytest.raises(RuntimeError, match="24x16"):
        scheduler.run(np.zeros((1, 40, 40, 3), batch.dtype))


def test_padding_smaller_tiles_than_the_engine_takes(opened: Opened) -> None:
    scheduler, _ = opened(profiles=[((2, 16, 24), (2, 16, 24), (2, 16, 24))])
    tiles = [noise(3, 2), noise(16, 5, 1), noise(*SIDES, 2)]
    delivered = Delivered()
    for number, tile in enumerate(tiles):
        scheduler.submit(tile, delivered.to(number))
    scheduler.flush()
    assert delivered.are(tiles)
    (note,) = scheduler.notes
    assert "2x3" in note
    assert "mirror image to 24x16" in note or "24x16" in note


def test_several_profiles(opened: Opened) -> None:
    profiles = [((1, 4, 4), (4, 16, 24), (4, 16, 24)), ((2, 4, 32), (3, 8, 40), (6, 8, 40))]
    scheduler, made = opened(profiles=profiles)
    assert scheduler.tile == SIDES
    scheduler.use_tile(8)
    assert (scheduler.layout.batch, scheduler.tile) == (4, (8, 8))
    engine = engine_of(scheduler, made)
    image = noise(50, 60)
    assert np.array_equal(upscale_tiled(image, engine), enlarged(image))


# Overlap


def test_uploads_run_ahead_of_the_computation(opened: Opened) -> None:
    """Nobody waits for a slot but to use it again: three batches are queued before anything has
    to be done."""
    scheduler, made = opened()
    delivered = Delivered()
    for number in range(12):
        scheduler.submit(noise(*SIDES, number), delivered.to(number))
    assert scheduler.layout.slots == 3
    assert delivered.results == {}
    assert sum(bool(stream.work) for stream in made.gpu.streams.values()) == 3
    scheduler.flush()


def test_tiles_of_different_images_share_a_batch(opened: Opened) -> None:
    scheduler, made = opened()
    engine = engine_of(scheduler, made)
    images = [noise(16, 24, number) for number in range(8)]
    canvases = [Canvas(image, engine) for image in images]
    assert [canvas.is_done for canvas in canvases] == [False] * 8
    engine.flush()
    assert [np.array_equal(c.result(), enlarged(i)) for c, i in zip(canvases, images, strict=True)]
    assert made.gpu.log.count("upload") == 2


def test_the_main_shape_becomes_a_graph_for_each_lane(opened: Opened) -> None:
    scheduler, made = opened("10.13")
    for number in range(40):
        scheduler.submit(noise(*SIDES, number), lambda found: None)
    scheduler.flush()
    assert len(made.gpu.graphs) == 3
    assert made.gpu.launched == 10 - 3  # all but the first of each slot
    scheduler.submit(noise(9, 9), lambda found: None)
    scheduler.flush()
    assert made.gpu.launched == 7
    scheduler.close()
    assert made.gpu.graphs == {}


def test_a_network_that_cannot_be_captured_runs_without(opened: Opened) -> None:
    scheduler, made = opened()
    made.gpu.captures = False
    tiles = [noise(*SIDES, number) for number in range(30)]
    delivered = Delivered()
    for number, tile in enumerate(tiles):
        scheduler.submit(tile, delivered.to(number))
    scheduler.flush()
    assert delivered.are(tiles)
    assert made.gpu.launched == 0


def test_several_threads_at_once(opened: Opened) -> None:
    """Whoever flushes may give back the tiles of others; after its own flush nobody waits."""
    scheduler, made = opened(seed=5, profiles=TWO)
    engine = engine_of(scheduler, made)
    wrong: list[int] = []

    def work(number: int) -> None:
        for round_ in range(8):
            image = noise(20 + 7 * number, 50 - 3 * round_, number)
            if not np.array_equal(upscale_tiled(image, engine), enlarged(image)):
                wrong.append(number)
        wrong.extend(number for tile in [noise(*SIDES, number)] if not same(scheduler, tile))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert wrong == []
    scheduler.close()
    assert made.gpu.used == 0


def same(scheduler: Scheduler, tile: NDArray[Any]) -> bool:
    return np.array_equal(scheduler.run(tile[None])[0], enlarged(tile))


# One shape alone, and what is left.
TWO = [((4, 16, 24), (4, 16, 24), (4, 16, 24)), ((1, 4, 4), (1, 16, 24), (4, 32, 32))]


def test_a_part_of_a_batch_is_not_computed_whole(opened: Opened) -> None:
    scheduler, made = opened(profiles=TWO)
    assert scheduler.layout.shape == (4, *SIDES)
    pixels = []
    for count in (1, 2, 3, 4):
        before = made.tensorrt.pixels
        tiles = np.stack([noise(*SIDES, number) for number in range(count)])
        found = scheduler.run(tiles)
        assert np.array_equal(found, np.stack([enlarged(tile) for tile in tiles]))
        pixels.append((made.tensorrt.pixels - before) // (16 * 24))
    assert pixels == [1, 2, 3, 4]


def test_one_profile_computes_the_whole_batch(opened: Opened) -> None:
    """Another kernel of the same profile would save nothing."""
    scheduler, made = opened()
    scheduler.run(noise(*SIDES)[None])
    assert made.tensorrt.pixels == 4 * 16 * 24


def test_a_profile_of_one_shape_is_left_for_want_of_memory(opened: Opened) -> None:
    whole, made = opened(profiles=TWO, scratch=1000)
    need = made.gpu.used // whole.layout.slots
    scheduler, made = opened(profiles=TWO, scratch=1000, capacity=int(1.3 * need))
    assert scheduler.layout.batch == 2
    image = noise(50, 90)
    assert np.array_equal(upscale_tiled(image, engine_of(scheduler, made)), enlarged(image))


def test_time_of_the_gpu(opened: Opened) -> None:
    """Slots that compute at the same time are counted once."""
    scheduler, made = opened(seed=5)
    start = made.gpu.clock
    for number in range(40):
        scheduler.submit(noise(*SIDES, number), lambda found: None)
    scheduler.flush()
    passed = made.gpu.clock - start
    assert 0.8 * passed < scheduler.busy <= passed * 1.0001


# Memory


def bytes_of(batch: int, height: int, width: int) -> int:
    """Of a slot of the fake plan: pixels, 16 times as many, and scratch memory."""
    return batch * height * width * (3 * 17 + 4)


@pytest.mark.parametrize(
    ("slots", "expected"),
    [
        (3.4, "4 tiles of 24x16 at a time in 3 slots"),
        (2.4, "4 tiles of 24x16 at a time in 2 slots"),
        (1.7, "2 tiles of 24x16 at a time in 3 slots"),
        (1.2, "2 tiles of 24x16 at a time in 2 slots"),
        (0.6, "1 tile of 24x16 at a time in 2 slots"),
        (0.3, "1 tile of 24x16 at a time in 1 slot"),
        (0.08, "1 tile of 12x8 at a time in 1 slot"),
    ],
)
def test_free_memory_decides_how_much_at_a_time(
    opened: Opened, slots: float, expected: str
) -> None:
    scheduler, made = opened("10.13", capacity=round(slots * bytes_of(4, *SIDES)))
    assert str(scheduler.layout) == expected
    image = noise(40, 60)
    assert np.array_equal(upscale_tiled(image, engine_of(scheduler, made)), enlarged(image))
    assert scheduler.notes == []
    scheduler.close()
    assert made.gpu.used == 0
    assert made.gpu.host == {}


def test_no_memory_at_all(make_plan: Any, complains: Any) -> None:
    made = make_plan(capacity=300)
    with complains(EngineError, made.path.name, "0.0 GiB", "smaller shapes"):
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
    scheduler, made = opened(generation, library=library, seed=seed, hidden=1)
    engine = engine_of(scheduler, made)
    images = [noise(20 + number, 44 - number, number) for number in range(3)]
    canvases = [Canvas(images[0], engine)]
    made.gpu.spare = pixels
    canvases += [Canvas(image, engine) for image in images[1:]]
    engine.flush()
    for canvas, image in zip(canvases, images, strict=True):
        assert np.array_equal(canvas.result(), enlarged(image))
    assert scheduler.layout.shape == expected
    notes = engine.notes()
    assert "4 tiles of 24x16" in notes[0]
    assert "2 tiles of 24x16" in notes[0]
    assert engine.notes() == []
    image = noise(17, 25)
    assert np.array_equal(upscale_tiled(image, engine), enlarged(image))


def test_not_even_the_smallest_tile(opened: Opened) -> None:
    scheduler, made = opened(hidden=1 << 61)
    engine = engine_of(scheduler, made)
    with pytest.raises(RuntimeError, match="too little free memory"):
        upscale_tiled(noise(30, 40), engine)
    assert scheduler.layout.slots == 1
    with pytest.raises(RuntimeError, match="too little free memory"):
        upscale_tiled(noise(30, 40), engine)


def test_tiles_are_not_halved_below_the_halo(opened: Opened) -> None:
    scheduler, made = opened(hidden=1 << 61, halo=4)
    with pytest.raises(RuntimeError):
        upscale_tiled(noise(30, 40), engine_of(scheduler, made))
    assert scheduler.tile == (12, 12)


def test_somebody_else_takes_the_memory(opened: Opened) -> None:
    """The scheduler gives its slots back to build smaller ones, and then there is even less."""
    scheduler, made = opened(hidden=1)
    delivered = Delivered()
    scheduler.submit(noise(*SIDES), delivered.to(0))
    made.gpu.spare, made.gpu.stingy = 0, True
    scheduler.flush()
    assert isinstance(delivered.results[0], EngineError)
    scheduler.submit(noise(*SIDES), delivered.to(1))
    assert isinstance(delivered.results[1], EngineError)
    assert made.gpu.used == 0


# What goes wrong otherwise


def test_tiles_that_are_too_large_are_sent_back(opened: Opened) -> None:
    scheduler, _ = opened()
    delivered = Delivered()
    scheduler.submit(noise(17, 24), delivered.to(0))
    scheduler.submit(noise(16, 25), delivered.to(1))
    assert [type(found) for found in delivered.results.values()] == [TooLarge] * 2


def test_a_canvas_cuts_them_up(opened: Opened) -> None:
    scheduler, made = opened()
    image = noise(100, 75)
    for tile in (20, 40, 200):
        found = upscale_tiled(image, engine_of(scheduler, made), Tiling(tile))
        assert np.array_equal(found, enlarged(image))


def test_an_engine_that_fails(opened: Opened) -> None:
    scheduler, made = opened(broken="Error Code 2: Internal Error (Assertion failed)")
    delivered = Delivered()
    for number in range(9):
        scheduler.submit(noise(*SIDES), delivered.to(number))
    scheduler.flush()
    assert len(delivered.results) == 9
    assert all("Assertion failed" in str(found) for found in delivered.results.values())
    assert scheduler.layout.batch == 4  # which is no question of memory
    with pytest.raises(RuntimeError, match="Assertion failed"):
        upscale_tiled(noise(99, 99), engine_of(scheduler, made))


def test_a_gpu_that_falls_over_on_the_way(opened: Opened) -> None:
    scheduler, made = opened()
    delivered = Delivered()
    for number in range(9):
        scheduler.submit(noise(*SIDES), delivered.to(number))
    made.gpu.pending_error = 719
    scheduler.flush()
    assert [("719" in str(found)) for found in delivered.results.values()] == [True] * 9
    scheduler.close()  # without a word


def test_sides_that_it_was_not_built_for(opened: Opened, complains: Any) -> None:
    scheduler, _ = opened()
    with complains(UsageError, "33", "--tile", "4 to 32"):
        scheduler.use_tile(33)
    assert scheduler.tile == SIDES
    scheduler.use_tile(32)
    assert (scheduler.layout.batch, scheduler.tile) == (1, (32, 32))
    tiles = [noise(32, 32, number) for number in range(5)]
    assert np.array_equal(
        scheduler.run(np.stack(tiles)), np.stack([enlarged(tile) for tile in tiles])
    )


def test_closed(opened: Opened, complains: Any) -> None:
    scheduler, made = opened()
    delivered = Delivered()
    for number in range(9):
        scheduler.submit(noise(*SIDES), delivered.to(number))
    scheduler.close()
    assert (made.gpu.used, made.gpu.host, made.gpu.events) == (0, {}, {})
    scheduler.submit(noise(*SIDES), delivered.to(9))
    assert isinstance(delivered.results[9], EngineError)


def test_an_interrupt_leaves_nothing_that_the_gpu_still_writes_to(opened: Opened) -> None:
    scheduler, made = opened()

    def interrupt(found: Any) -> None:
        raise KeyboardInterrupt

    batch = [noise(*SIDES, number) for number in range(40)]
    with pytest.raises(KeyboardInterrupt):
        [scheduler.submit(tile, interrupt) for tile in batch]
    scheduler.close()
    assert not any(stream.work for stream in made.gpu.streams.values())
    assert made.gpu.contexts == []
