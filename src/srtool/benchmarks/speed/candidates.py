"""Who takes part: srtool's engines and what people run otherwise, each ready to be opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, cast, get_args

from srtool.benchmarks.speed.baselines import REFERENCE, Baseline, Device, baselines
from srtool.benchmarks.speed.engine_side import open_engine_candidate
from srtool.benchmarks.speed.networks import Network
from srtool.benchmarks.speed.opened import Opened
from srtool.errors import UsageError
from srtool.runtime.backends.kserve import service_at
from srtool.runtime.onnx_files import installed_backends
from srtool.runtime.request import PLAN, BackendName
from srtool.runtime.session import Backend


@dataclass(frozen=True)
class Entry:
    """label: what it is called until it is open. open: can be pickled. file: of an engine. prepare:
    to be run before, in a process that is not measured."""

    label: str
    kind: Literal["engine", "baseline"]
    open: Callable[[], Opened]
    file: str = ""
    prepare: Callable[[], object] | None = None


def entries(
    network: Network,
    backends: Sequence[str],
    compared: Sequence[str] | None,
    device: Device,
    folder: Path,
) -> tuple[list[Entry], dict[str, str]]:
    """The reference first, then engines, then the other baselines.

    backends: as `open_engine_candidate` takes them, or "all". compared: parts of the names of
    baselines, None for all. folder: for files of baselines.
    Second result: baselines that have no weights to open -> why.
    """
    chosen = chosen_baselines(device, compared)
    engines = [
        Entry(
            f"{path.name} on {backend}",
            "engine",
            partial(open_engine_candidate, path, backend),
            path.name,
        )
        for path in network.engines
        for backend in _backends(path, backends)
    ]
    if network.weights is None:
        where = network.facts.weights or "the weights"
        why = f"needs {where}, not found beside the engine nor in weights/; name it by --model"
        return engines, {baseline.name: why for baseline in chosen}
    place = folder / network.name  # one for all: they share what they prepare
    place.mkdir(parents=True, exist_ok=True)
    others = [
        Entry(
            label=baseline.name,
            kind="baseline",
            open=partial(baseline.open, network.weights, place),
            prepare=baseline.prepare and partial(baseline.prepare, network.weights, place),
        )
        for baseline in chosen
    ]
    first = [entry for entry in others if entry.label == REFERENCE]
    return [*first, *engines, *(entry for entry in others if entry not in first)], {}


def chosen_baselines(device: Device, wanted: Sequence[str] | None) -> list[Baseline]:
    """Baselines whose names contain one of the words, None for all; UsageError for a word that none
    contains."""
    known = baselines(device)
    if wanted is None:
        return list(known)
    for word in wanted:
        if not any(word.lower() in baseline.name.lower() for baseline in known):
            names = ", ".join(baseline.name for baseline in known)
            raise UsageError(f"--baselines {word}: expected all, none, or parts of: {names}")
    words = [word.lower() for word in wanted]
    return [item for item in known if any(word in item.name.lower() for word in words)]


def _backends(path: Path, wanted: Sequence[str]) -> list[Backend | BackendName]:
    """What to run a file on, as `open_engine_candidate` takes it."""
    if path.suffix == PLAN or service_at(path):
        return ["auto"]
    if "all" in wanted:
        return list(installed_backends())
    for name in wanted:
        if name not in get_args(BackendName):
            known = ", ".join(get_args(BackendName))
            raise UsageError(f"{name}: no such backend; expected all, {known}", parameter="backend")
    return [cast(BackendName, name) for name in wanted]
