"""What `srtool infer` does with pictures of this machine: it says what it would do, does it, and
goes on while pictures come."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace

import typer

from srtool.cli import line_of
from srtool.cli import progress as console
from srtool.runtime.engine import Engine
from srtool.runtime.events import Event, Summary
from srtool.runtime.folder import upscale_images
from srtool.runtime.forecast import LOOKED_AT, Forecast, forecast, outlook
from srtool.runtime.index import Index
from srtool.runtime.inputs import Inputs, Job
from srtool.runtime.upscaling import Options
from srtool.runtime.watching import arriving


@dataclass
class FolderRun:
    """An engine at work on pictures. index: of the folder of results, where there is one."""

    engine: Engine
    options: Options
    index: Index | None
    summary: Summary = field(default_factory=Summary)

    def upscale(self, jobs: list[Job], named: bool = False) -> None:
        """Upscale them with a progress bar. named: each one is told of when it is done."""
        with console.InferenceProgress(len(jobs)) as shown:
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
            for jobs in arriving(look, console.say):
                self.upscale(jobs, named=True)
        except KeyboardInterrupt:
            console.say("no longer watching")

    def say_what_it_takes(self, jobs: list[Job]) -> None:
        """A line before a long run."""
        step = max(1, len(jobs) // LOOKED_AT)
        looked_at = list(outlook(jobs[::step], self.engine, self.options, self.index))
        found = forecast(looked_at, len(jobs), self.engine, self.options, always=False)
        if found:
            console.say(f"{'about ' if step > 1 else ''}{_line(found)}")

    def foretell(self, jobs: list[Job], as_json: bool) -> None:
        """Print what would become of each picture, and what the run would take; ends the command
        with 1 where not all would be done."""
        looked_at = []
        for each in outlook(jobs, self.engine, self.options, self.index):
            looked_at.append(each)
            if not as_json:
                console.answer(_line_of(each.job, each.event, each.size, each.made))
        found = forecast(looked_at, len(jobs), self.engine, self.options, always=True)
        assert found is not None
        kinds = [each.event.kind for each in looked_at if each.event]
        counts = {kind: kinds.count(kind) for kind in ("skipped", "other", "failed")}
        if as_json:
            console.answer(json.dumps({**asdict(found), **counts}))
        else:
            passed = [f"{count} {kind}" for kind, count in counts.items() if count]
            console.answer("; ".join([_line(found), *passed]))
        if counts["failed"] or counts["other"]:
            raise typer.Exit(1)


def _line_of(
    job: Job, event: Event | None, size: tuple[int, int] | None, made: tuple[int, int] | None
) -> str:
    if event and event.error:
        return line_of(event.error)
    if size is None or made is None:
        message = event.message if event else ""
        return message or f"{job.target}: exists already"
    note = f" ({event.message})" if event else ""
    (width, height), (wide, high) = size, made
    return f"{job.source} {width}x{height} -> {job.target} {wide}x{high}{note}"


def _line(found: Forecast) -> str:
    """In a line."""
    if not found.files:
        return "nothing to upscale"
    pictures = "1 picture" if found.files == 1 else f"{found.files:,} pictures"
    return (
        f"{pictures}, {found.pixels_out / 1e6:,.0f} output megapixels: "
        f"about {_duration(found.seconds)} and {_bytes(found.bytes)} on the disk, "
        f"which has {_bytes(found.free)} free"
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"


def _bytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count > 1e9 else f"{count / 1e6:,.0f} MB"
