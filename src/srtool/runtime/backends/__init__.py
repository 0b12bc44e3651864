"""Inference libraries, one file each, behind one protocol: open a file, get a session."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

# LR pixels, for networks without a measured halo: checkpoints and other people's files.
DEFAULT_HALO = 16


class Session(Protocol):
    """A loaded network: a batch in, the upscaled batch out, in the I/O form of its file.

    uint8 files: (N, H, W, 3) uint8 -> (N, sH, sW, 3) uint8. float32 files: (N, 3, H, W) float32,
    0..1 -> (N, 3, sH, sW) float32, not clamped. Any N, H, W. RuntimeError or MemoryError where
    it fails.
    """

    def __call__(self, batch: NDArray[Any], /) -> NDArray[Any]: ...


@runtime_checkable
class Foresighted(Session, Protocol):
    """A session that makes ready for what comes often. What it computes stays within the rounding
    of its precision."""

    def expect(self, shape: tuple[int, ...], times: int) -> None:
        """`times` batches of this shape are about to come. Where those of one shape come in a row,
        they add up."""
