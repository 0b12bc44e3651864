"""A run whose pictures or results lie in object storage, or whose machines are a cluster."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path

from srtool.cluster.connection import Cluster, connected
from srtool.cluster.engines import package_from_engine
from srtool.cluster.items import Asked, Item, fetch_indexes, sorted_out
from srtool.cluster.pool import Work, upscale_on_cluster
from srtool.cluster.staging import Stage, Stages, upscale_staged
from srtool.manifest import read_manifest
from srtool.runtime.engine import Engine
from srtool.runtime.events import Event, Summary
from srtool.runtime.index import Entry, Index, Origin, Shard, Status, lies_at, status_of
from srtool.runtime.inputs import Job

SAVE_EVERY = 60.0  # seconds between two copies of the index in the store


class Record:
    """The index of the results, which lies in the store where they do."""

    def __init__(self, asked: Asked, scratch: Path, shard: Shard | None = None) -> None:
        folder = scratch / "out" if asked.results else Path(asked.out)
        folder.mkdir(parents=True, exist_ok=True)
        fetch_indexes(asked, folder)
        self.index = Index(folder, shard)
        self._results, self._saved = asked.results, time.monotonic()

    def save(self, is_end: bool = False) -> None:
        """Copy the index into the store, now and then and at the end."""
        path = self.index.path
        due = is_end or time.monotonic() - self._saved > SAVE_EVERY
        if self._results is not None and due and path.exists():
            self._saved = time.monotonic()
            self._results.write(path.name, path)


def status_of_asked(asked: Asked) -> Status:
    """What lies in the output folder, over all shards."""
    with tempfile.TemporaryDirectory(prefix="srtool-") as scratch:
        index = Record(asked, Path(scratch)).index
    if asked.results:
        there = ((item.target, bool(asked.lying.get(item.target))) for item in asked.items)
    else:
        targets = (Path(item.target) for item in asked.items)
        there = ((index.key(target), lies_at(target)) for target in targets)
    return status_of(there, index)


def upscale_stored(
    asked: Asked, engine: Engine, work: Work, summary: Summary
) -> Generator[Event, None, None]:
    """Upscale on this machine, with an open engine."""
    with tempfile.TemporaryDirectory(prefix="srtool-") as name:
        scratch = Path(name)
        stages = Stages(
            Stage(asked.sources, scratch / "in") if asked.sources else None,
            Stage(asked.results, scratch / "out") if asked.results else None,
        )
        record = Record(asked, scratch, asked.shard)
        origin = Origin(engine.path, engine.facts.weights_sha256, work.options)
        wanted: list[Item] = []
        yield from _told(asked, origin, record, work, wanted, summary)
        jobs = (stages.job(item) for item in wanted)
        events = upscale_staged(jobs, engine, work.options, stages, summary, record.index)
        try:
            with closing(events):
                for event in events:
                    if event.kind == "failed":  # in the user's names, not in those of the scratch
                        key = record.index.key(event.job.target)
                        record.index.add(Entry(key, failed=event.message))
                    yield event
                    record.save()
        finally:
            record.index.close()
            record.save(is_end=True)


def upscale_by_many(
    asked: Asked, engine: Path, work: Work, cluster: Cluster, summary: Summary
) -> Generator[Event, None, None]:
    """Upscale on the machines of a Ray cluster. engine: a file of this machine."""
    start = time.perf_counter()
    package, manifest = package_from_engine(engine), read_manifest(engine)
    with tempfile.TemporaryDirectory(prefix="srtool-") as name:
        record = Record(asked, Path(name), asked.shard)
        origin = Origin(engine, manifest.model.weights_sha256 if manifest else "", work.options)
        wanted: list[Item] = []
        yield from _told(asked, origin, record, work, wanted, summary)
        try:
            with connected(cluster):
                for item, event in upscale_on_cluster(wanted, package, work, cluster):
                    _count(event, summary)
                    key = item.target if asked.results else record.index.key(Path(item.target))
                    if event.kind == "done":
                        record.index.add(origin.entry(key))
                    elif event.kind == "failed":
                        record.index.add(Entry(key, failed=event.message))
                    yield event
                    record.save()
        finally:
            record.index.close()
            record.save(is_end=True)
            summary.seconds["total"] = time.perf_counter() - start


def _told(
    asked: Asked,
    origin: Origin,
    record: Record,
    work: Work,
    wanted: list[Item],
    summary: Summary,
) -> Iterator[Event]:
    """Fills `wanted`; an event for each item that is not."""
    overwrite = work.options.overwrite
    for item, verdict, message in sorted_out(asked, origin, record.index, overwrite):
        if verdict == "wanted":
            wanted.append(item)
            continue
        event = Event(Job(Path(item.source), Path(item.target)), verdict, message)
        _count(event, summary)
        yield event


def _count(event: Event, summary: Summary) -> None:
    summary.files += event.kind == "done"
    summary.skipped += event.kind == "skipped"
    summary.other += event.kind == "other"
    summary.failed += event.kind == "failed"
    summary.pixels_in += event.pixels_in
    summary.pixels_out += event.pixels_out
