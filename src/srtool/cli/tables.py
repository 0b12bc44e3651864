"""Results of commands as tables: on the terminal, or as text for a document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from srtool.cli.choices import FormatChoice
from srtool.cli.progress import answer, say
from srtool.tables.table import Table, table_of_texts
from srtool.tables.writers import print_line, print_table, text_of

if TYPE_CHECKING:
    from srtool.benchmarks.speed.compare import Comparison
    from srtool.benchmarks.speed.result import Bench, Measured
    from srtool.benchmarks.verify import Verification
    from srtool.export.tensorrt.gpus import Gpu
    from srtool.train.estimate import Cost, Estimate

# Of a GPU's peak, what a training may reach: a rule of thumb. Published RRDB-23 engines reach 0.79
# in FP32 (GTX 1070 Ti) and 0.28 on tensor cores (A100), the training of `fast` on an H200 0.1.
PEAK_SHARES = {"fp32": (0.6, 0.3), "half": (0.3, 0.1)}
TENSOR_CORES = 7.0  # compute capability from which half precision is faster
ROOM = 0.9  # of its memory, beside what else is on it


def print_tables(tables: Sequence[Table], form: FormatChoice = FormatChoice.text) -> None:
    for number, table in enumerate(tables):
        if number:
            answer("")
        if form is FormatChoice.text:
            print_table(table)
        else:
            answer(text_of(table, form.value))


def print_assets() -> None:
    """Each asset, whether it is installed, and what for."""
    from srtool.archives import DATA_SETS, pictures_in
    from srtool.assets import ASSETS, cache_folder, state

    files = [(it.name, it.file, it.size, state(it), it.purpose) for it in ASSETS]
    print_table(table_of_texts(("name", "file", "size", "state", "for"), files, words=5))
    answer("")
    rows = [
        (
            it.name,
            " + ".join(archive.size or "?" for archive in it.archives),
            f"{pictures_in(it)} of {it.pictures}",
            it.purpose,
            it.licence,
        )
        for it in DATA_SETS
    ]
    columns = ("data set", "download", "pictures", "for", "licence")
    print_table(table_of_texts(columns, rows, words=5))
    say(f"in {cache_folder()}; `srtool assets fetch NAME` downloads one")


def print_verification(found: Verification, form: FormatChoice) -> None:
    """A row per engine and backend, and what bisection found."""
    from srtool.benchmarks.report.quality import verification_table

    print_tables([verification_table(found)], form)
    for mixed in found.mixed:
        if node := mixed.overflow:
            say(
                f"{mixed.source}: {node.node} ({node.operation} of {node.module}) is the first "
                "to leave the range of float16"
            )
        say(
            f"{mixed.source}: wrong in float16: {', '.join(mixed.blocks)}; {mixed.engine} keeps "
            f"{len(mixed.float32_nodes)} of {mixed.nodes} nodes in float32"
        )


def print_bench(bench: Bench, form: FormatChoice = FormatChoice.text) -> None:
    """For each network its tables, and what was not run."""
    from srtool.benchmarks.report.timings import machine_line, network_line, speed_tables
    from srtool.benchmarks.speed.compare import BUSY

    show = print_line if form is FormatChoice.text else say
    show(machine_line(bench))
    for measured in bench.networks:
        show(f"\n{network_line(measured)}\n")
        print_tables(speed_tables(measured), form)
        _say_not_run(measured)
    if bench.busy is not None and bench.busy > BUSY:
        say(f"others used {bench.busy:.1f} cores when it began: only the ratios are to be trusted")


def _say_not_run(measured: Measured) -> None:
    for candidate in measured.candidates:
        for place, why in candidate.skipped.items():
            say(f"{measured.network}, {candidate.name}, not run at {place}: {why}")
    for name, why in measured.absent.items():
        say(f"{measured.network}, not run: {name}: {why}")


def print_comparison(found: Comparison, form: FormatChoice) -> None:
    """A row per candidate and size with its verdict, and the regressions."""
    from srtool.benchmarks.report.timings import comparison_table

    print_tables([comparison_table(found)], form)
    undecided = sum(row.verdict in ("too few runs", "no verdict") for row in found.rows)
    without = f" ({undecided} of {len(found.rows)} rows without a verdict)" if undecided else ""
    regressions = found.regressions
    say(f"{len(regressions)} regressions{without}")
    for row in regressions:
        more = f", {row.more_memory:.2f}x the memory" if row.more_memory else ""
        say(f"  {row.network}, {row.candidate}, {row.place}: {row.ratio.median:.3f}x{more}")


def print_costs(found: list[Cost], gpu: Gpu, precision: str) -> None:
    """The table of `srtool train --dry-run --gpu-class`."""
    narrow = precision != "fp32" and float(gpu.compute) >= TENSOR_CORES
    shares = PEAK_SHARES["half" if narrow else "fp32"]
    peak = (gpu.fp16 if narrow else gpu.fp32) * 1e12
    rows = _cost_rows(found)
    rows += [
        (
            f"duration at {share:.0%} of the peak",
            *(_duration(it.steps * it.flops / peak / share) for it in found),
        )
        for share in shares
    ]
    print_table(table_of_texts(("", *(item.stage for item in found)), rows))
    total = sum(item.steps * item.flops for item in found)
    low, high = (_duration(total / peak / share) for share in shares)
    say(f"together {total:.3g} FLOP, {low} to {high} on one {gpu.name} at {peak / 1e12:g} TFLOP/s")
    needed = max(item.peak for item in found)
    if needed > ROOM * gpu.memory * 1e9:
        say(
            f"{needed / 1e9:.1f} GB do not fit into its {gpu.memory} GB: raise accumulate in the "
            "recipe, which divides what is kept for the backward passes"
        )


def _cost_rows(found: list[Cost]) -> list[tuple[str, ...]]:
    names = dict.fromkeys(name for item in found for name in item.parameters)
    rows = [
        (
            f"parameters, {name.replace('_', ' ')}",
            *(f"{it.parameters.get(name, 0):,}" for it in found),
        )
        for name in names
    ]
    rows += [
        ("steps", *(f"{item.steps:,}" for item in found)),
        ("TFLOP a step", *(f"{item.flops / 1e12:.3g}" for item in found)),
        ("weights, gradients, moments", *(f"{item.lasting / 1e9:.2f} GB" for item in found)),
        ("kept for backward passes", *(f"{item.saved / 1e9:.2f} GB" for item in found)),
        ("most in a step, about", *(f"{item.peak / 1e9:.2f} GB" for item in found)),
    ]
    return rows


def print_estimates(found: list[Estimate]) -> None:
    """The table of `srtool train --dry-run`."""
    rows = _cost_rows([item.cost for item in found])
    rows += [
        ("a step", *(f"{item.step_seconds:.3f} s" for item in found)),
        ("waiting for data", *(f"{item.waited:.1%}" for item in found)),
        ("duration", *(_duration(item.seconds) for item in found)),
        (
            f"peak memory on {found[0].device}",
            *(f"{item.memory / 1e9:.2f} GB" for item in found),
        ),
    ]
    print_table(table_of_texts(("", *(item.cost.stage for item in found)), rows))
    total = _duration(sum(item.seconds for item in found))
    say(f"together {total}, without validation; from 20 measured steps of each stage")


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
