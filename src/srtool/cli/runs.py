"""The runs of `srtool infer`: over pictures of this machine, over what lies in object storage, and
by the machines of a cluster; and what is seen of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import typer

from srtool.cli import console
from srtool.cli.console import answer, complain, line_of, needing, say
from srtool.cluster.connection import Cluster
from srtool.cluster.items import Asked
from srtool.cluster.pool import Work, doubt, fetched_engine
from srtool.cluster.run import upscale_by_many, upscale_stored
from srtool.cluster.storage import is_url
from srtool.errors import SrtoolError
from srtool.models import engine_path
from srtool.runtime.engine import Engine
from srtool.runtime.events import Event, Summary
from srtool.runtime.folder import upscale_images
from srtool.runtime.forecast import LOOKED_AT, Forecast, Outlook, forecast, outlook
from srtool.runtime.index import Index, Status
from srtool.runtime.inputs import Inputs, Job
from srtool.runtime.upscaling import Options
from srtool.runtime.watching import arriving

LOG_EVERY = 30.0  # seconds
SHOWN = 5  # lines of a kind


def introduce(engine: Engine) -> None:
    """Say what runs, and where it is not certified, why."""
    say(f"{engine.path} on {engine.backend} ({engine.reason})")
    if line := doubt(engine):
        complain(line)


@dataclass
class FolderRun:
    """An engine at work on pictures of this machine. index: of the folder of results, where there
    is one."""

    engine: Engine
    options: Options
    index: Index | None
    summary: Summary = field(default_factory=Summary)

    def upscale(self, jobs: list[Job], named: bool = False) -> None:
        """Upscale them with a progress bar. named: each one is told of when it is done."""
        with Progress(len(jobs)) as shown:
            events = upscale_images(
                jobs, self.engine, self.options, self.summary, self.index, shown.on_tile
            )
            with closing(events):
                for event in events:
                    if named and event.kind == "done":
                        line = f"{event.job.source} -> {event.job.target}"
                        event = replace(event, message=line)
                    shown.on_event(event)

    def watch(self, look: Callable[[], Inputs]) -> None:
        """Upscale what comes until an interrupt, which is the way to end it."""
        try:
            for jobs in arriving(look, say):
                self.upscale(jobs, named=True)
        except KeyboardInterrupt:
            say("no longer watching")

    def say_what_it_takes(self, jobs: list[Job]) -> None:
        """A line before a long run."""
        step = max(1, len(jobs) // LOOKED_AT)
        looked_at = list(outlook(jobs[::step], self.engine, self.options, self.index))
        found = forecast(looked_at, len(jobs), self.engine, self.options, always=False)
        if found:
            say(f"{'about ' if step > 1 else ''}{_line(found)}")

    def foretell(self, jobs: list[Job], as_json: bool) -> None:
        """Print what would become of each picture, and what the run would take; ends the command
        with 1 where not all would be done."""
        looked_at = []
        for each in outlook(jobs, self.engine, self.options, self.index):
            looked_at.append(each)
            if not as_json:
                answer(_line_of(each))
        found = forecast(looked_at, len(jobs), self.engine, self.options, always=True)
        assert found is not None
        kinds = [each.event.kind for each in looked_at if each.event]
        counts = {kind: kinds.count(kind) for kind in ("skipped", "other", "failed")}
        if as_json:
            answer(json.dumps({**asdict(found), **counts}))
        else:
            passed = [f"{count} {kind}" for kind, count in counts.items() if count]
            answer("; ".join([_line(found), *passed]))
        if counts["failed"] or counts["other"]:
            raise typer.Exit(1)


def upscale_elsewhere(
    asked: Asked,
    engine: str | None,
    work: Work,
    cluster: Cluster | None,
    as_json: bool,
) -> None:
    """Upscale what lies in object storage, or, where there is a cluster, on its machines. Ends the
    command with 1 where not everything was done."""
    for note in asked.notes:
        say(note)
    path = fetched_engine(engine) if engine and is_url(engine) else engine_path(engine)
    summary = Summary()
    with ExitStack() as stack:
        events: Generator[Event, None, None]
        if cluster is None:
            opened = stack.enter_context(work.open(path))
            introduce(opened)
            events, where = upscale_stored(asked, opened, work, summary), str(opened.backend)
        else:
            stack.enter_context(needing("ray"))
            events = upscale_by_many(asked, path, work, cluster, summary)
            where = f"Ray cluster {cluster.address}"
        with (
            summed_up(summary, asked.out, path, where, as_json),
            Progress(len(asked.items)) as shown,
            closing(events),
        ):
            for event in events:
                shown.on_event(event)


@contextmanager
def summed_up(
    summary: Summary, out: str | None, engine: Path, backend: str, as_json: bool
) -> Iterator[None]:
    """Print what a run did, however it ends; ends the command with 1 where not everything was
    done. out: None prints nothing."""
    try:
        yield
    except SrtoolError:
        if summary == Summary(seconds=summary.seconds):  # nothing was begun
            out = None
        raise
    except KeyboardInterrupt:
        complain(f"interrupted after {summary.files} images; the same command continues")
        raise
    finally:
        if out is not None:
            _print_summary(summary, out, engine, backend, as_json)
    if summary.failed or summary.other:
        raise typer.Exit(1)


def _print_summary(summary: Summary, out: str, engine: Path, backend: str, as_json: bool) -> None:
    """The last line."""
    if as_json:
        line: dict[str, Any] = {
            "files": summary.files,
            "skipped": summary.skipped,
            "other": summary.other,
            "failed": summary.failed,
            "pixels_in": summary.pixels_in,
            "pixels_out": summary.pixels_out,
            "seconds": {key: round(value, 4) for key, value in summary.seconds.items()},
            "engine": str(engine),
            "backend": backend,
        }
        answer(json.dumps(line))
        return
    if console.is_quiet():
        return
    parts = [f"{summary.files} upscaled"]
    parts += [f"{summary.skipped} skipped (exist already)"] if summary.skipped else []
    other = "exist from another engine or other options; --overwrite redoes them"
    parts += [f"{summary.other} not done ({other})"] if summary.other else []
    parts += [f"{summary.failed} failed"] if summary.failed else []
    seconds = summary.seconds["total"]
    rate = summary.pixels_in / 1e6 / seconds if seconds else 0.0
    answer(f"{', '.join(parts)} in {seconds:.1f} s ({rate:.3f} LR megapixels/s) -> {out}")


def print_status(status: Status, as_json: bool) -> None:
    """The answer of --status; ends the command with 1 where not everything is done."""
    for line in status.failures:
        say(line)
    count, done, failed = status.count, status.done, len(status.failures)
    missing = count - done - failed
    if as_json:
        answer(json.dumps({"done": done, "missing": missing, "failed": failed, "count": count}))
    else:
        answer(f"{done} done, {missing} missing, {failed} failed of {count}")
    if done < count:
        raise typer.Exit(1)


class Progress:
    """A bar over files and, where one takes long, its tiles; problems are printed above it as they
    come. A log gets the problems, and a line every LOG_EVERY seconds."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        terminal = Console(stderr=True, soft_wrap=True, highlight=False)
        self._is_drawn = console.is_drawn(terminal)
        self._done, self._total, self._others = 0, total, 0
        self._started = self._said = time.monotonic()
        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Bar(*columns, console=terminal, transient=True, disable=not self._is_drawn)
        self._task = self._bar.add_task("upscaling", total=total)
        self._tiles = self._bar.add_task("tiles", total=1, visible=False)

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()
        if self._others > SHOWN:
            say(f"... and {self._others - SHOWN} more files of another engine or other options")

    def on_event(self, event: Event) -> None:
        """Show what happened to an image."""
        self._others += event.kind == "other"
        line = line_of(event.error) if event.error else event.message
        if line and (event.kind != "other" or self._others <= SHOWN):
            (complain if event.kind in ("failed", "other") else say)(line)
        if event.kind != "note":
            self._done += 1
            self._started = time.monotonic()
            self._bar.advance(self._task)
            self._bar.update(self._tiles, visible=False)

    def on_tile(self, job: Job, done: int, count: int) -> None:
        """Show how far an image is."""
        now = time.monotonic()
        if self._is_drawn:
            slow = count > 1 and now - self._started > 1
            self._bar.update(self._tiles, completed=done, total=count, visible=slow)
        elif now - self._said > LOG_EVERY:
            self._said = now
            say(f"{self._done} of {self._total} images, {job.source}: {done} of {count} tiles")


def _line_of(each: Outlook) -> str:
    event, size, made = each.event, each.size, each.made
    if event and event.error:
        return line_of(event.error)
    if size is None or made is None:
        message = event.message if event else ""
        return message or f"{each.job.target}: exists already"
    note = f" ({event.message})" if event else ""
    (width, height), (wide, high) = size, made
    return f"{each.job.source} {width}x{height} -> {each.job.target} {wide}x{high}{note}"


def _line(found: Forecast) -> str:
    if not found.files:
        return "nothing to upscale"
    pictures = "1 picture" if found.files == 1 else f"{found.files:,} pictures"
    taken = "how long it takes is not known, as none of those that were tried can be read"
    if found.seconds is not None and found.bytes is not None:
        taken = f"about {_duration(found.seconds)} and {_bytes(found.bytes)} on the disk"
    return (
        f"{pictures}, {found.pixels_out / 1e6:,.0f} output megapixels: {taken}; the disk has "
        f"{_bytes(found.free)} free"
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"


def _bytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count > 1e9 else f"{count / 1e6:,.0f} MB"
