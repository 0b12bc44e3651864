"""Files of others: what an .onnx file without a manifest computes, found by trials on a photograph.

What comes out is compared with the photograph enlarged by bicubic interpolation, which every
upscaler is close to: so values in 0..255, swapped channels and results that are no image show.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from srtool.errors import EngineError, UsageError
from srtool.images.colour import psnr
from srtool.images.folders import SAMPLES
from srtool.images.imresize import imresize
from srtool.images.reading import read_rgb
from srtool.manifest import ModelFacts, facts_from_metadata
from srtool.runtime.session import DEFAULT_HALO, DEFAULT_TILE, OnnxFile

Io = Literal["uint8", "float32"]
White = Literal[1, 255]

SIDES = (32, 64, 128, 48, 96)  # LR pixels of a trial: the first that the network takes
MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
LEAST = 20.0  # dB to bicubic; what is below is no enlarged photograph
BETTER = 3.0  # dB by which another reading must be better than the usual one


@dataclass(frozen=True)
class Foreign:
    """What the user knows of a file that srtool did not write. range: the value of white, 1 or
    255, in and out, where the trial is not to decide. output: which of its outputs is the image;
    one that is no larger than the input is only taken where it is named here."""

    range: White | None = None
    output: str = ""


NOTHING_KNOWN = Foreign()


def facts_by_trial(path: Path, file: OnnxFile, told: Foreign = NOTHING_KNOWN) -> ModelFacts:
    """Facts of an .onnx file that has no manifest: from its own metadata where srtool wrote it,
    else from its input (RGB, (N, 3, H, W) float32 or (N, H, W, 3) uint8) and trials.

    EngineError where it takes no RGB images, fails on them, or makes no enlarged image of them;
    UsageError where more is told of a file that says it itself.
    """
    if facts := facts_from_metadata(file.metadata):
        if told != NOTHING_KNOWN:
            raise UsageError(
                f"{path}: was written by srtool, and says itself what it takes and makes; leave "
                "out range and output",
                path=path,
                parameter="output" if told.output else "range",
            )
        return facts
    trial = _Trial(path, file, told)
    facts = trial.facts()
    if facts.fixed is None:
        facts = facts.model_copy(update={"multiple_of": trial.multiple_of(facts)})
    return facts


class _Trial:
    """One file under trial."""

    def __init__(self, path: Path, file: OnnxFile, told: Foreign) -> None:
        self.path, self.file, self.told = path, file, told
        self.io, sides = _form(path, file)
        self.fixed: tuple[int, int] | None = None
        if any(side is not None for side in sides):
            self.fixed = sides[0] or DEFAULT_TILE, sides[1] or DEFAULT_TILE

    def facts(self) -> ModelFacts:
        """Of the first side that the network takes; everything but multiple_of."""
        tried = [self.fixed] if self.fixed else [(side, side) for side in SIDES]
        errors = []
        for sides in tried:
            found = self._facts_of(sides)
            if isinstance(found, ModelFacts):
                return found
            errors.append(found)
        raise EngineError(
            f"{self.path}: fails on images of {tried[0][1]}x{tried[0][0]} pixels ({errors[0]}); "
            "expected a network with one input that takes images",
            path=self.path,
            found=str(errors[0]),
        )

    def _facts_of(self, sides: tuple[int, int]) -> ModelFacts | RuntimeError:
        try:
            return self._best(photograph(sides))
        except RuntimeError as error:
            return error

    def multiple_of(self, known: ModelFacts) -> int:
        """The least number that the sides must be a multiple of, by sides that are of no larger
        one. EngineError where none of MULTIPLES will do."""
        output = self.file.outputs.index(known.output_name)
        for multiple in MULTIPLES:
            sides = max(SIDES[1], multiple) + multiple, max(SIDES[1], multiple) + 3 * multiple
            image = photograph(sides)
            try:
                made = self._run(image, known.input_range)[output]
            except RuntimeError:
                continue
            if _scale_of(made, image, self.io) == known.scale:
                return multiple
        raise EngineError(
            f"{self.path}: fails on images whose sides are multiples of {MULTIPLES[-1]} as well",
            path=self.path,
        )

    def _best(self, image: NDArray[np.uint8]) -> ModelFacts:
        """The most usual reading of the file among those that come closest to bicubic;
        RuntimeError where it fails."""
        readings = list(self._readings(image))
        if not readings:
            raise self._no_image("values that are no numbers")
        closest = max(decibels for decibels, _ in readings)
        near = [each for each in readings if each[0] > closest - BETTER]
        decibels, facts = min(near, key=lambda each: (_oddity(each[1]), -each[0]))
        if decibels < LEAST:
            raise self._no_image(f"no photograph of one ({decibels:.1f} dB to bicubic)")
        return facts

    def _readings(self, image: NDArray[np.uint8]) -> Iterator[tuple[float, ModelFacts]]:
        """dB to bicubic, and the facts, of each way to read the file."""
        whites: tuple[White, ...] = (self.told.range,) if self.told.range else (1, 255)
        for white in whites if self.io == "float32" else (1,):
            found = self._run(image, white)
            index = self._output(found, image)
            scale = _scale_of(found[index], image, self.io)
            expected = np.asarray(imresize(image, float(scale))) if scale > 1 else image
            values = found[index][0] if self.io == "uint8" else found[index][0].transpose(1, 2, 0)
            peaks = whites if self.told.range is None else (white,)
            for peak, bgr in product(peaks if self.io == "float32" else (1,), (False, True)):
                facts = ModelFacts(
                    scale=scale,
                    io=self.io,
                    precision="fp32",
                    architecture="unknown",
                    halo=DEFAULT_HALO,
                    output_name=self.file.outputs[index],
                    input_range=white,
                    output_range=peak,
                    output_bgr=bgr,
                    fixed=self.fixed,
                    batch=1 if self.file.shape[0] == 1 else None,
                )
                levels = values if self.io == "uint8" else np.clip(values * (255 / peak), 0, 255)
                levels = levels[..., ::-1] if bgr else levels
                if np.isfinite(levels).all():
                    yield min(psnr(np.asarray(levels), expected), 99.0), facts

    def _output(self, found: list[NDArray[Any]], image: NDArray[np.uint8]) -> int:
        """Which of the outputs is the image: the named one, or the only one that is larger."""
        names, told = self.file.outputs, self.told.output
        scales = [_scale_of(made, image, self.io) for made in found]
        listed = ", ".join(f"{name} (x{scale})" for name, scale in zip(names, scales, strict=True))
        if told:
            if told not in names or not scales[names.index(told)]:
                raise EngineError(
                    f"{self.path}: has no output {told} that is an image; it has {listed}",
                    path=self.path,
                    parameter="output",
                    found=told,
                    expected=", ".join(names),
                )
            return names.index(told)
        larger = [index for index, scale in enumerate(scales) if scale > 1]
        if len(larger) == 1:
            return larger[0]
        if any(scales):
            what = "several larger images" if larger else "no larger image"
            name = names[(larger or [scales.index(1)])[0]]
            raise EngineError(
                f"{self.path}: makes {what} of one: {listed}; name the output that is meant",
                path=self.path,
                found=listed,
                expected="one output that is larger than the input",
                remedy={"output": name},
            )
        shapes = ", ".join(f"{made.dtype} values of shape {made.shape}" for made in found)
        raise self._no_image(f"{shapes} from an image of {image.shape[1]}x{image.shape[0]} pixels")

    def _no_image(self, found: str) -> EngineError:
        return EngineError(
            f"{self.path}: makes {found}, expected an image a whole number of times as large",
            path=self.path,
            found=found,
            expected="an image a whole number of times as large",
        )

    def _run(self, image: NDArray[np.uint8], white: int) -> list[NDArray[Any]]:
        if self.io == "uint8":
            return self.file.run(image[None])
        values = image.transpose(2, 0, 1)[None] * np.float32(white / 255)
        return self.file.run(np.ascontiguousarray(values, dtype=np.float32))


def _oddity(facts: ModelFacts) -> int:
    """In how many ways a reading is not the usual one."""
    return (facts.input_range != 1) + (facts.output_range != 1) + facts.output_bgr


def photograph(sides: tuple[int, int]) -> NDArray[np.uint8]:
    """The middle of a colourful photograph, (H, W, 3) RGB uint8; mirrored beyond its edges."""
    image = _astronaut()
    for axis, side in enumerate(sides):
        missing = max(0, side - image.shape[axis])
        image = np.pad(image, [(0, missing if axis == each else 0) for each in range(3)], "reflect")
        start = (image.shape[axis] - side) // 2
        image = image.take(range(start, start + side), axis)
    return np.ascontiguousarray(image)


@cache
def _astronaut() -> NDArray[np.uint8]:
    return np.asarray(imresize(read_rgb(SAMPLES / "HR" / "astronaut.png"), 0.5), np.uint8)


def _form(path: Path, file: OnnxFile) -> tuple[Io, tuple[int | None, ...]]:
    """How pixels go in, and the sides that are fixed."""
    shape, kind = file.shape, file.dtype
    if kind == "float32" and len(shape) == 4 and shape[1] == 3:
        return "float32", shape[2:]
    if kind == "uint8" and len(shape) == 4 and shape[3] == 3:
        return "uint8", shape[1:3]
    found = f"{kind} of shape ({', '.join('?' if side is None else str(side) for side in shape)})"
    expected = "RGB images as float32 (N, 3, H, W) or uint8 (N, H, W, 3)"
    raise EngineError(
        f"{path}: takes {found}, expected {expected}", path=path, found=found, expected=expected
    )


def _scale_of(made: NDArray[Any], image: NDArray[np.uint8], io: Io) -> int:
    """How many times as large an output is, 0 where it is no image of this kind."""
    if made.ndim != 4 or made.dtype != io:
        return 0
    number, *rest = made.shape
    (height, width, channels) = rest if io == "uint8" else (*rest[1:], rest[0])
    scale = int(height) // image.shape[0]
    whole = (height, width) == (scale * image.shape[0], scale * image.shape[1])
    return scale if whole and (number, channels) == (1, 3) else 0
