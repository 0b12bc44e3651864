"""What is to be upscaled where pictures or results lie elsewhere: names, few bytes for each."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from srtool.cluster.storage import Folder, is_url, open_folder
from srtool.errors import UsageError
from srtool.images.folders import INDEX, images_among
from srtool.images.formats import WRITABLE
from srtool.runtime.index import Shard, entries_in
from srtool.runtime.inputs import jobs_from_inputs, overwritten, result_name, shard_of


@dataclass(frozen=True, slots=True)
class Item:
    """A picture and its result, each by its name below a stored folder or by its whole path.
    bytes: of the picture's file, 0 where not known."""

    source: str
    target: str
    bytes: int = 0


@dataclass(frozen=True)
class Asked:
    """out, shard: as they were asked for. items: each result once, in order. notes: what was left
    out, a line each. sources, results: the stored folders, None where names are paths. lying: what
    is in `results` already, bytes by name."""

    out: str
    shard: Shard | None
    items: list[Item]
    notes: list[str]
    sources: Folder | None = None
    results: Folder | None = None
    lying: dict[str, int] = field(default_factory=dict, repr=False)


def items_from_inputs(
    inputs: list[str],
    out: str,
    suffix: str = "",
    format: str | None = None,
    shard: Shard | None = None,
) -> Asked:
    """As `jobs_from_inputs`, where inputs may be one URL and `out` another.

    Each stored folder is listed once. UsageError where nothing is found, or a picture would be
    written over, StorageError where a store cannot be reached.
    """
    if any(map(is_url, (*inputs, out))) and Path(out).suffix.lower() in WRITABLE:
        raise UsageError(
            f"{out}: names one image, and what comes from a URL or goes to one goes into a folder",
            path=out,
            parameter="out",
        )
    results = open_folder(out) if is_url(out) else None
    lying = results.sizes() if results else {}
    if not any(is_url(text) for text in inputs):
        top = Path("out") if results else Path(out)  # not looked at where results go elsewhere
        found = jobs_from_inputs(inputs, top, suffix, format, shard)
        items = [
            Item(
                str(job.source.absolute()),
                job.target.relative_to(top).as_posix() if results else str(job.target.absolute()),
                job.source.stat().st_size,
            )
            for job in found.jobs
        ]
        return Asked(out, shard, items, found.notes, None, results, lying)
    if len(inputs) > 1:
        raise UsageError(
            f"{', '.join(inputs)}: expected one URL, or files and folders of this disk"
        )
    sources, sizes = _listed(inputs[0])
    place = results.below(sources) if results else None  # of the results among the sources
    if place:
        sizes = {name: size for name, size in sizes.items() if not name.startswith(place)}
    names, passed = images_among(sizes)
    made = _made(sources, sizes)
    if place != "" and made.issuperset(names):
        made = set()  # who names nothing but results wants them upscaled
    targets = {name: result_name(PurePosixPath(name), suffix, format).as_posix() for name in names}
    if place == "" and suffix:
        made |= set(targets.values())
    inside = sources.below(results) if results else None  # of the sources among the results
    items, takers = [], dict[str, str]()
    for name, target in targets.items():
        if name in made:
            continue
        if (other := takers.setdefault(target, name)) != name:
            raise UsageError(
                f"{sources.url}: {other} and {name} would both be written to {target}",
                path=sources.url,
                parameter="out",
            )
        lost = target[len(inside) :] if inside is not None and target.startswith(inside) else ""
        if lost in sizes and lost not in made:
            raise overwritten(f"{sources.url}/{lost}", f"the upscaled {name}")
        if shard is None or shard_of(PurePosixPath(name), shard.count) == shard.number:
            whole = target if results else str(Path(out).absolute() / target)
            items.append(Item(name, whole, sizes[name]))
    if not takers:
        raise UsageError(
            "; ".join([f"{inputs[0]}: no images found", *passed.notes]), path=inputs[0]
        )
    return Asked(out, shard, items, passed.notes, sources, results, lying)


def _listed(url: str) -> tuple[Folder, dict[str, int]]:
    """A stored folder and its objects; of a URL that names one object, that alone."""
    folder = open_folder(url)
    sizes = folder.sizes()
    if list(sizes) != [""]:
        return folder, sizes
    address, _, name = url.rpartition("/")
    return open_folder(address), {name: sizes[""]}


def _made(folder: Folder, sizes: dict[str, int]) -> set[str]:
    """What earlier runs made among the objects of a folder, by the indexes that lie there."""
    return {
        str(PurePosixPath(name).parent / entry.file)
        for name in sizes
        if PurePosixPath(name).name.startswith(INDEX)
        for entry in entries_in(folder.read(name).decode("utf-8", "surrogateescape"))
    }
