"""Pictures that lie in object storage, upscaled by the same pipeline as those on disk.

Each is fetched into a private folder some pictures before its turn, and its result is sent as a
whole when it is made; then both local files go. So the disk holds a few dozen pictures however
many there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from srtool.cluster.items import Item
from srtool.cluster.storage import Folder
from srtool.errors import ImageError, StorageError
from srtool.files import write_whole
from srtool.runtime.engine import Engine
from srtool.runtime.events import Event, Summary
from srtool.runtime.folder import upscale_images
from srtool.runtime.index import Index
from srtool.runtime.inputs import Job
from srtool.runtime.upscaling import Options

CONNECTIONS = 8


@dataclass(frozen=True)
class Stage:
    """A stored folder, and the local one in which its pictures stand while they are worked on."""

    stored: Folder
    local: Path

    def name(self, path: Path) -> str:
        """What a staged file is called in the store."""
        return path.relative_to(self.local).as_posix()


@dataclass(frozen=True)
class Stages:
    """Where sources come from and results go; None is the local disk."""

    sources: Stage | None = None
    results: Stage | None = None

    @classmethod
    def below(cls, scratch: Path, sources: Folder | None, results: Folder | None) -> Stages:
        """Stages of stored folders in a private one."""
        return cls(
            Stage(sources, scratch / "in") if sources else None,
            Stage(results, scratch / "out") if results else None,
        )

    def job(self, item: Item) -> Job:
        """An item as the pipeline knows it."""
        sources, results = self.sources, self.results
        return Job(
            sources.local / item.source if sources else Path(item.source),
            results.local / item.target if results else Path(item.target),
        )

    def line(self, text: str) -> str:
        """A message with the names that the user gave in place of staged ones."""
        for stage in (self.sources, self.results):
            if stage is not None:
                text = text.replace(str(stage.local), stage.stored.url)
        return text


def upscale_staged(
    jobs: Iterable[Job],
    engine: Engine,
    options: Options,
    stages: Stages,
    summary: Summary | None = None,
    index: Index | None = None,
) -> Generator[Event, None, None]:
    """`upscale_images` over staged jobs. An image is done when its result has arrived in the
    store: under its name there is never a part of it. What cannot be fetched or sent fails as
    that image. Results that lie in the store are the caller's to leave out."""
    summary = summary or Summary()
    problems: deque[Event] = deque()
    sending: deque[tuple[Event, Future[None]]] = deque()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        fetched = _fetched(jobs, stages, pool, problems, summary)
        events = upscale_images(fetched, engine, options, summary, index)
        try:
            for event in events:
                yield from _drained(problems)
                if event.kind == "done" and stages.results is not None:
                    sending.append((event, pool.submit(_send, event.job, stages.results)))
                else:
                    yield _named(event, stages)
                if event.kind in ("done", "failed"):
                    _forget(event.job, stages)
                while sending and (len(sending) > 2 * CONNECTIONS or sending[0][1].done()):
                    yield _sent(*sending.popleft(), stages, summary)
        finally:
            events.close()
            rest = [_sent(*each, stages, summary) for each in sending]
        yield from (*_drained(problems), *rest)


def _fetched(
    jobs: Iterable[Job],
    stages: Stages,
    pool: ThreadPoolExecutor,
    problems: deque[Event],
    summary: Summary,
) -> Iterator[Job]:
    """The jobs in their order, each when its source is here; so many are on their way."""
    todo = iter(jobs)
    coming: deque[tuple[Job, Future[None] | None]] = deque()
    while True:
        while len(coming) < CONNECTIONS and (job := next(todo, None)) is not None:
            stage = stages.sources
            coming.append((job, pool.submit(_fetch, job, stage) if stage else None))
        if not coming:
            return
        job, future = coming.popleft()
        try:
            if future is not None:
                future.result()
            yield job
        except (StorageError, OSError) as error:
            summary.failed += 1
            problems.append(_failed(job, stages.line(f"{job.source}: {error}")))


def _fetch(job: Job, stage: Stage) -> None:
    data = stage.stored.read(stage.name(job.source))
    write_whole(job.source, data)


def _send(job: Job, stage: Stage) -> None:
    stage.stored.write(stage.name(job.target), job.target)


def _sent(event: Event, sending: Future[None], stages: Stages, summary: Summary) -> Event:
    """The event of a result when it has arrived, or why it did not."""
    try:
        sending.result()
    except (StorageError, OSError) as error:
        summary.files -= 1
        summary.failed += 1
        return _failed(event.job, stages.line(f"{event.job.target}: {error}"))
    finally:
        with suppress(OSError):
            event.job.target.unlink()
    return event


def _named(event: Event, stages: Stages) -> Event:
    """An event in the names that the user knows."""
    message, error = stages.line(event.message), event.error
    if error is not None:
        error = ImageError(message, parameter=error.parameter, remedy=error.remedy)
    return replace(event, message=message, error=error)


def _failed(job: Job, message: str) -> Event:
    return Event(job, "failed", message, error=ImageError(message))


def _forget(job: Job, stages: Stages) -> None:
    if stages.sources is not None:
        with suppress(OSError):
            job.source.unlink()


def _drained(events: deque[Event]) -> Iterator[Event]:
    while events:
        yield events.popleft()
