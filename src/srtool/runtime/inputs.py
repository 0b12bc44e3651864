"""What the user names on the command line -> which file is read and which is written."""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from srtool.errors import UsageError
from srtool.images.formats import FORMATS, READABLE, WRITABLE


@dataclass(frozen=True)
class Job:
    """One image: where it is and where its upscaled version goes."""

    source: Path
    target: Path


def jobs_from_inputs(
    inputs: list[str], out: Path, suffix: str = "", format: str | None = None
) -> list[Job]:
    """Expand files, folders (recursive, structure kept below `out`) and glob patterns.

    format: "png", "jpg", ...; default: the source's own where it can be written, else PNG.
    `out` may name the output file itself when the input is a single file. UsageError where an
    input does not exist, nothing is found, or two images would be written to one file.
    """
    sources = [pair for text in inputs for pair in _expand(text, out)]
    if not sources:
        known = " ".join(sorted(READABLE))
        raise UsageError(f"{', '.join(inputs)}: no images found; expected files with {known}")
    if out.suffix.lower() in WRITABLE and not out.is_dir():
        if len(sources) > 1 or Path(inputs[0]).is_dir():
            raise UsageError(
                f"{out}: names one image; folders and several images go into a folder, name one "
                "with -o"
            )
        if format and FORMATS[out.suffix.lower()] != FORMATS[f".{format}"]:
            raise UsageError(f"{out}: is no {format} file; leave out --format or change the name")
        return [_checked(Job(sources[0][0], out))]
    found = [
        Job(source, _target(source, relative, out, suffix, format)) for source, relative in sources
    ]
    # Where results stand beside their sources, those of an earlier run are no sources.
    results = {job.target.resolve() for job in found} if suffix else set()
    jobs: dict[Path, Job] = {}
    for job in found:
        source, target = job.source, job.target
        if source.resolve() in results:
            continue
        other = jobs.setdefault(target, _checked(job))
        if other.source.resolve() != source.resolve():
            raise UsageError(
                f"{other.source} and {source} would both be written to {target}; "
                "upscale them into different folders with -o"
            )
    return list(jobs.values())


def _target(source: Path, relative: Path, out: Path, suffix: str, format: str | None) -> Path:
    ending = f".{format}" if format else source.suffix
    if ending.lower() not in WRITABLE:
        ending = ".png"
    return out / relative.parent / f"{relative.stem}{suffix}{ending}"


def check_writable(jobs: list[Job]) -> None:
    """UsageError, before any work is done, where an output folder cannot be made or written."""
    for folder in sorted({job.target.parent for job in jobs}):
        _check_folder(folder)


def _check_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be written to ({error.strerror}); choose another folder with -o"
        ) from None


def _expand(text: str, out: Path) -> list[tuple[Path, Path]]:
    """(source, path relative to the input) of each image that one argument names. Results of an
    earlier run, in an output folder below the input, are no sources."""
    path = Path(text)
    if path.is_dir():
        files = _images(path.rglob("*"), path, out)
        return [(file, file.relative_to(path)) for file in files]
    if path.exists():
        return [(path, Path(path.name))]
    if glob.has_magic(text):
        fixed = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts))
        files = _images(map(Path, glob.glob(text, recursive=True)), fixed, out)
        return [(file, Path(file.name)) for file in files]
    raise UsageError(f"{text}: no such file or folder")


def _images(files: Iterable[Path], top: Path, out: Path) -> list[Path]:
    skipped = out.resolve()
    below = top.resolve() in skipped.parents
    return [
        file
        for file in sorted(files)
        if _is_image(file) and not (below and skipped in file.resolve().parents)
    ]


def _is_image(path: Path) -> bool:
    # Our own unfinished files and editors' hidden ones start with a dot.
    return path.suffix.lower() in READABLE and not path.name.startswith(".") and path.is_file()


def _checked(job: Job) -> Job:
    if job.target.exists() and job.target.samefile(job.source):
        raise UsageError(
            f"{job.source}: would be overwritten by its upscaled version; "
            "choose another folder with -o, or a --suffix"
        )
    return job
