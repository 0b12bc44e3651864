"""The image files below a folder, and what was passed over there, so that nothing is silent; the
folder of those that ship."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path, PurePosixPath

from srtool.images.formats import HEAD, READABLE, format_of

# Thumbnails and leftovers of network storage and archives; hidden folders start with a dot
_THUMBNAILS = frozenset(
    {"@eadir", "#recycle", "@recycle", "__macosx", "$recycle.bin", "lost+found"}
)
INDEX = ".srtool-index"  # how the names of our index files begin
_OURS = ".srtool-"  # and of unfinished files

# The photographs that srtool ships, in HR/, and LRx4/ made of them
SAMPLES = Path(str(resources.files("srtool"))) / "samples"


@dataclass
class Listing:
    """files: sorted. passed: how many other files there are, by suffix (lower case, "" for none).
    hidden: images with a hidden name or in hidden and thumbnail folders. unreadable: folders.
    indexes: of results of earlier runs."""

    files: list[Path] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)
    hidden: int = 0
    unreadable: list[Path] = field(default_factory=list)
    indexes: list[Path] = field(default_factory=list)

    def add(self, other: Listing) -> None:
        """Take over what another one has, its files excepted."""
        self.passed.update(other.passed)
        self.hidden += other.hidden
        self.unreadable += other.unreadable

    @property
    def notes(self) -> list[str]:
        """What a user should know of what is not in `files`, a line each."""
        lines = []
        if self.passed:
            kinds = ", ".join(
                f"{count} {suffix or 'without a suffix'}"
                for suffix, count in sorted(self.passed.items(), key=lambda kind: (-kind[1], kind))
            )
            count = self.passed.total()
            files = "1 file that is no image" if count == 1 else f"{count} files that are no images"
            lines.append(f"passed over {files}: {kinds}")
        if self.hidden:
            lines.append(f"left out {self.hidden} images in hidden and thumbnail folders")
        lines += [f"{folder}: cannot be read; it is left out" for folder in self.unreadable]
        return lines


def images_below(folder: Path, leave_out: Path | None = None) -> Listing:
    """Walk a folder. Links to folders are followed, each folder is entered once. leave_out: a
    folder, resolved, that is not looked at."""
    found = Listing()
    entered: set[tuple[int, int]] = set()

    def walk(top: Path, is_hidden: bool) -> None:
        try:
            status = top.stat()
            with os.scandir(top) as entries:
                names = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            found.unreadable.append(top)
            return
        if (status.st_dev, status.st_ino) in entered and status.st_ino:
            return
        entered.add((status.st_dev, status.st_ino))
        for entry in names:
            path = top / entry.name
            hidden = is_hidden or entry.name.startswith(".")
            if _is(entry, "dir"):
                if leave_out is None or path.resolve() != leave_out:
                    walk(path, hidden or entry.name.lower() in _THUMBNAILS)
            elif entry.name.startswith(_OURS):
                if entry.name.startswith(INDEX):
                    found.indexes.append(path)
            elif not is_image(path):
                if not hidden and _is(entry, "file"):
                    found.passed[path.suffix.lower()] += 1
            elif hidden:
                found.hidden += 1
            else:
                found.files.append(path)

    walk(folder, False)
    found.files.sort()
    return found


def images_among(names: Iterable[str]) -> tuple[list[str], Listing]:
    """Of names with forward slashes, those that `images_below` would take where they are files, in
    order; and what was passed over. Without their contents: a name without a suffix is no image."""
    images, passed = [], Listing()
    for name in sorted(names):
        *folders, last = name.split("/")
        suffix = PurePosixPath(last).suffix.lower()
        hidden = last.startswith(".") or any(
            folder.startswith(".") or folder.lower() in _THUMBNAILS for folder in folders
        )
        if last.startswith(_OURS) or not last:
            continue
        if suffix not in READABLE:
            passed.passed[suffix] += not hidden
        elif hidden:
            passed.hidden += 1
        else:
            images.append(name)
    passed.passed = +passed.passed
    return images, passed


def is_image(path: Path) -> bool:
    """Whether a file is taken for an image: by its suffix, and by its content where it has none."""
    if path.suffix:
        return path.suffix.lower() in READABLE
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return format_of(file.read(HEAD)) is not None
    except OSError:
        return False


def _is(entry: os.DirEntry[str], kind: str) -> bool:
    try:
        return entry.is_dir() if kind == "dir" else entry.is_file()
    except OSError:
        return False


def parts_of(path: Path, top: Path) -> Iterator[str]:
    """The names of the folders from `top` (included) down to a file."""
    yield top.resolve().name
    yield from path.relative_to(top).parts[:-1]
