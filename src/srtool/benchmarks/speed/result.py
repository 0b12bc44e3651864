"""What `srtool bench` measured: one JSON file, with all that is needed to judge and to repeat it.

Seconds are raw, run by run; everything else about them (percentiles, rates, ratios) is computed
from these and written into the file too, so that a reader in any language needs no formulas.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, Field, ValidationError, computed_field

from srtool.errors import DataError
from srtool.files import write_whole
from srtool.parity import Strict, what_is_wrong

Model = TypeVar("Model", bound=BaseModel)

VERSION: Literal[2] = 2
Axis = Literal["size", "batch", "tile", "threads", "files", "callers"]
Seconds = Annotated[tuple[float, ...], Field(min_length=1)]
Place = tuple[tuple[int, int], int]  # width and height in LR pixels, and images a run

_KERNELS = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "avx2": "AVX2"}  # the best first


class Machine(Strict):
    """Where it was measured. cores: physical ones that the process may use, threads: logical
    ones. memory: bytes. instructions: of the CPU, those that networks use (avx2, avx512f,
    avx512_bf16, amx_bf16 ...). gpu, driver: empty without one; gpu_memory: bytes. versions: of
    Python and of the libraries."""

    cpu: str
    cores: int
    threads: int
    memory: int
    platform: str
    instructions: tuple[str, ...] = ()
    gpu: str = ""
    driver: str = ""
    gpu_memory: int = 0
    versions: dict[str, str] = Field({})

    @computed_field  # type: ignore[prop-decorator]
    @property
    def fingerprint(self) -> str:
        """The same for results whose seconds can be compared: of the hardware, not of software."""
        parts = (self.cpu, self.cores, self.threads, self.platform, self.gpu, *self.instructions)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]

    @property
    def title(self) -> str:
        """For people: the GPU, or the CPU with what its networks are fastest with."""
        if self.gpu:
            return self.gpu
        kernels = next((title for name, title in _KERNELS.items() if name in self.instructions), "")
        return f"{self.cpu}, {self.cores} cores" + (f", {kernels}" if kernels else "")


class Roofline(Strict):
    """Peaks measured in the same run. matrix: FLOP/s by precision, the best of several large
    products in several libraries. bandwidth: bytes/s, of copying much more than the caches hold,
    read and written bytes both counted."""

    matrix: dict[str, float] = Field({})
    bandwidth: float = 0.0


class Spread(Strict):
    """A median with the lowest and the highest."""

    median: float
    low: float
    high: float


class Timing(Strict):
    """A candidate on images of one size.

    size: width and height in LR pixels. batch: images a run. seconds: wall time of each run, from
    pixels in host memory to pixels in host memory. rounds: how many of these each of its processes
    made, one after the other. warm_up: runs before, until the time was stable. speed: how many
    times as fast as the reference, run by run; None for the reference itself and where it was not
    measured. peak_share: of the measured matrix peak, bandwidth_share: of the measured bandwidth,
    by the operations and bytes that the ONNX graph counts. peak_memory: of its own process,
    device_memory: of the GPU, bytes. watts, clock (MHz): of the GPU, means. Unknown figures are
    None.
    """

    size: tuple[int, int]
    batch: int = 1
    seconds: Seconds
    rounds: tuple[int, ...] = ()
    warm_up: int
    scale: int = 4
    speed: Spread | None = None
    peak_share: float | None = None
    bandwidth_share: float | None = None
    peak_memory: int | None = None
    device_memory: int | None = None
    watts: float | None = None
    clock: float | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def p50(self) -> float:
        """Latency of a run, seconds."""
        return statistics.median(self.seconds)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def p90(self) -> float:
        return float(np.percentile(self.seconds, 90))

    @computed_field  # type: ignore[prop-decorator]
    @property
    def p99(self) -> float:
        """Near the slowest run, where there are fewer than a hundred."""
        return float(np.percentile(self.seconds, 99))

    @computed_field  # type: ignore[prop-decorator]
    @property
    def images_per_second(self) -> float:
        return self.batch / self.p50

    @computed_field  # type: ignore[prop-decorator]
    @property
    def lr_megapixels_per_second(self) -> float:
        return self.batch * self.size[0] * self.size[1] / self.p50 / 1e6

    @computed_field  # type: ignore[prop-decorator]
    @property
    def hr_megapixels_per_second(self) -> float:
        return self.lr_megapixels_per_second * self.scale**2


class EndToEnd(Strict):
    """A folder of image files through an engine: decoding, upscaling and encoding at once.

    size: width and height of the images, LR pixels. seconds: wall time. decode, compute, encode:
    seconds of each, which overlap. peak_memory: of the process, bytes.
    """

    files: int
    size: tuple[int, int]
    seconds: float
    decode: float
    compute: float
    encode: float
    peak_memory: int | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def share(self) -> float:
        """Compute over wall time: how much of its own speed the engine keeps from file to file."""
        return self.compute / self.seconds

    @computed_field  # type: ignore[prop-decorator]
    @property
    def images_per_second(self) -> float:
        return self.files / self.seconds


class Candidate(Strict):
    """One way to run a network: an engine of srtool, or what people run otherwise.

    software: the library and its version. precision: what it computes in. load: seconds from a
    fresh process with nothing imported to a network that is ready, cold: seconds of its first
    image then; medians of its processes. psnr_between: dB between its output and the reference's,
    None where equal, max_difference: levels, None for the reference. skipped: size and batch, such
    as "960x540 x1", -> why it was not measured there.
    """

    name: str
    kind: Literal["engine", "baseline"]
    software: str
    precision: str
    load: float
    cold: float
    timings: tuple[Timing, ...] = ()
    end_to_end: tuple[EndToEnd, ...] = ()
    psnr_between: float | None = None
    max_difference: int | None = None
    skipped: dict[str, str] = Field({})

    def timing(self, size: tuple[int, int], batch: int = 1) -> Timing | None:
        """What was measured at a size."""
        found = (t for t in self.timings if (t.size, t.batch) == (size, batch))
        return next(found, None)


class Point(Strict):
    """value: of the axis (LR pixels of an image, images a batch, side of a tile, threads, files,
    callers at the same time). megapixels: LR megapixels that one run upscales. seconds: of each
    run. rate: runs a second of all callers together, None on other axes. peak_memory: bytes."""

    value: int
    megapixels: float
    seconds: Seconds
    rate: float | None = None
    peak_memory: int | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def p50(self) -> float:
        """Latency of a run, seconds."""
        return statistics.median(self.seconds)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def p95(self) -> float:
        return float(np.percentile(self.seconds, 95))

    @computed_field  # type: ignore[prop-decorator]
    @property
    def cost(self) -> float:
        """Seconds per LR megapixel, the median; of all callers together."""
        return (1 / self.rate if self.rate else self.p50) / self.megapixels


class Scaling(Strict):
    """How the cost of a candidate changes with one thing while all else stays."""

    axis: Axis
    candidate: str
    fixed: str
    points: Annotated[tuple[Point, ...], Field(min_length=1)]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def flatness(self) -> float:
        """Largest over smallest cost per megapixel."""
        costs = [point.cost for point in self.points]
        return max(costs) / min(costs)


class Measured(Strict):
    """Everything about one network. flops, moved: operations, and values read and written, per LR
    pixel; None where they cannot be counted. sha256: of the weights, empty where unknown.
    reference: what speeds are relative to. absent: candidates that were not run -> why."""

    network: str
    architecture: str
    scale: int
    flops: float | None = None
    moved: float | None = None
    parameters: int | None = None
    sha256: str = ""
    reference: str
    candidates: tuple[Candidate, ...]
    absent: dict[str, str] = Field({})
    scaling: tuple[Scaling, ...] = ()

    def candidate(self, name: str) -> Candidate | None:
        return next((item for item in self.candidates if item.name == name), None)


class Bench(Strict):
    """One run of `srtool bench`. command: how to repeat it. busy: load of the machine by others
    when it began, in cores, None where unknown. interrupted: not all of the command is done."""

    bench: Literal[2] = VERSION
    made: str
    command: str
    machine: Machine
    busy: float | None = None
    interrupted: bool = False
    roofline: Roofline = Roofline()
    networks: tuple[Measured, ...]


def place_of(size: tuple[int, int], batch: int) -> str:
    """As in `Candidate.skipped`."""
    return f"{size[0]}x{size[1]} x{batch}"


def spread(values: Sequence[float]) -> Spread:
    return Spread(median=statistics.median(values), low=min(values), high=max(values))


def read_bench(path: Path) -> Bench:
    """See `result_from_file`."""
    return result_from_file(path, Bench, "bench")


def result_from_file(path: Path, model: type[Model], command: str) -> Model:
    """What a command of srtool wrote. DataError where the file is missing, or no result of a
    version that is known."""
    try:
        return model.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; `srtool {command}` writes one", path=path) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})", path=path) from None
    except ValidationError as error:
        raise DataError(
            f"{path}: is no result of `srtool {command}` that this version reads "
            f"({what_is_wrong(error)})",
            path=path,
        ) from None


def write_bench(path: Path, bench: Bench) -> None:
    write_whole(path, bench.model_dump_json(indent=1) + "\n")
