"""The ring: tiles of many images go through a GPU in batches, and nobody waits for anybody.

While one lane computes, the next one's batch is on the GPU already, and the CPU empties and fills
a third. A batch holds tiles of one shape, of as many images as it takes. Where the GPU runs out of
memory the batch is halved, then the tile, and the same tiles go on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srtool.errors import EngineError, UsageError
from srtool.manifest import Shape
from srtool.runtime.gpu.cuda import Cuda, CudaError, OutOfMemory
from srtool.runtime.gpu.layout import Layout, fitting, layouts_from_profiles, shape_in
from srtool.runtime.gpu.slots import Lane, Network
from srtool.runtime.session import Callback, TooLarge

Tile = tuple[NDArray[Any], Callback]


class Ring:
    """A session that takes tiles and delivers them later. For one thread at a time.

    layout: how it uses the GPU. busy: seconds in which the GPU computed. notes: what the user
    should know, for the caller to show and clear.
    """

    layout: Layout
    is_deferred = True

    def __init__(self, cuda: Cuda, network: Network) -> None:
        """EngineError where the GPU has too little memory for any shape of the network."""
        self.busy = 0.0
        self.notes: list[str] = []
        self._cuda, self._network, self._facts = cuda, network, network.facts
        self._waiting: dict[Shape, list[Tile]] = {}
        self._idle: deque[Lane] = deque()
        self._flying: deque[tuple[Lane, list[Tile]]] = deque()
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
            raise UsageError(f"--tile {side}: the engine was built for tiles of {ranges} pixels")
        self.flush()
        with self._cuda.current():
            self._fit(choices)

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Upscale a batch and wait for it; see `Session`. RuntimeError for tiles larger than
        `tile`."""
        made: list[NDArray[Any]] = []
        failed: list[Exception] = []

        def deliver(found: NDArray[Any] | Exception) -> None:
            if isinstance(found, Exception):
                failed.append(found)
            else:
                made.append(found.copy())

        for tile in batch:  # all of one shape, so that they come in order
            self.submit(tile, deliver)
        self.flush()
        for error in failed:
            raise RuntimeError(str(error)) if isinstance(error, TooLarge) else error
        return np.stack(made)

    def prepare(self, shape: tuple[int, ...], times: int) -> None:
        """Every tile is made to fit the shapes that there are."""

    def submit(self, tile: NDArray[Any], deliver: Callback) -> None:
        """Take a tile, (H, W, 3) of the file's dtype, and deliver it later, at `flush` the latest.

        The tile must not change until then. One that is larger than `tile` is not done: TooLarge
        is delivered.
        """
        height, width = tile.shape[:2]
        if self._broken is not None:
            return deliver(self._broken)
        if height > self.tile[0] or width > self.tile[1]:
            return deliver(TooLarge(f"tiles of at most {self.tile[1]}x{self.tile[0]} pixels fit"))
        shape = self._shape_for(height, width)
        group = self._waiting.setdefault(shape, [])
        group.append((tile, deliver))
        if len(group) >= shape[0]:
            self._launch(shape)
        elif sum(map(len, self._waiting.values())) > 2 * self.layout.batch:
            self._launch(next(iter(self._waiting)))  # images of odd sizes would pile up
        return None

    def flush(self) -> None:
        """Deliver everything that was submitted."""
        while self._waiting or self._flying:
            if self._waiting:
                self._launch(next(iter(self._waiting)))
            else:
                self._land()

    def close(self) -> None:
        """Wait for the GPU and give everything back. What was not delivered never will be."""
        self._broken = EngineError("the engine is closed")
        self._waiting.clear()
        with suppress(CudaError), self._cuda.current():
            self._clear()
            self._cuda.destroy(event=self._epoch)
        self._network.close()

    def _shape_for(self, height: int, width: int) -> Shape:
        """Which batches a tile goes into: as many and as large tiles as the lanes hold."""
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
            if not tiles:  # landing rearranged the ring
                return
            if shape != self.layout.shape:  # a part of the main shape is not worth another kernel
                taking = (shape_in(profile, *shape[1:]) for profile in self._network.profiles)
                least = min(x[0] for x in taking if x and x[1:] == shape[1:])
                shape = max(least, len(tiles)), shape[1], shape[2]
            lane = self._idle.popleft()
            failed = _error_of(lambda: lane.start(shape, [tile for tile, _ in tiles]))
            if failed is None:
                self._flying.append((lane, tiles))
            else:
                self._idle.append(lane)
                self._fail(tiles, failed)

    def _land(self) -> None:
        """Wait for the oldest batch and deliver its tiles."""
        with self._cuda.current():
            lane, tiles = self._flying.popleft()
            failed = _error_of(lane.wait)
            if failed is not None:
                self._idle.append(lane)
                self._fail(tiles, failed)
                return
            start, end = (self._cuda.seconds(self._epoch, x) for x in (lane.started, lane.computed))
            self.busy += max(0.0, end - max(start, self._counted))
            self._counted = max(self._counted, end)
            for result, (tile, deliver) in zip(lane.results(), tiles, strict=False):
                height, width = (side * self._facts.scale for side in tile.shape[:2])
                deliver(result[:height, :width])
            self._idle.append(lane)  # not before: its buffers were being read

    def _fail(self, tiles: list[Tile], error: RuntimeError) -> None:
        """Go on after a batch that failed: for want of memory with less of it."""
        while isinstance(error, OutOfMemory) and self._flying:
            self._land()
        layout = self.layout.smaller() if isinstance(error, OutOfMemory) else None
        if layout is None:
            if isinstance(error, OutOfMemory):
                error = RuntimeError(f"the GPU has too little free memory for {self.layout}")
            for _, deliver in tiles:
                deliver(error)
            return
        self.notes.append(f"the GPU ran out of memory with {self.layout}; going on with {layout}")
        again = [*tiles, *(tile for group in self._waiting.values() for tile in group)]
        self._waiting.clear()
        try:
            self._build(layout)
        except EngineError as lost:
            self._broken = lost
        for tile, deliver in again:
            self.submit(tile, deliver)

    def _fit(self, choices: Sequence[Layout]) -> None:
        """Build lanes of the first choice that fits into the memory that is free without them."""
        self._clear()
        free, network = self._cuda.free_memory(), self._network
        self._build(fitting(choices, self._facts, network.scratch, free, network.most_lanes))

    def _build(self, layout: Layout) -> None:
        """Make the lanes anew, smaller where even the free memory is too little."""
        while True:
            self._clear()
            self.layout = layout
            try:
                for _ in range(layout.lanes):
                    self._idle.append(Lane(self._cuda, self._network, layout.shape))
                return
            except OutOfMemory:
                smaller = layout.smaller()
            if smaller is None:
                self._clear()
                free = self._cuda.free_memory() / 2**30
                raise EngineError(
                    f"the GPU has {free:.1f} GiB of free memory, too little for {layout}; end "
                    "other programs on it, or build the plan for smaller --shapes"
                )
            layout = smaller

    def _clear(self) -> None:
        lanes = [*self._idle, *(lane for lane, _ in self._flying)]
        self._idle.clear()
        self._flying.clear()
        for lane in lanes:
            lane.close()


def _error_of(call: Callable[[], None]) -> RuntimeError | None:
    """What a call ends with, without its traceback: that would hold on to what is to be freed."""
    try:
        call()
    except RuntimeError as error:
        return error.with_traceback(None)
    return None
