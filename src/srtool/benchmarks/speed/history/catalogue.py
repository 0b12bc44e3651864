"""What is known about speeds: measured by srtool, published by others, and what a GPU allows at
most. An estimate is a roofline (Williams et al., 2009): direct convolutions, FP32 sums, no TF32."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from math import prod
from pathlib import Path
from typing import Literal

from srtool.benchmarks.speed.result import Bench, Machine, Measured, Side, Timing, read_bench
from srtool.errors import DataError, UsageError
from srtool.export.flops import GENERATORS, Cost, megapixels_per_second
from srtool.export.tensorrt.editions import precision_for
from srtool.export.tensorrt.gpus import (
    GPUS,
    Gpu,
    Target,
    gpu_named,
    gpu_of_device,
    support_of,
    target_from_text,
)
from srtool.runtime.gpu import plan

Kind = Literal["measured", "published", "estimate"]
Precision = Literal["fp32", "fp16"]
REFERENCE = "RRDB-23"  # the network that others publish speeds of


@dataclass(frozen=True)
class Entry:
    """One speed. hardware: a GPU, or a CPU with its cores. software, precision, size: empty where
    the source does not say. low, high: LR megapixels/s, for an estimate the most there can be.
    share: of the roofline of that very hardware, low and high: by its data sheet where the table of
    GPUs has it, else as measured in the same run, None where neither is known. remarks: how it
    stands to other entries. source: a file, or where it was published."""

    network: str
    hardware: str
    software: str
    precision: str
    size: str
    low: float
    high: float
    kind: Kind
    source: str
    share: tuple[float, float] | None = None
    remarks: tuple[str, ...] = ()


def catalogue(folders: Sequence[Path] = ()) -> list[Entry]:
    """All that was measured and published: of the results that srtool ships and of those in other
    folders (of files of `srtool bench`, too). Files of other kinds are passed over; DataError for a
    folder that is missing, and for a damaged result."""
    shipped = Path(str(resources.files("srtool.benchmarks") / "results"))
    paths: dict[Path, Path] = {}
    for folder in (*((shipped,) if shipped.is_dir() else ()), *folders):
        if not folder.exists():
            raise DataError(f"{folder}: no such file or folder; expected results of `srtool bench`")
        found = sorted(folder.glob("*.json")) if folder.is_dir() else [folder]
        paths |= {path.resolve(): path for path in found if folder == path or _is_bench(path)}
    measured = [entry for path in paths.values() for entry in _entries(read_bench(path), path.name)]
    return measured + published()


def published() -> list[Entry]:
    """What others published, with the share of the roofline where the table has the GPU."""
    text = (resources.files("srtool.benchmarks.speed.history") / "published.json").read_text(
        "utf-8"
    )
    found = [Entry(**item, kind="published") for item in json.loads(text)]
    return [_with_share(entry, GENERATORS.get(entry.network)) for entry in found]


def estimates(gpu: Gpu, networks: dict[str, Cost], points: Sequence[Entry] = ()) -> list[Entry]:
    """What a GPU could do at most with each network: in FP32, and in FP16 where that is no slower.

    points: entries of a catalogue; the shares that the same GPU and others of its class reached
    stand beside, at the estimate in their precision (the better one where none is stated).
    """
    target = Target(support_of(gpu.compute), gpu.name, gpu)
    best, why = precision_for((target,))
    precisions: tuple[Precision, ...] = ("fp32", "fp16") if best == "fp16" else ("fp32",)
    found = []
    for name, cost in networks.items():
        for precision in precisions:
            most = megapixels_per_second(cost, gpu, precision)
            reached = [
                _reached(point, gpu)
                for point in points
                if point.network == name
                and point.share is not None
                and _of_class(point, gpu.compute)
                and (_arithmetic(point.precision) or best) == precision
            ]
            entry = Entry(
                network=name,
                hardware=gpu.name,
                software="",
                precision=precision,
                size="",
                low=most,
                high=most,
                kind="estimate",
                source="roofline of its data sheet",
                remarks=(*reached, *((why,) if best == "fp32" else ())),
            )
            found.append(entry)
    return found


def gpu_class_rows(name: str, bench: Bench | None, folders: Sequence[Path] = ()) -> list[Entry]:
    """For a GPU that is not at hand, or a class such as sm61 (each GPU of it): its estimates for
    the networks of a result, what the catalogue has of its class, as it is and not scaled, and what
    the machine of the result reached. Without a result, for srtool's own networks.

    UsageError where no GPU is called so.
    """
    try:
        target = target_from_text(name, plan.this_machine())
    except UsageError as error:
        raise UsageError(str(error).replace("--gpu ", "--gpu-class ")) from None
    compute = target.support.compute
    gpus = [target.gpu] if target.gpu else [gpu for gpu in GPUS if gpu.compute == compute]
    networks = _costs(bench) if bench else GENERATORS
    networks = {**networks, REFERENCE: GENERATORS[REFERENCE]}
    points = [entry for entry in catalogue(folders) if _of_class(entry, compute)]
    roofs = [entry for gpu in gpus for entry in estimates(gpu, networks, points)]
    here = [
        replace(entry, remarks=_against(entry, roofs))
        for measured in (bench.networks if bench else ())
        if bench and (entry := _fastest(measured, bench.machine))
    ]
    return [*roofs, *points, *here]


def _is_bench(path: Path) -> bool:
    """Whether a JSON file is, or was meant to be, a result of `srtool bench`."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: is damaged ({error}); remove it, or measure again with `srtool bench`"
        ) from None
    return isinstance(found, dict) and "bench" in found


def _entries(bench: Bench, source: str) -> list[Entry]:
    """One for each side, over all sizes."""
    return [
        _measured(measured, side, side.timings, bench.machine, source)
        for measured in bench.networks
        for side in measured.sides
        if side.timings
    ]


def _measured(
    measured: Measured, side: Side, timings: Sequence[Timing], machine: Machine, source: str
) -> Entry:
    version = side.software if side.software.lower() not in side.name.lower() else ""
    speeds = [timing.lr_megapixels_per_second for timing in timings]
    entry = Entry(
        network=measured.network,
        hardware=machine.gpu
        if machine.gpu and _on_gpu(side)
        else f"{machine.cpu}, {machine.cores} cores",
        software=f"{side.name} ({version})" if version else side.name,
        precision=side.precision,
        size=_sizes(timings),
        low=min(speeds),
        high=max(speeds),
        kind="measured",
        source=source,
    )
    by_data_sheet = _with_share(entry, _cost(measured))
    shares = [_share(timing) for timing in timings]
    known = [share for share in shares if share is not None]
    if _gpu(entry.hardware) or not known:
        return by_data_sheet
    return replace(entry, share=(min(known), max(known)))


def _on_gpu(side: Side) -> bool:
    """Whether a side uses the GPU where there is one: all but the libraries for CPUs do."""
    name = side.name.lower()
    if "openvino" in name or "ncnn" in name:
        return False
    runtime = "onnxruntime" in name or "onnx runtime" in name
    return not runtime or "cuda" in name or "tensorrt" in name


def _sizes(timings: Sequence[Timing]) -> str:
    ordered = sorted(timings, key=lambda timing: (prod(timing.size), timing.batch))
    names = [
        f"{timing.size[0]}x{timing.size[1]}" + (f" x{timing.batch}" if timing.batch > 1 else "")
        for timing in ordered
    ]
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def _share(timing: Timing) -> float | None:
    """Of the measured roofline: of its arithmetic or its memory, whichever limits more."""
    known = [item for item in (timing.peak_share, timing.bandwidth_share) if item is not None]
    return max(known) if known else None


def _with_share(entry: Entry, cost: Cost | None) -> Entry:
    """By the data sheet, where the GPU is in the table and its precision is of a known rate; where
    none is stated, the one that suits it best."""
    gpu = _gpu(entry.hardware)
    if gpu is None or cost is None:
        return entry
    precision = _arithmetic(entry.precision)
    if precision is None and entry.precision:
        return entry
    best, _ = precision_for((Target(support_of(gpu.compute), gpu.name, gpu),))
    most = megapixels_per_second(cost, gpu, precision or best)
    return replace(entry, share=(entry.low / most, entry.high / most))


def _arithmetic(precision: str) -> Precision | None:
    """The rate of the table that a precision runs at: bfloat16 as float16."""
    if precision in ("fp32", "fp16"):
        return "fp32" if precision == "fp32" else "fp16"
    return "fp16" if precision == "bf16" else None


def _gpu(hardware: str) -> Gpu | None:
    return gpu_of_device(hardware) or gpu_named(hardware)


def _of_class(entry: Entry, compute: str) -> bool:
    gpu = _gpu(entry.hardware)
    return gpu is not None and gpu.compute == compute


def _reached(point: Entry, gpu: Gpu) -> str:
    """How much of its own roofline the hardware of a point reached."""
    assert point.share is not None
    low, high = (f"{100 * share:.0f}" for share in point.share)
    share = f"{low} %" if low == high else f"{low} to {high} %"
    if _gpu(point.hardware) == gpu:
        return f"{share} of it was {point.kind} ({point.software or 'software not stated'})"
    return f"{share} of its own was {point.kind} for {point.hardware}, of the same class"


def _cost(measured: Measured) -> Cost | None:
    if not measured.flops or not measured.moved:
        return None
    return Cost(measured.flops, measured.moved, 0, measured.parameters or 0)


def _costs(bench: Bench) -> dict[str, Cost]:
    costs = {measured.network: _cost(measured) for measured in bench.networks}
    return {name: cost for name, cost in costs.items() if cost}


def _fastest(measured: Measured, machine: Machine) -> Entry | None:
    """Of the engines, or of all sides where no engine was measured, at its best size."""
    engines = [side for side in measured.sides if side.kind == "engine" and side.timings]
    timed = [
        (timing.lr_megapixels_per_second, side, timing)
        for side in engines or measured.sides
        for timing in side.timings
    ]
    if not timed:
        return None
    _, side, timing = max(timed, key=lambda item: item[0])
    return _measured(measured, side, (timing,), machine, "this machine")


def _against(entry: Entry, roofs: list[Entry]) -> tuple[str, ...]:
    """A measurement over the best estimates of the same network."""
    best: dict[str, float] = {}
    for roof in roofs:
        if roof.network == entry.network:
            best[roof.hardware] = max(best.get(roof.hardware, 0), roof.high)
    return tuple(
        f"this machine reaches {entry.high / most:.2g}x of what {hardware} could at most"
        for hardware, most in best.items()
    )
