"""`srtool infer` where pictures or results lie in object storage, or the machines of a cluster
work."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import typer

from srtool.cli import needing
from srtool.cli import progress as console
from srtool.cluster.connection import Cluster
from srtool.cluster.engines import fetched_engine
from srtool.cluster.items import Asked, items_from_inputs
from srtool.cluster.pool import Work
from srtool.cluster.run import status_of_asked, upscale_by_many, upscale_stored
from srtool.cluster.storage import is_url
from srtool.models import engine_path
from srtool.runtime.events import Event, Summary
from srtool.runtime.index import Shard
from srtool.runtime.opening import open_engine
from srtool.runtime.tiling import check_tile


@dataclass(frozen=True)
class Task:
    """What the command line asks for."""

    inputs: list[str]
    out: str
    engine: str | None
    suffix: str
    format: str | None
    shard: Shard | None
    work: Work
    cluster: Cluster | None
    require_certified: bool


def infer_elsewhere(task: Task, only_status: bool, as_json: bool) -> None:
    """Upscale, or say how far that is."""
    with needing("cloud"):
        asked = items_from_inputs(task.inputs, task.out, task.suffix, task.format, task.shard)
    if only_status:
        console.print_status(status_of_asked(asked))
        return
    for note in asked.notes:
        console.say(note)
    name = task.engine or ""
    path = fetched_engine(name) if is_url(name) else engine_path(task.engine)
    if task.cluster is None:
        _infer_here(task, asked, path, as_json)
    else:
        _infer_there(task, task.cluster, asked, path, as_json)


def _infer_here(task: Task, asked: Asked, path: Path, as_json: bool) -> None:
    work, summary = task.work, Summary()
    with open_engine(
        path,
        work.backend,
        work.precision,
        fallback=work.fallback,
        threads=work.threads,
        device=work.device,
    ) as engine:
        console.introduce(engine, task.require_certified)
        tile, halo = work.options.tile, work.options.halo
        if tile is not None:
            engine.use_tile(tile)
        check_tile(tile or min(engine.tile), engine.facts.halo if halo is None else halo)
        events = upscale_stored(asked, engine, work, summary)
        _follow(events, len(asked.items), summary, task, (str(path), str(engine.backend)), as_json)


def _infer_there(task: Task, cluster: Cluster, asked: Asked, path: Path, as_json: bool) -> None:
    summary = Summary()
    work = replace(
        task.work,
        sources=asked.sources.url if asked.sources else "",
        results=asked.results.url if asked.results else "",
    )
    with needing("ray"):
        events = upscale_by_many(asked, path, work, cluster, summary)
        where = f"Ray cluster {cluster.address}"
        _follow(events, len(asked.items), summary, task, (str(path), where), as_json)


def _follow(
    events: Generator[Event, None, None],
    count: int,
    summary: Summary,
    task: Task,
    engine: tuple[str, str],
    as_json: bool,
) -> None:
    try:
        with console.InferenceProgress(count) as shown, closing(events):
            for event in events:
                shown.on_event(event)
    except KeyboardInterrupt:
        console.complain(f"interrupted after {summary.files} images; the same command continues")
        raise
    finally:
        console.print_summary(summary, task.out, *engine, as_json)
    if summary.failed or summary.other:
        raise typer.Exit(1)
