"""What the user names on the command line -> which file is read and which is written."""

from __future__ import annotations

import glob
import hashlib
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path, PurePath

from srtool.errors import UsageError
from srtool.files import writing
from srtool.images.folders import Listing, images_below, is_image
from srtool.images.formats import FORMATS, READABLE, WRITABLE
from srtool.runtime.index import Shard, index_files, results_in


@dataclass(frozen=True)
class Job:
    """One image: where it is and where its upscaled version goes."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Inputs:
    """jobs: what is to be done, each target once. notes: what was left out and why, a line each.
    folder: where the index of the results stands; None where one output file was named."""

    jobs: list[Job]
    notes: list[str] = field(default_factory=list)
    folder: Path | None = None


@dataclass
class _Found:
    """Sources, each with its path below the input. results: how many of earlier runs there are."""

    sources: list[tuple[Path, Path]] = field(default_factory=list)
    listing: Listing = field(default_factory=Listing)
    results: int = 0

    @property
    def notes(self) -> list[str]:
        made = f"left out {self.results} results of earlier runs"
        return self.listing.notes + ([made] if self.results else [])


def jobs_from_inputs(
    inputs: list[str],
    out: Path,
    suffix: str = "",
    format: str | None = None,
    shard: Shard | None = None,
    watching: bool = False,
) -> Inputs:
    """Expand files, folders (recursive, structure kept below `out`) and glob patterns.

    format: "png", "jpg", ...; default: the source's own where it can be written, else PNG.
    `out` may name the output file itself when the input is a single file. shard: take only the
    images whose path below the input falls to it. What earlier runs made is no source, nor are
    hidden files and thumbnails in folders. UsageError where an input does not exist, nothing is
    found, or two images would be written to one file; watching: nothing need be found, and of two
    such images the second is noted.
    """
    if shard is not None and not 1 <= shard.number <= shard.count:
        raise UsageError(
            f"shard {shard.number} of {shard.count}; expected a number from 1 to {shard.count}"
        )
    found = _Found()
    for text in inputs:
        _expand(text, out, found)
    if not found.sources and not watching:
        known = " ".join(sorted(READABLE))
        passed = "".join(f"; {note}" for note in found.notes)
        raise UsageError(
            f"{', '.join(inputs)}: no images found; expected files with {known}{passed}"
        )
    if out.suffix.lower() in WRITABLE and not out.is_dir():
        return Inputs([_into_one_file(inputs, found.sources, out, suffix, format)])
    jobs, clashes = _jobs(found.sources, out, suffix, format)
    if clashes and not watching:
        raise clashes[0]
    kept = [
        job
        for job, relative in jobs.values()
        if shard is None or shard_of(relative, shard.count) == shard.number
    ]
    return Inputs(kept, [*found.notes, *map(str, clashes)], out)


def shard_of(relative: PurePath, count: int) -> int:
    """To which of `count` shards, from 1, an image belongs: by a hash of its path below the input,
    so that it is the same whatever other files there are."""
    digest = hashlib.sha256(os.fsencode(relative.as_posix())).digest()
    return int.from_bytes(digest[:8], "big") % count + 1


def _into_one_file(
    inputs: list[str],
    sources: list[tuple[Path, Path]],
    out: Path,
    suffix: str,
    format: str | None,
) -> Job:
    if len(sources) != 1 or Path(inputs[0]).is_dir():
        raise UsageError(
            f"{out}: names one image; folders and several images go into a folder",
            path=out,
            parameter="out",
        )
    if suffix:
        raise UsageError(
            f"{out}: is the whole name of the result; leave out the suffix",
            path=out,
            parameter="suffix",
        )
    if format and FORMATS[out.suffix.lower()] != FORMATS[f".{format}"]:
        raise UsageError(
            f"{out}: is no {format} file; leave out the format or change the name",
            path=out,
            parameter="format",
        )
    return _checked(Job(sources[0][0], out))


def _jobs(
    sources: list[tuple[Path, Path]], out: Path, suffix: str, format: str | None
) -> tuple[dict[Path, tuple[Job, Path]], list[UsageError]]:
    """By target, and what is wrong with those that are left out."""
    found = [
        (Job(source, out / result_name(relative, suffix, format)), relative)
        for source, relative in sources
    ]
    # Where results stand beside their sources, those of an earlier run are no sources.
    results = {_real(job.target) for job, _ in found} if suffix else set()
    real = {job.source: _real(job.source) for job, _ in found}
    kept = set(real.values()) - results
    jobs: dict[Path, tuple[Job, Path]] = {}
    clashes = []
    for job, relative in found:
        source, target = job.source, job.target
        if real[source] in results:
            continue
        if (there := _real(target)) in kept and there != real[source]:
            clashes.append(overwritten(target, f"the upscaled {source}"))
            continue
        other, _ = jobs.setdefault(target, (_checked(job), relative))
        if real[other.source] != real[source]:
            line = (
                f"{other.source} and {source} would both be written to {target}; "
                "upscale them into different folders"
            )
            clashes.append(UsageError(line, path=target, parameter="out"))
    return jobs, clashes


def result_name(relative: PurePath, suffix: str, format: str | None) -> PurePath:
    """What the result of an image is called below the output folder, see `jobs_from_inputs`.
    UsageError for a suffix that is no part of a name."""
    if suffix and {"/", "\\", "\0"} & set(suffix):
        raise UsageError(
            f"{suffix!r}: is no part of a file's name; expected a suffix such as _x4",
            parameter="suffix",
            found=suffix,
            expected="_x4",
        )
    ending = f".{format}" if format else relative.suffix
    if ending.lower() not in WRITABLE:
        ending = ".png"
    return relative.parent / f"{relative.stem}{suffix}{ending}"


def check_writable(jobs: list[Job], folder: Path | None = None, *, is_made: bool = True) -> None:
    """UsageError, before any work is done, where an output folder cannot be made or written; also
    one for jobs that are still to come. Not is_made: the folders are left to be made."""
    folders = {job.target.parent for job in jobs} | ({folder} if folder else set())
    for folder in sorted(folders):
        with writing(folder, UsageError, "choose another folder", "out"):
            there = folder
            if is_made:
                folder.mkdir(parents=True, exist_ok=True)
            else:
                there = next(each for each in (folder, *folder.parents) if each.exists())
            with tempfile.TemporaryFile(dir=there):
                pass


def _expand(text: str, out: Path, found: _Found) -> None:
    """Add the images that one argument names. Results of an earlier run are no sources: those in
    an output folder below the input, and those that an index there names."""
    path = Path(text)
    if path.is_dir():
        listing = images_below(path, leave_out=_real(out) if _is_below(out, path) else None)
        files = _without_results(listing.files, listing.indexes, out, found)
        found.sources += [(file, file.relative_to(path)) for file in files]
        found.listing.add(listing)
    elif path.exists():
        found.sources.append((path, Path(path.name)))
    elif glob.has_magic(text):
        fixed = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts))
        files = _images(map(Path, glob.glob(text, recursive=True)), fixed, out, found)
        found.sources += [(file, Path(file.name)) for file in files]
    else:
        raise UsageError(f"{text}: no such file or folder")


def _images(files: Iterable[Path], top: Path, out: Path, found: _Found) -> list[Path]:
    skipped, below = _real(out), _is_below(out, top)
    images = [
        file
        for file in sorted(files)
        # Our own unfinished files and editors' hidden ones start with a dot.
        if not file.name.startswith(".")
        and is_image(file)
        and not file.is_dir()
        and not (below and skipped in _real(file).parents)
    ]
    parents = {parent for file in images for parent in file.parents if top in parent.parents}
    indexes = [index for parent in (top, *parents) for index in index_files(parent)]
    return _without_results(images, indexes, out, found)


def _real(path: Path) -> Path:
    """Without links; unlike `Path.resolve` also where these go in a circle."""
    return Path(os.path.realpath(path))


def _is_below(folder: Path, top: Path) -> bool:
    return _real(top) in _real(folder).parents


def _without_results(
    files: list[Path], indexes: Iterable[Path], out: Path, found: _Found
) -> list[Path]:
    """The files less those that the indexes of the output folder and of folders of the input name
    as made; but who names a folder of nothing but results wants them upscaled."""
    made = {_real(path) for index in index_files(out) for path in results_in(index)}
    other = {_real(path) for index in indexes for path in results_in(index)}
    kept = [file for file in files if _real(file) not in made]
    sources = [file for file in kept if _real(file) not in other]
    kept = sources or kept
    found.results += len(files) - len(kept)
    return kept


def _checked(job: Job) -> Job:
    try:
        same = job.target.exists() and job.target.samefile(job.source)
    except OSError:  # a name that is too long, say; it is told when its turn comes
        same = False
    if same:
        raise overwritten(job.source, "its upscaled version")
    return job


def overwritten(path: Path | str, by: str) -> UsageError:
    """That a picture of the user's would be lost. by: what takes its place, in words."""
    return UsageError(
        f"{path}: would be overwritten by {by}; choose another folder or a suffix",
        path=path,
        parameter="out",
        remedy={"suffix": "_x4"},
    )
