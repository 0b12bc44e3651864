"""A run whose pictures or results lie in object storage, or whose machines are a cluster."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from srtool.cluster.connection import Cluster, connected
from srtool.cluster.items import Asked, Item
from srtool.cluster.pool import Work, package_from_engine, upscale_on_cluster
from srtool.cluster.staging import Stages, upscale_staged
from srtool.files import new_owner, private_folder, remove_stale, remove_those_of
from srtool.images.folders import INDEX
from srtool.manifest import read_manifest
from srtool.runtime.engine import Engine
from srtool.runtime.events import Event, Summary
from srtool.runtime.index import Entry, Index, Origin, Shard, Status, lies_at, status_of
from srtool.runtime.inputs import Job

SAVE_EVERY = 60.0  # seconds between two copies of the index in the store
_END = 1.0  # seconds in which workers that are ended in the middle are gone


class Record:
    """The index of the results. Where these lie in a store it does so too: a copy below `scratch`
    is kept up to date, and sent there now and then and at the end of a `with` block."""

    def __init__(self, asked: Asked, scratch: Path, shard: Shard | None = None) -> None:
        folder = scratch / "out" if asked.results else Path(asked.out)
        folder.mkdir(parents=True, exist_ok=True)
        for name in asked.lying:
            if asked.results and name.startswith(INDEX) and "/" not in name:
                (folder / name).write_bytes(asked.results.read(name))
        self.index = Index(folder, shard)
        self._results, self._saved = asked.results, time.monotonic()

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *error: object) -> None:
        self.index.close()
        self._save()

    def key(self, item: Item) -> str:
        """What the index calls a result."""
        return item.target if self._results else self.index.key(Path(item.target))

    def save(self) -> None:
        """Copy the index into the store where the last copy is old."""
        if time.monotonic() - self._saved > SAVE_EVERY:
            self._save()

    def _save(self) -> None:
        path = self.index.path
        if self._results is not None and path.exists():
            self._saved = time.monotonic()
            self._results.write(path.name, path)


def status_of_asked(asked: Asked) -> Status:
    """What lies in the output folder, over all shards."""
    with private_folder() as scratch:
        record = Record(asked, scratch)

    def lies(item: Item) -> bool:
        if asked.results:
            return bool(asked.lying.get(item.target))
        return lies_at(Path(item.target))

    return status_of(((record.key(item), lies(item)) for item in asked.items), record.index)


def upscale_stored(
    asked: Asked, engine: Engine, work: Work, summary: Summary
) -> Generator[Event, None, None]:
    """Upscale on this machine, with an open engine."""
    with (
        private_folder() as scratch,
        Record(asked, scratch, asked.shard) as record,
    ):
        stages = Stages.below(scratch, asked.sources, asked.results)
        origin = Origin(engine.path, engine.facts.weights_sha256, work.options)
        wanted, overwrite = list[Item](), work.options.overwrite
        yield from _passed_over(asked, origin, record, overwrite, wanted, summary)
        jobs = (stages.job(item) for item in wanted)
        events = upscale_staged(jobs, engine, work.options, stages, summary, record.index)
        with closing(events):
            for event in events:
                if event.kind == "failed":  # in the user's names, not in those of the scratch
                    key = record.index.key(event.job.target)
                    record.index.add(Entry(key, failed=event.message))
                yield event
                record.save()


def upscale_by_many(
    asked: Asked, engine: Path, work: Work, cluster: Cluster, summary: Summary
) -> Generator[Event, None, None]:
    """Upscale on the machines of a Ray cluster. engine: a file of this machine."""
    start = time.perf_counter()
    package, manifest = package_from_engine(engine), read_manifest(engine)
    work = replace(
        work,
        owner=new_owner(),
        sources=asked.sources.url if asked.sources else "",
        results=asked.results.url if asked.results else "",
    )
    try:
        with (
            private_folder() as scratch,
            Record(asked, scratch, asked.shard) as record,
        ):
            origin = Origin(engine, manifest.model.weights_sha256 if manifest else "", work.options)
            wanted, overwrite = list[Item](), work.options.overwrite
            yield from _passed_over(asked, origin, record, overwrite, wanted, summary)
            notes: set[str] = set()  # several workers may have the same to say
            with _cleared(asked, work.owner), connected(cluster):
                for item, event in upscale_on_cluster(wanted, package, work, cluster):
                    if event.kind == "note" and event.message in notes:
                        continue
                    notes.add(event.message)
                    _count(event, summary)
                    if event.kind == "done":
                        record.index.add(origin.entry(record.key(item)))
                    elif event.kind == "failed":
                        record.index.add(Entry(record.key(item), failed=event.message))
                    yield event
                    record.save()
    finally:
        summary.seconds["total"] = time.perf_counter() - start


@contextmanager
def _cleared(asked: Asked, owner: str) -> Iterator[None]:
    """Remove what ended workers left unfinished, those of an earlier run and of this one."""
    on_disk = asked.items if asked.results is None else []
    folders = {Path(item.target).parent for item in on_disk}
    for folder in folders:
        remove_stale(folder)
    try:
        yield
    except BaseException:
        time.sleep(_END)
        raise
    finally:
        for folder in folders:
            remove_those_of(owner, folder)


def _passed_over(
    asked: Asked,
    origin: Origin,
    record: Record,
    overwrite: bool,
    wanted: list[Item],
    summary: Summary,
) -> Iterator[Event]:
    """An event for each item whose result lies there already, or is another engine's; the others
    are added to `wanted`."""
    for item in asked.items:
        entry = record.index.entries.get(record.key(item))
        difference = origin.difference(entry) if entry and not entry.failed else ""
        if asked.results:
            lies = bool(asked.lying.get(item.target))
        else:  # the worker looks whether one lies there
            lies = bool(difference) and Path(item.target).is_file()
        if overwrite or not lies:
            wanted.append(item)
            continue
        job = Job(Path(item.source), Path(item.target))
        event = Event(job, "skipped")
        if difference:
            event = Event(job, "other", f"{item.target}: exists, {difference}")
        _count(event, summary)
        yield event


def _count(event: Event, summary: Summary) -> None:
    summary.files += event.kind == "done"
    summary.skipped += event.kind == "skipped"
    summary.other += event.kind == "other"
    summary.failed += event.kind == "failed"
    summary.pixels_in += event.pixels_in
    summary.pixels_out += event.pixels_out
