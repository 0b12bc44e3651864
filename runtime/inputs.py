"""What the user names on the command line -> which file is read and which is written."""

from __future__ import annotations

import glob
import tempfile
from dataclasses import dataclass
from pathlib import Path

from srtool.errors import UsageError
from srtool.runtime.image import READABLE, WRITABLE


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
    single = len(sources) == 1 and not Path(inputs[0]).is_dir()
    if single and out.suffix.lower() in WRITABLE and not out.is_dir():
        return [_checked(Job(sources[0][0], out))]
    jobs: dict[Path, Job] = {}
    for source, relative in sources:
        ending = f".{format}" if format else source.suffix
        if ending.lower() not in WRITABLE:
            ending = ".png"
        target = out / relative.parent / f"{relative.stem}{suffix}{ending}"
        job = _checked(Job(source, target))
        other = jobs.setdefault(target, job)
        if other.source.resolve() != source.resolve():
            raise UsageError(
                f"{other.source} and {source} would both be written to {target}; "
                "upscale them into different folders with -o"
            )
    return list(jobs.values())


def check_writable(jobs: list[Job]) -> None:
    """UsageError, before any work is done, where an output folder cannot be made or written."""
    for folder in sorted({job.target.parent for job in jobs}):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise UsageError(
                f"{folder}: cannot be written to ({error.strerror}); choose another folder with -o"
            ) from None


def _expand(text: str, out: Path) -> list[tuple[Path, Path]]:
    """(source, path relative to the input) of each image that one argument names."""
    path = Path(text)
    if path.is_dir():
        skipped = out.resolve()
        return [
            (file, file.relative_to(path))
            for file in sorted(path.rglob("*"))
            if _is_image(file) and skipped not in file.resolve().parents
        ]
    if path.exists():
        return [(path, Path(path.name))]
    if glob.has_magic(text):
        matches = sorted(Path(match) for match in glob.glob(text, recursive=True))
        return [(file, Path(file.name)) for file in matches if _is_image(file)]
    raise UsageError(f"{text}: no such file or folder")


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
