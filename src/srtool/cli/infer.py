"""`srtool infer`: engine and images -> upscaled images."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import typer

from srtool.cli import console
from srtool.cli.console import needing, say
from srtool.cli.options import Backend, DeviceOption, RunPrecision, shard_from_text
from srtool.errors import ImageError, UsageError

PIPE = "-"
LOSSY = frozenset({".jpg", ".jpeg", ".webp", ".avif"})


def names_from(incomplete: str) -> list[str]:
    """Names of networks that the shell completes a word to."""
    from srtool.models import model_names

    return [name for name in model_names() if name.startswith(incomplete)]


def infer(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Files, folders or patterns, or a URL such as s3://b/in; - is standard input to "
            "standard output."
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="A network that ships (`srtool models`; the first by default), or an .onnx or "
            ".plan file; .pth runs the PyTorch reference.",
            autocompletion=names_from,
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--out",
            help="Output folder or URL, or file for a single input. (default: upscaled)",
        ),
    ] = None,
    backend: Annotated[Backend, typer.Option()] = "auto",
    precision: Annotated[
        RunPrecision, typer.Option(help="auto never goes below faithful.")
    ] = "auto",
    fallback: Annotated[
        str | None,
        typer.Option(
            help="What runs where a plan cannot: onnxruntime, on the file that the plan was made "
            "of, or the path of an .onnx file."
        ),
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(
            min=16, help="Tile side in input pixels, with halo (default: the plan's own, or 256)."
        ),
    ] = None,
    halo: Annotated[
        int | None, typer.Option(min=0, help="Overlap at tile edges (default: the engine's).")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of the engine (default: all cores).")
    ] = None,
    device: DeviceOption = None,
    range_: Annotated[
        int | None,
        typer.Option("--range", help="White in a foreign .onnx file: 1 or 255 (default: tried)."),
    ] = None,
    output: Annotated[
        str, typer.Option(help="Which output of a foreign .onnx file is the image.")
    ] = "",
    scale: Annotated[
        float | None, typer.Option(help="Sides of the result against the input's: 2, 1.5, 8.")
    ] = None,
    width: Annotated[int | None, typer.Option(help="Of the result, in pixels.")] = None,
    height: Annotated[int | None, typer.Option(help="Of the result, in pixels.")] = None,
    long_side: Annotated[int | None, typer.Option(help="Of the result, in pixels.")] = None,
    fit: Annotated[str | None, typer.Option(help="WxH: as large as fits into this box.")] = None,
    megapixels: Annotated[float | None, typer.Option(help="Of the result.")] = None,
    list_: Annotated[
        Path | None, typer.Option("--list", help="A file of names, one a line; - is a pipe.")
    ] = None,
    suffix: Annotated[str, typer.Option(help="Added to each file's name.")] = "",
    format: Annotated[
        Literal["png", "jpg", "webp", "tif", "avif"] | None,
        typer.Option(help="Output format (default: the input's own)."),
    ] = None,
    quality: Annotated[
        int | None, typer.Option(min=1, max=100, help="Of JPEG, WebP and AVIF.")
    ] = None,
    depth: Annotated[
        int | None, typer.Option(min=8, max=8, help="8: write 16-bit images with 8 bits.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Redo existing outputs.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Stay, and upscale what comes into the folders.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be made, and what it takes.")
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(help="I/N: only the images that fall to part I of N, for job arrays."),
    ] = None,
    status: Annotated[
        bool, typer.Option("--status", help="Only say how many are done, missing and failed.")
    ] = False,
    cluster: Annotated[
        str | None,
        typer.Option(help="Ray cluster that works: local, auto or ray://host:port."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Of the cluster (default: as many as it can hold).")
    ] = None,
    gpus_per_worker: Annotated[
        float, typer.Option(min=0, help="Of the cluster, also a share of one.")
    ] = 0.0,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Refuse inputs that claim more pixels.")
    ] = 1 << 28,
    require_certified: Annotated[
        bool, typer.Option("--require-certified", help="Refuse an engine that is not.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON summary line.")] = False,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", help="Print nothing but what goes wrong.")
    ] = False,
) -> None:
    """Upscale images. Existing outputs are skipped, so an interrupted run can be repeated."""
    from srtool.cli import runs
    from srtool.cluster.pool import Work
    from srtool.cluster.storage import is_url, without_scheme
    from srtool.images.picture import Size
    from srtool.runtime.foreign import Foreign
    from srtool.runtime.index import Index, lies_at, status_of
    from srtool.runtime.inputs import Inputs, Job, check_writable, jobs_from_inputs
    from srtool.runtime.upscaling import Options

    if quiet:
        console.be_quiet(True)
    asked = (scale, width, height, long_side, _box(fit) if fit else None, megapixels)
    size = None if all(each is None for each in asked) else Size(*asked)
    part = shard_from_text(shard) if shard else None
    named = [without_scheme(text) for text in (*(inputs or ()), *(_listed(list_) if list_ else ()))]
    if not named:
        raise UsageError("nothing is named to upscale; expected files, folders or patterns")
    if status and dry_run:
        raise UsageError("status says what is done; leave out dry_run", parameter="status")
    given = {"out": out, "suffix": suffix, "shard": shard, "list": list_, "overwrite": overwrite}
    _check_pipe(named, given)
    out = without_scheme(out or "upscaled")
    engine = without_scheme(engine) if engine else None
    options = Options(tile, halo, depth, quality, overwrite, max_pixels, size)
    if range_ not in (None, 1, 255):
        raise UsageError(f"{range_}: expected 1 or 255", parameter="range", found=str(range_))
    told = Foreign(None if range_ is None else 255 if range_ == 255 else 1, output)
    work = Work(
        backend,
        precision,
        fallback,
        threads,
        device,
        options,
        foreign=told,
        require_certified=require_certified,
    )
    if watch:
        _check_watched(named, status or dry_run)
    if not cluster and (workers or gpus_per_worker):
        raise UsageError(
            "workers are of a cluster, and none is named",
            parameter="workers" if workers else "gpus_per_worker",
            remedy={"cluster": "local"},
        )
    if cluster or any(map(is_url, (*named, out, engine or ""))):
        from srtool.cluster.connection import Cluster
        from srtool.cluster.items import items_from_inputs
        from srtool.cluster.run import status_of_asked

        if watch or dry_run:
            raise UsageError(
                "what lies in object storage, or is for a cluster, is neither watched nor foretold",
                parameter="watch" if watch else "dry_run",
            )
        if cluster and device is not None:
            raise UsageError("a cluster gives its workers their GPUs", parameter="device")
        pool = Cluster(cluster, workers, threads or 1, gpus_per_worker) if cluster else None
        with needing("cloud"):
            there = items_from_inputs(named, out, suffix, format, part)
        _check_quality(quality, [item.target for item in there.items])
        if status:
            runs.print_status(status_of_asked(there), as_json)
        else:
            runs.upscale_elsewhere(there, engine, work, pool, as_json)
        return
    feeding = ExitStack()
    if named == [PIPE]:
        if as_json or status or dry_run:
            raise UsageError("the image goes to standard output, which nothing else can use")
        found = Inputs([Job(*feeding.enter_context(_piped(format)))])
    else:
        look = partial(jobs_from_inputs, named, Path(out), suffix, format, part, watching=watch)
        found = look()
    jobs = found.jobs
    _check_quality(quality, [job.target for job in jobs])
    index = Index(found.folder, part) if found.folder else None
    if status:
        lying = ((index.key(job.target) if index else "", lies_at(job.target)) for job in jobs)
        runs.print_status(status_of(lying, index), as_json)
        return
    for note in () if watch else found.notes:
        say(note)
    with feeding, work.open(engine) as opened:
        check_writable(jobs, found.folder, is_made=not dry_run)
        runs.introduce(opened)
        run = runs.FolderRun(opened, options, index)
        if dry_run:
            run.foretell(jobs, as_json)
            return
        shown = None if named == [PIPE] else out
        with (
            runs.summed_up(run.summary, shown, opened.path, str(opened.backend), as_json),
            closing(index) if index else nullcontext(),
        ):
            if watch:
                say(f"watching {', '.join(named)}; Ctrl-C ends it")
                run.watch(look)
            else:
                if found.folder and not console.is_quiet():
                    run.say_what_it_takes(jobs)
                run.upscale(jobs)


def _check_pipe(named: list[str], given: Mapping[str, object]) -> None:
    """UsageError for what counts for nothing where the image of standard input goes to standard
    output, and for half of that."""
    if given["out"] == PIPE or (PIPE in named and len(named) > 1):
        raise UsageError(
            "standard input and output are for one image: srtool infer - < in.png > out.png",
            parameter="out" if given["out"] == PIPE else "",
        )
    for parameter, value in given.items() if named == [PIPE] else ():
        if value:
            raise UsageError(
                "the image of standard input goes to standard output: srtool infer - < in.png > "
                "out.png",
                parameter=parameter,
                found=str(value),
            )


def _check_quality(quality: int | None, targets: Sequence[str | Path]) -> None:
    """UsageError where there are results and none of them has a quality."""
    suffixes = {Path(target).suffix.lower() for target in targets}
    if quality is not None and suffixes and not suffixes & LOSSY:
        raise UsageError(
            f"no result has a quality: all are {', '.join(sorted(suffixes))}; expected one of "
            f"{', '.join(sorted(LOSSY))}",
            parameter="quality",
            found=str(quality),
        )


def _box(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise UsageError(
            f"{text}: expected WxH, like 1920x1080",
            parameter="fit",
            found=text,
            expected="WxH",
        )
    return int(width), int(height)


def _check_watched(named: list[str], only_told: bool) -> None:
    """UsageError where there is nothing to watch, or nothing is to be done."""
    import glob

    for text in named:
        if not (glob.has_magic(text) or Path(text).is_dir()):
            raise UsageError(
                f"{text}: is no folder that could be watched, expected a folder or a pattern",
                path=text,
                parameter="watch",
            )
    if only_told:
        raise UsageError(
            "watching upscales what comes; leave out status and dry_run", parameter="watch"
        )


def _listed(path: Path) -> list[str]:
    """The lines of a file of names, whatever their encoding, empty ones left out; "-" is standard
    input."""
    try:
        content = _standard("input").read() if str(path) == PIPE else path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path}: no list of files can be read from it ({error.strerror})",
            path=path,
            parameter="list",
        ) from None
    if b"\0" in content:
        raise UsageError(
            f"{path}: is no list of files, expected text with a name on each line",
            path=path,
            parameter="list",
        )
    return [name for line in content.split(b"\n") if (name := os.fsdecode(line.rstrip(b"\r")))]


def _standard(name: Literal["input", "output"]) -> BinaryIO:
    """Standard input or output, of bytes. UsageError where whoever started this closed it."""
    stream = sys.stdin if name == "input" else sys.stdout
    if stream is None:
        raise UsageError(f"standard {name} is closed, and the image goes through it")
    return stream.buffer


@contextmanager
def _piped(format: str | None) -> Iterator[tuple[Path, Path]]:
    """An image from standard input as a file, and the file whose content goes to standard output
    when the block has made it. format: of the result, default the input's own."""
    from srtool.files import private_folder
    from srtool.images.formats import HEAD, suffix_of
    from srtool.images.reading import ImageFile

    with private_folder() as folder:
        source = folder / "stdin"
        written = _standard("output")
        content = _standard("input").read()
        source.write_bytes(content)
        try:
            ImageFile(source).close()  # what is no image ends the command here
        except ImageError as error:
            raise ImageError(str(error).replace(str(source), "standard input")) from None
        suffix = f".{format}" if format else suffix_of(content[:HEAD])
        target = folder / "out" / f"stdout{suffix}"
        yield source, target
        if target.is_file():
            written.write(target.read_bytes())
            written.flush()
