"""The scheduler: tiles of many images go through a GPU in batches, and nobody waits for anybody.

While one slot computes, the next one's batch is on the GPU already, and the CPU empties and fills
a third. A batch holds tiles of one shape, of as many images as it takes. Where the GPU runs out of
memory the batch is halved, then the tile, and the same tiles go on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srtool.errors import EngineError, UsageError
from srtool.manifest import Shape
from srtool.runtime.gpu.cuda import Cuda, CudaError, OutOfMemory
from srtool.runtime.gpu.layout import Layout, fitting, layouts_from_profiles, shape_in
from srtool.runtime.gpu.slots import Network, Slot
from srtool.runtime.session import Callback, TooLarge

Tile = tuple[NDArray[Any], Callback]


class Scheduler:
    """A session that takes tiles and gives them back later, to several threads at once: one of them
    works at a time, and may call back for tiles of the others.

    layout: how it uses the GPU. busy: seconds in which the GPU computed. notes: what the user
    should know, for the caller to show and clear.
    """

    layout: Layout
    is_deferred = True

    def __init__(self, cuda: Cuda, network: Network) -> None:
        """EngineError where the GPU has too little memory for any shape of the network."""
        self.busy = 0.0
        self.notes: list[str] = []
        self._lock = RLock()
        self._cuda, self._network, self._facts = cuda, network, network.facts
        self._waiting: dict[Shape, list[Tile]] = {}
        self._idle: deque[Slot] = deque()
        self._flying: deque[tuple[Slot, list[Tile]]] = deque()
        self._broken: EngineError | None = None
        self._padded = False
        self._counted = 0.0  # seconds after the epoch, up to which `busy` is known
        with cuda.current():
            self._epoch, stream = cuda.event(), cuda.stream()
            cuda.record(self._epoch, stream)
            cuda.synchronize(self._epoch)
            cuda.destroy(stream=stream)
            self._fit(layouts_from_profiles(network.profiles, network.facts))

    @property
    def tile(self) -> tuple[int, int]:
        """Height and width of the tiles that it is fastest with, and the most that it takes."""
        return self.layout.height, self.layout.width

    def use_tile(self, side: int) -> None:
        """Take square tiles of that side. UsageError where the network does not."""
        if self.tile == (side, side):
            return
        choices = layouts_from_profiles(self._network.profiles, self._facts, side)
        if not choices:
            ranges = " or ".join(
                f"{max(profile.min[1:])} to {min(profile.max[1:])}"
                for profile in self._network.profiles
            )
            raise UsageError(
                f"tiles of {side} pixels: the engine was built for {ranges}",
                parameter="tile",
                found=str(side),
                expected=ranges,
            )
        with self._lock:
            self.flush()
            with self._cuda.current():
                self._fit(choices)

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Upscale a batch and wait for it; see `Session`. RuntimeError for tiles larger than
        `tile`."""
        made: list[NDArray[Any]] = []
        failed: list[Exception] = []

        def callback(found: NDArray[Any] | Exception) -> None:
            if isinstance(found, Exception):
                failed.append(found)
            else:
                made.append(found.copy())

        for tile in batch:  # all of one shape, so that they come in order
            self.submit(tile, callback)
        self.flush()
        for error in failed:
            raise RuntimeError(str(error)) if isinstance(error, TooLarge) else error
        return np.stack(made)

    def prepare(self, shape: tuple[int, ...], times: int) -> None:
        """Every tile is made to fit the shapes that there are."""

    def submit(self, tile: NDArray[Any], callback: Callback) -> None:
        """Take a tile, (H, W, 3) of the file's dtype, and call back later, at `flush` the latest.

        The tile must not change until then. One that is larger than `tile` is not done: TooLarge
        is delivered.
        """
        with self._lock:
            self._take(tile, callback)

    def _take(self, tile: NDArray[Any], callback: Callback) -> None:
        height, width = tile.shape[:2]
        if self._broken is not None:
            return callback(self._broken)
        if height > self.tile[0] or width > self.tile[1]:
            return callback(TooLarge(f"tiles of at most {self.tile[1]}x{self.tile[0]} pixels fit"))
        shape = self._shape_for(height, width)
        group = self._waiting.setdefault(shape, [])
        group.append((tile, callback))
        if len(group) >= shape[0]:
            self._launch(shape)
        elif sum(map(len, self._waiting.values())) > 2 * self.layout.batch:
            self._launch(next(iter(self._waiting)))  # images of odd sizes would pile up
        return None

    def flush(self) -> None:
        """Call back for everything that was submitted, by whichever thread."""
        with self._lock:
            while self._waiting or self._flying:
                if self._waiting:
                    self._launch(next(iter(self._waiting)))
                else:
                    self._land()

    def close(self) -> None:
        """Wait for the GPU and give everything back. What was not called back never will be."""
        with self._lock:
            self._broken = EngineError("the engine is closed")
            self._waiting.clear()
            with suppress(CudaError), self._cuda.current():
                self._clear()
                self._cuda.destroy(event=self._epoch)
            self._network.close()

    def _shape_for(self, height: int, width: int) -> Shape:
        """Which batches a tile goes into: as many and as large tiles as the slots hold."""
        if (height, width) == self.tile:
            return self.layout.shape
        pixels = self.layout.batch * self.layout.height * self.layout.width
        shapes = []
        for profile in self._network.profiles:
            shape = shape_in(profile, height, width)
            if shape and shape[1] <= self.tile[0] and shape[2] <= self.tile[1]:
                most = min(profile.max[0], pixels // (shape[1] * shape[2]))
                if most >= profile.min[0]:
                    shapes.append((most, *shape[1:]))
        best = min(shapes, key=lambda shape: (shape[1] * shape[2], -shape[0]))
        if best[1:] != (height, width) and not self._padded:
            self._padded = True
            self.notes.append(
                f"the engine takes no tiles of {width}x{height} pixels: what is missing to "
                f"{best[2]}x{best[1]} is filled with the image's mirror image"
            )
        return best

    def _launch(self, shape: Shape) -> None:
        """Start a batch of what waits for one of this shape."""
        with self._cuda.current():
            while self._flying and (not self._idle or self._flying[0][0].is_over()):
                self._land()
            tiles = self._waiting.pop(shape, [])
            if not tiles:  # landing rearranged the scheduler
                return
            shape = self._shape_of(shape, len(tiles))
            slot = self._idle.popleft()
            failed = _error_of(lambda: slot.start(shape, [tile for tile, _ in tiles]))
            if failed is None:
                self._flying.append((slot, tiles))
            else:
                self._idle.append(slot)
                self._fail(tiles, failed)

    def _shape_of(self, shape: Shape, tiles: int) -> Shape:
        """For so many tiles, of those that would make a batch of a shape. Part of the main shape
        is worth another kernel only where one was tuned for fewer tiles."""
        taking = [
            (profile, taken)
            for profile in self._network.profiles
            if (taken := shape_in(profile, *shape[1:])) and taken[1:] == shape[1:]
        ]
        if shape == self.layout.shape:
            taking = [item for item in taking if item[0].opt[0] < shape[0]]
        fitting = [max(taken[0], tiles) for profile, taken in taking if tiles <= profile.max[0]]
        return min([shape[0], *fitting]), shape[1], shape[2]

    def _land(self) -> None:
        """Wait for the oldest batch and give its tiles back."""
        with self._cuda.current():
            slot, tiles = self._flying.popleft()
            failed = _error_of(slot.wait)
            if failed is not None:
                self._idle.append(slot)
                self._fail(tiles, failed)
                return
            start, end = (self._cuda.seconds(self._epoch, x) for x in (slot.started, slot.computed))
            self.busy += max(0.0, end - max(start, self._counted))
            self._counted = max(self._counted, end)
            for result, (tile, callback) in zip(slot.results(), tiles, strict=False):
                height, width = (side * self._facts.scale for side in tile.shape[:2])
                callback(result[:height, :width])
            self._idle.append(slot)  # not before: its buffers were being read

    def _fail(self, tiles: list[Tile], error: RuntimeError) -> None:
        """Go on after a batch that failed: for want of memory with less of it."""
        while isinstance(error, OutOfMemory) and self._flying:
            self._land()
        layout = self.layout.smaller() if isinstance(error, OutOfMemory) else None
        if layout is None:
            if isinstance(error, OutOfMemory):
                error = RuntimeError(f"the GPU has too little free memory for {self.layout}")
            for _, callback in tiles:
                callback(error)
            return
        self.notes.append(f"the GPU ran out of memory with {self.layout}; going on with {layout}")
        again = [*tiles, *(tile for group in self._waiting.values() for tile in group)]
        self._waiting.clear()
        try:
            self._build(layout)
        except EngineError as lost:
            self._broken = lost
        for tile, callback in again:
            self.submit(tile, callback)

    def _fit(self, choices: Sequence[Layout]) -> None:
        """Build slots of the first choice that fits into the memory that is free without them."""
        self._clear()
        free, network = self._cuda.free_memory(), self._network
        self._build(fitting(choices, self._facts, network.scratch, free, network.most_slots))

    def _build(self, layout: Layout) -> None:
        """Make the slots anew, smaller where even the free memory is too little."""
        while True:
            self._clear()
            self.layout = layout
            try:
                for _ in range(layout.slots):
                    self._idle.append(Slot(self._cuda, self._network, layout.shape))
                return
            except OutOfMemory:
                smaller = layout.smaller()
            if smaller is None:
                self._clear()
                free = self._cuda.free_memory() / 2**30
                raise EngineError(
                    f"the GPU has {free:.1f} GiB of free memory, too little for {layout}; end "
                    "other programs on it, or build the plan for smaller shapes"
                )
            layout = smaller

    def _clear(self) -> None:
        slots = [*self._idle, *(slot for slot, _ in self._flying)]
        self._idle.clear()
        self._flying.clear()
        for slot in slots:
            slot.close()


def _error_of(call: Callable[[], None]) -> RuntimeError | None:
    """What a call ends with, without its traceback: that would hold on to what is to be freed."""
    try:
        call()
    except RuntimeError as error:
        return error.with_traceback(None)
    return None
