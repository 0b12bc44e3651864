"""How much a GPU does at a time: tiles of one size in batches, in as many slots as memory holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

from srtool.manifest import ModelFacts, Profile, Shape

SLOTS = 3  # one computes, one waits with its upload done, one is emptied and filled by the CPU
FEWEST_SLOTS = 2  # so that the GPU computes while the CPU empties and fills
SHARE = 0.9  # of the free memory: drivers and libraries take some later


@dataclass(frozen=True)
class Layout:
    """`batch` tiles of height x width LR pixels go through each of the slots at a time.

    least: sides below which a tile is not halved, least_batch the same; step: what the sides of a
    tile must be a multiple of.
    """

    batch: int
    height: int
    width: int
    slots: int = SLOTS
    least: tuple[int, int] = (1, 1)
    least_batch: int = 1
    step: int = 1

    @property
    def shape(self) -> Shape:
        return self.batch, self.height, self.width

    def smaller(self) -> Layout | None:
        """Half the batch, then half the tile, at last a single slot; None where nothing is left."""
        smaller = self.half_batch() or self.half_tile()
        if smaller is None and self.slots > 1:
            return replace(self, slots=1)
        return smaller

    def half_batch(self) -> Layout | None:
        batch = self.batch // 2
        return replace(self, batch=batch) if batch >= self.least_batch else None

    def half_tile(self) -> Layout | None:
        height, width = (
            max(least, side // 2 // self.step * self.step)
            for side, least in zip((self.height, self.width), self.least, strict=True)
        )
        if (height, width) == (self.height, self.width):
            return None
        return replace(self, height=height, width=width)

    def __str__(self) -> str:
        tiles = "1 tile" if self.batch == 1 else f"{self.batch} tiles"
        slots = "1 slot" if self.slots == 1 else f"{self.slots} slots"
        return f"{tiles} of {self.width}x{self.height} at a time in {slots}"


def shape_in(profile: Profile, height: int, width: int) -> Shape | None:
    """The smallest shape that takes such a tile, which may have to be padded for it; None where
    the profile's are all too small."""
    rows, columns = max(height, profile.min[1]), max(width, profile.min[2])
    if rows > profile.max[1] or columns > profile.max[2]:
        return None
    return profile.min[0], rows, columns


def buffer_bytes(shape: Shape, facts: ModelFacts) -> int:
    """Of a batch and its result on the GPU."""
    tiles, height, width = shape
    value = 1 if facts.io == "uint8" else 4
    return tiles * height * width * 3 * value * (1 + facts.scale**2)


def layouts_from_profiles(
    profiles: Sequence[Profile], facts: ModelFacts, side: int | None = None
) -> list[Layout]:
    """What the profiles were tuned for, the most pixels first; with `side`, square tiles of that
    side, as many as make about as many pixels. Empty where no profile takes such tiles."""
    found = []
    for profile in profiles:
        batch, height, width = profile.opt
        if side is not None:
            if shape_in(profile, side, side) != (profile.min[0], side, side):
                continue
            batch = min(profile.max[0], max(profile.min[0], batch * height * width // side**2, 1))
            height = width = side
        # Of a tile of three halos a ninth is kept; anything smaller is a waste of time.
        useful = -(-max(1, 3 * facts.halo) // facts.multiple_of) * facts.multiple_of
        least = _least(profiles, (batch, height, width))
        found.append(
            Layout(
                batch,
                height,
                width,
                least=(
                    min(height, max(least[1], useful)),
                    min(width, max(least[2], useful)),
                ),
                least_batch=least[0],
                step=facts.multiple_of,
            )
        )
    return sorted(found, key=lambda layout: -layout.batch * layout.height * layout.width)


def _least(profiles: Sequence[Profile], shape: Shape) -> Shape:
    """Down to what a shape can be made smaller: a profile for one shape alone has others beside."""
    above = [
        profile.min
        for profile in profiles
        if all(most >= side for most, side in zip(profile.max, shape, strict=True))
    ]
    return min(above, key=prod)


def fitting(
    choices: Sequence[Layout],
    facts: ModelFacts,
    scratch: Callable[[Shape], int],
    free: int,
    most_slots: int = SLOTS,
) -> Layout:
    """The first layout that fits into `free` bytes of a GPU's memory.

    scratch: bytes that the network needs for a shape beside its input and output. Two slots with
    half the batch come before one: overlap is worth more. Where nothing fits the smallest is
    returned; the GPU has the last word.
    """
    layout = choices[0]
    for layout in _orders(choices, most_slots):
        each = scratch(layout.shape) + buffer_bytes(layout.shape, facts)
        if layout.slots * each <= SHARE * free:
            break
    return layout


def _orders(choices: Sequence[Layout], most_slots: int) -> Iterator[Layout]:
    """Smaller and smaller demands on memory."""
    found = [item for choice in choices for item in (choice, *_repeated(choice, Layout.half_batch))]
    batches = sorted(dict.fromkeys(found), key=lambda layout: -prod(layout.shape))
    for layout in batches:
        for slots in range(most_slots, FEWEST_SLOTS - 1, -1):
            yield replace(layout, slots=slots)
    for layout in [*batches, *_repeated(batches[-1], Layout.half_tile)]:
        yield replace(layout, slots=1)


def _repeated(layout: Layout, half: Callable[[Layout], Layout | None]) -> list[Layout]:
    found = []
    while (smaller := half(layout)) is not None:
        found.append(layout := smaller)
    return found
