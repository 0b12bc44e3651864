"""Verification: what is known of how far an engine is from PyTorch FP32, and what that is held to.

The one place with thresholds: export, verify, the choice of a backend and training read them here.
"""

from __future__ import annotations

from math import inf
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, computed_field, model_validator

Grade = Literal["exact", "faithful", "lossy"]


class Strict(BaseModel):
    """A part of a file: nothing unknown, nothing changed later. Computed fields stand in the file
    too; they are passed over when it is read again."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    @model_validator(mode="before")
    @classmethod
    def _without_computed(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {key: data[key] for key in data if key not in cls.model_computed_fields}


def what_is_wrong(error: ValidationError) -> str:
    """The first thing, in one line, with its place in the file."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"]) or "the whole file"
    return f"{place}: {first['msg']}"


class Gates(Strict):
    """What an engine must keep.

    max_delta_psnr, dB, and max_delta_pi: of the mean against HR, either way. max_relative_niqe:
    the change of the mean NIQE over the reference's own, which counts where PI was not measured.
    min_psnr: dB between its output and PyTorch's. max_difference: levels of 0..255.
    max_share_different: share of the values that differ at all.
    """

    max_delta_psnr: float = 0.02
    max_delta_pi: float = 0.01
    max_relative_niqe: float = 0.02
    min_psnr: float = 50.0
    max_difference: int = 255
    max_share_different: float = 1.0


FAITHFUL = Gates()
EXACT = Gates(
    max_delta_psnr=inf,
    max_delta_pi=inf,
    max_relative_niqe=inf,
    min_psnr=0,
    max_difference=1,
    max_share_different=1e-4,
)
# Of files as they are exported: computed in float32, the halved weights alone make the difference.
EXPORTED = {
    "fp32": EXACT,
    "fp16": FAITHFUL.model_copy(update={"min_psnr": 55.0, "max_difference": 2}),
}


class WorstTile(Strict):
    """Where the squared error of 32 x 32 LR pixels is largest: the file, the LR pixel at the
    tile's left and top, and the dB between there."""

    image: str
    left: int
    top: int
    psnr: float


class Fidelity(Strict):
    """One engine on one backend against PyTorch FP32, over real images, uint8 output.

    max_difference, mean_difference: levels of 0..255. share_over_1: share of values that differ
    by more than one level. psnr_between: dB over all values, None when nothing differs.
    delta_psnr, worst_delta_psnr: PSNR-Y against HR minus PyTorch's, dB: the mean, and the image
    where it falls most; None without HR images. deltas: the same of other metrics, the means, as
    far as they were taken: ssim, ssim_wang, niqe, ma, pi, lpips. relative_niqe: deltas' niqe over
    PyTorch's own. dataset, names: of the images. gates: what it was held to.
    The file also states `grade`, `passed` and `not_measured`, which follow from the rest.
    """

    images: int
    max_difference: int
    mean_difference: float
    share_different: float
    share_over_1: float
    psnr_between: float | None
    delta_psnr: float | None
    worst_delta_psnr: float | None
    deltas: dict[str, float] = {}
    relative_niqe: float | None = None
    worst_tile: WorstTile | None = None
    dataset: str = ""
    names: tuple[str, ...] = ()
    made: str = ""
    gates: Gates = FAITHFUL

    @computed_field  # type: ignore[prop-decorator]
    @property
    def grade(self) -> Grade:
        """The best of EXACT and FAITHFUL that it keeps; lossy: neither."""
        if not self.misses(EXACT):
            return "exact"
        return "lossy" if self.misses(FAITHFUL) else "faithful"

    @computed_field  # type: ignore[prop-decorator]
    @property
    def passed(self) -> bool:
        """Whether this certifies the engine on the backend."""
        return not self.misses(self.gates)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def not_measured(self) -> list[str]:
        """Of the metrics with a gate, those that were not taken: of PI, the Ma model may be
        missing."""
        return [name for name in ("pi", "niqe") if name not in self.deltas]

    def misses(self, gates: Gates) -> list[str]:
        """The gates that it does not keep, in words. A figure that was not taken misses none."""
        missed = []
        between, pi = self.psnr_between, self.deltas.get("pi")
        if between is not None and not between >= gates.min_psnr:
            missed.append(f"{between:.1f} dB between, expected at least {gates.min_psnr:g}")
        niqe = self.relative_niqe if pi is None else None
        for figure, value, most in (
            ("delta PSNR {:+.4f}", self.delta_psnr, gates.max_delta_psnr),
            ("delta PI {:+.4f}", pi, gates.max_delta_pi),
            ("relative NIQE {:+.4f}", niqe, gates.max_relative_niqe),
            ("up to {} levels", self.max_difference, gates.max_difference),
            ("share {:.5f} of values differs", self.share_different, gates.max_share_different),
        ):
            if value is not None and not abs(value) <= most:
                missed.append(f"{figure.format(value)}, expected at most {most:g}")
        return missed
