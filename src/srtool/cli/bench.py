"""`srtool bench`: how fast engines are, beside what people run otherwise."""

from __future__ import annotations

import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from srtool.cli import console
from srtool.cli.console import check_form, needing, say
from srtool.cli.options import DeviceOption, Format, FormatOption, WithDefault
from srtool.errors import UsageError

if TYPE_CHECKING:
    from srtool.benchmarks.speed.compare import Comparison
    from srtool.benchmarks.speed.result import Bench, Measured

bench_app = typer.Typer(
    name="bench",
    cls=WithDefault,
    help="Measure how fast engines are (`srtool bench x4.onnx`), and compare results.",
    no_args_is_help=True,
)

EXTRAS = "bench,export,cpu"


@bench_app.command("run")
def run(
    engines: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Engine files (.onnx, .plan), a server's models (grpc://HOST:8001/MODEL), or "
            "weights, which are exported first."
        ),
    ] = None,
    sizes: Annotated[
        str, typer.Option(help="WIDTHxHEIGHT of LR images, with commas.")
    ] = "256x256,480x270,960x540,1920x1080",
    batch: Annotated[str, typer.Option(help="Images in a run, with commas.")] = "1",
    seconds: Annotated[
        float, typer.Option(min=0.01, help="Of measuring, per candidate, size and batch.")
    ] = 20.0,
    processes: Annotated[
        int,
        typer.Option(
            min=1, help="Of each candidate, one after the other: a single one may be lucky."
        ),
    ] = 3,
    files: Annotated[
        int, typer.Option(min=0, help="PNG files of the end-to-end run; 0 leaves it out.")
    ] = 12,
    model: Annotated[
        list[Path] | None,
        typer.Option(help="The weights of the engines, for baselines; found if near. Repeatable."),
    ] = None,
    preset: Annotated[
        list[str] | None,
        typer.Option(help="full, fast or lite: the network with random weights. May be repeated."),
    ] = None,
    backend: Annotated[
        str, typer.Option(help="Of .onnx files: auto, all, or names with commas.")
    ] = "auto",
    baselines: Annotated[
        str, typer.Option(help="all, none, or parts of their names with commas.")
    ] = "all",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPUs that every candidate may use. (default: all)")
    ] = None,
    device: DeviceOption = None,
    scaling: Annotated[
        str,
        typer.Option(
            help="Also measure cost by size, batch, tile, threads, files, callers; with commas."
        ),
    ] = "",
    out: Annotated[Path | None, typer.Option(help="Folder, or .json file, for the result.")] = None,
    form: FormatOption = "text",
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON, not the table.")] = False,
) -> None:
    """Time engines and, in the same run and in turn, what people run otherwise.

    See also: srtool bench compare --help.
    """
    with needing(EXTRAS):
        from srtool.benchmarks.speed import bench as measuring
        from srtool.benchmarks.speed.networks import networks_from_files
        from srtool.benchmarks.speed.result import write_bench
        from srtool.files import private_folder

    check_form(form, as_json)
    if not engines and not preset:
        raise UsageError("name an engine (x4.onnx), weights, or --preset full")
    config = measuring.Config(
        sizes=sizes_from_text(sizes),
        batches=_numbers("--batch", batch),
        seconds=seconds,
        processes=processes,
        files=files,
        threads=threads,
        backends=tuple(_words(backend)),
        compared=_compared(baselines),
        scaling=_axes(scaling),
        device=measuring.device_here(),
        gpu=device,
    )
    with private_folder() as folder, console.status("bench") as report:
        found = networks_from_files(
            engines or [], model or [], preset or [], folder, report, device
        )
        result = measuring.bench(found, config, shlex.join(["srtool", *sys.argv[1:]]), report)
    if out:
        path = _target(out, result)
        write_bench(path, result)
    if as_json:
        console.answer(result.model_dump_json())
    else:
        _print_bench(result, form)
    if out:
        say(f"-> {path}")
    if result.interrupted:
        say("interrupted: the result has what was measured until then")
        raise KeyboardInterrupt


@bench_app.command("compare")
def compare(
    before: Annotated[Path, typer.Argument(help="A result of `srtool bench --out`.")],
    after: Annotated[Path, typer.Argument(help="A later one.")],
    tolerance: Annotated[
        float, typer.Option(min=0, max=1, help="Share of a speed that is no change.")
    ] = 0.03,
    form: FormatOption = "text",
) -> None:
    """Say what became faster or slower beyond the noise; exit code 1 where something did worse."""
    with needing(EXTRAS):
        from srtool.benchmarks.speed import compare as comparing
        from srtool.benchmarks.speed.result import read_bench

    found = comparing.compare(read_bench(before), read_bench(after), tolerance)
    _print_comparison(found, form)
    if found.regressions:
        raise typer.Exit(1)


def sizes_from_text(text: str) -> tuple[tuple[int, int], ...]:
    """ "480x270,960x540" -> widths and heights; UsageError for anything else."""
    found = []
    for word in _words(text):
        width, _, height = word.lower().partition("x")
        if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
            raise UsageError(f"--sizes {text}: expected WIDTHxHEIGHT, such as 480x270,960x540")
        found.append((int(width), int(height)))
    return tuple(found)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    words = _words(text)
    if not words or not all(word.isdecimal() and int(word) for word in words):
        raise UsageError(f"{option} {text}: expected numbers with commas, such as 1,4")
    return tuple(int(word) for word in words)


def _axes(text: str) -> tuple[Any, ...]:
    known = ("size", "batch", "tile", "threads", "files", "callers")
    words = _words(text)
    for word in words:
        if word not in known:
            raise UsageError(f"--scaling {word}: expected {', '.join(known)}, with commas")
    return tuple(words)


def _compared(text: str) -> tuple[str, ...] | None:
    return {"all": None, "none": ()}.get(text, tuple(_words(text)))


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _target(out: Path, result: Bench) -> Path:
    """The file itself, or one in a folder, named by what was measured, where, and when."""
    if out.suffix == ".json":
        return out
    networks = "-".join(measured.network for measured in result.networks)
    made = datetime.fromisoformat(result.made).strftime("%Y%m%d-%H%M%S")
    return out / f"speed-{networks}-{result.machine.fingerprint}-{made}.json"


def _print_bench(bench: Bench, form: Format) -> None:
    """For each network its tables, and what was not run."""
    from srtool.benchmarks.report.timings import machine_line, network_line, speed_tables
    from srtool.benchmarks.speed.compare import BUSY
    from srtool.tables.writers import print_line

    show = print_line if form == "text" else say
    show(machine_line(bench))
    for measured in bench.networks:
        for line in ("", network_line(measured), ""):
            show(line)
        console.print_tables(speed_tables(measured), form)
        _say_not_run(measured)
    if bench.busy is not None and bench.busy > BUSY:
        say(f"others used {bench.busy:.1f} cores when it began: only the ratios are to be trusted")


def _say_not_run(measured: Measured) -> None:
    for candidate in measured.candidates:
        for place, why in candidate.skipped.items():
            say(f"{measured.network}, {candidate.name}, not run at {place}: {why}")
    for name, why in measured.absent.items():
        say(f"{measured.network}, not run: {name}: {why}")


def _print_comparison(found: Comparison, form: Format) -> None:
    """A row per candidate and size with its verdict, and the regressions."""
    from srtool.benchmarks.report.timings import comparison_table

    console.print_tables([comparison_table(found)], form)
    undecided = sum(row.verdict in ("too few runs", "no verdict") for row in found.rows)
    without = f" ({undecided} of {len(found.rows)} rows without a verdict)" if undecided else ""
    regressions = found.regressions
    say(f"{len(regressions)} regressions{without}")
    for row in regressions:
        more = f", {row.more_memory:.2f}x the memory" if row.more_memory else ""
        say(f"  {row.network}, {row.candidate}, {row.place}: {row.ratio.median:.3f}x{more}")
