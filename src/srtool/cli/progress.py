"""What the user sees: progress bars, tables and lines. Standard output is kept for results;
everything else goes to standard error. rich is imported when something is drawn."""

from __future__ import annotations

import datetime
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from srtool.cli import line_of
from srtool.errors import EngineError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from srtool.benchmarks.evaluate import Progress as Scored
    from srtool.export.onnx import Written
    from srtool.runtime.engine import Engine
    from srtool.runtime.events import Event, Summary
    from srtool.runtime.index import Status
    from srtool.runtime.inputs import Job
    from srtool.train.data.packed import Progress as Packing
    from srtool.train.loop import Progress


LOG_EVERY = 30.0  # seconds
TRAINING_LOG_EVERY = 60.0
SHOWN = 5  # lines of a kind
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code != 10}


def plain(text: str) -> str:
    """Without control characters: names of files may hold what moves a terminal's cursor."""
    return text.translate(_CONTROLS)


_quiet = False  # of the process, as its standard error is


def be_quiet(wanted: bool) -> None:
    """Whether bars, spinners and what is said by `say` are left out from now on."""
    global _quiet
    _quiet = wanted


def is_quiet() -> bool:
    """Whether nothing is said but what goes wrong."""
    return _quiet


def say(text: str) -> None:
    """A line for the user: what is being done, and why so."""
    if not _quiet:
        complain(text)


def complain(text: str) -> None:
    """A line that is needed even where all is to be quiet: what went wrong."""
    print(plain(text), file=sys.stderr, flush=True)  # noqa: T201


def _is_drawn(console: Console) -> bool:
    return console.is_terminal and not _quiet


def answer(text: str) -> None:
    """A line of the result."""
    print(plain(text), flush=True)  # noqa: T201


def print_summary(
    summary: Summary, out: str | Path, engine: str | Path, backend: str, as_json: bool
) -> None:
    """The last line of `srtool infer`."""
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
    if _quiet:
        return
    parts = [f"{summary.files} upscaled"]
    parts += [f"{summary.skipped} skipped (exist already)"] if summary.skipped else []
    other = "exist from another engine or other options; --overwrite redoes them"
    parts += [f"{summary.other} not done ({other})"] if summary.other else []
    parts += [f"{summary.failed} failed"] if summary.failed else []
    seconds = summary.seconds["total"]
    rate = summary.pixels_in / 1e6 / seconds if seconds else 0.0
    answer(f"{', '.join(parts)} in {seconds:.1f} s ({rate:.3f} LR megapixels/s) -> {out}")


def print_status(status: Status) -> None:
    """The answer of --status; ends the command with 1 where not everything is done."""
    for line in status.failures:
        say(line)
    count, done, failed = status.count, status.done, len(status.failures)
    answer(f"{done} done, {count - done - failed} missing, {failed} failed of {count}")
    if done < count:
        raise typer.Exit(1)


def introduce(engine: Engine, require_certified: bool) -> None:
    """Say what runs, and whether it is certified; EngineError where it is not and has to be."""
    say(f"{engine.path} on {engine.backend} ({engine.reason})")
    if engine.uncertified_reason:
        line = f"{engine.path}: is not certified: {engine.uncertified_reason}"
        if require_certified:
            raise EngineError(line, path=engine.path)
        complain(line)


def print_written(written: list[Written], reference: str = "PyTorch FP32") -> None:
    """The table of `srtool export`: each file on each backend against the reference."""
    from rich.console import Console
    from rich.table import Table

    table = Table("file", "backend", "max", "mean", "PSNR", "dPSNR-Y", "grade", box=None)
    for item in written:
        for name, found in item.manifest.fidelity.items():
            table.add_row(
                item.path.name,
                name,
                str(found.max_difference),
                f"{found.mean_difference:.5f}",
                f"{found.psnr_between:.1f} dB" if found.psnr_between else "equal",
                "" if found.delta_psnr is None else f"{found.delta_psnr:+.4f}",
                found.grade,
            )
    Console().print(f"Difference to {reference}, in levels of 0..255:", table, sep="\n")
    for item in written:
        answer(f"{item.path}  {item.path.stat().st_size / 1e6:.1f} MB")
        for name, reason in item.manifest.fails.items():
            say(f"{item.path}: does not run on {name} ({reason})")
    for name, count in written[-1].rewrites.items() if written else ():
        say(f"{name}: {count}")


@contextmanager
def status(start: str) -> Iterator[Callable[[str], None]]:
    """A spinner whose text the stage updates; plain lines where there is no terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if not _is_drawn(console):
        yield say
        return
    with console.status(start) as spinner:
        yield lambda line: spinner.update(f"{start}: {line}")


class InferenceProgress:
    """A bar over files and, where one takes long, its tiles; problems are printed above it as they
    come. A log gets the problems, and a line every LOG_EVERY seconds."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        self._console = Console(stderr=True, soft_wrap=True, highlight=False)
        self._done, self._total, self._others = 0, total, 0
        self._started = self._said = time.monotonic()
        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar: Any = None
        if _is_drawn(self._console):
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task("upscaling", total=total)
            self._tiles = self._bar.add_task("tiles", total=1, visible=False)

    def __enter__(self) -> InferenceProgress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar:
            self._bar.stop()
        if self._others > SHOWN:
            say(f"... and {self._others - SHOWN} more files of another engine or other options")

    def on_event(self, event: Event) -> None:
        """Show what happened to an image."""
        self._others += event.kind == "other"
        line = line_of(event.error) if event.error else event.message
        if line and (event.kind != "other" or self._others <= SHOWN):
            if self._bar:
                self._console.print(plain(line), markup=False)
            else:
                (complain if event.kind in ("failed", "other") else say)(line)
        if event.kind != "note":
            self._done += 1
            self._started = time.monotonic()
            if self._bar:
                self._bar.advance(self._task)
                self._bar.update(self._tiles, visible=False)

    def on_tile(self, job: Job, done: int, count: int) -> None:
        """Show how far an image is."""
        now = time.monotonic()
        if self._bar:
            slow = count > 1 and now - self._started > 1
            self._bar.update(self._tiles, completed=done, total=count, visible=slow)
        elif now - self._said > LOG_EVERY:
            self._said = now
            say(f"{self._done} of {self._total} images, {job.source}: {done} of {count} tiles")


@contextmanager
def training_progress() -> Iterator[Callable[[Progress], None]]:
    """A progress bar over the steps of a stage; a line for each validation and each warning. A log
    gets a line a minute: the step, its rates and losses, and how long it will take."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=_quiet)
    text = TextColumn("loss {task.fields[loss]:.4f}  lr {task.fields[rate]:.1e}")
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), text, TimeRemainingColumn())
    bar = Bar(*columns, console=console)
    tasks: dict[str, TaskID] = {}
    spent = waited = 0.0
    said, steps = time.monotonic(), 0  # since then, of this stage

    def report(done: Progress) -> None:
        nonlocal spent, waited, said, steps
        loss = done.losses.get("total", math.nan)  # none while discriminators warm up
        if not tasks:  # nothing is drawn before the first step: bad input is one line
            bar.start()
        if done.stage not in tasks:
            tasks[done.stage] = bar.add_task(
                done.stage, total=done.steps, loss=loss, rate=done.learning_rate
            )
            said, steps = time.monotonic(), -1  # this one began earlier
        bar.update(tasks[done.stage], completed=done.step, loss=loss, rate=done.learning_rate)
        steps += 1
        if not console.is_terminal and (passed := time.monotonic() - said) > TRAINING_LOG_EVERY:
            left = datetime.timedelta(seconds=round((done.steps - done.step) * passed / steps))
            losses = ", ".join(f"{name} {value:.4g}" for name, value in done.losses.items())
            console.print(
                f"{done.stage} step {done.step} of {done.steps}: {steps / passed:.3g} steps/s, "
                f"{left} left, learning rate {done.learning_rate:.2e}, {losses}"
            )
            said, steps = time.monotonic(), 0
        spent, waited = spent + done.seconds, waited + done.waited
        if done.validation is None:
            return
        scores = {"PSNR-Y": done.validation.psnr_y, **done.validation.scores}
        figures = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
        console.print(
            f"{done.stage} step {done.step}: {figures}, loss {loss:.4f}, "
            f"{waited / spent:.1%} of the time waiting for data"
        )
        for warning in warnings_of(done.validation):
            console.print(f"warning: {warning}", style="yellow", markup=False)

    try:
        from srtool.train.validation import warnings_of

        yield report
    finally:
        if tasks:
            bar.stop()


@contextmanager
def packing_progress() -> Iterator[Callable[[Packing], None]]:
    """A progress bar over photographs."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    columns = ("packing", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not _is_drawn(console)) as bar:
        task = bar.add_task("", total=None)
        yield lambda done: bar.update(task, completed=done.done, total=done.count)


@contextmanager
def evaluation_progress() -> Iterator[Callable[[Scored], None]]:
    """A progress bar over upscaled and scored images; problems are printed above it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    columns = ("scoring", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    quiet = not _is_drawn(console)
    with Progress(*columns, console=console, transient=True, disable=quiet) as bar:
        task = bar.add_task("", total=None)

        def report(event: Scored) -> None:
            bar.update(task, completed=event.done, total=event.total)
            if event.message:
                console.print(event.message, markup=False)

        yield report


@contextmanager
def download_progress(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar over the bytes of one file."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (name, BarColumn(), DownloadColumn(), TimeRemainingColumn())
    quiet = not _is_drawn(console)
    with Progress(*columns, console=console, transient=True, disable=quiet) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
