"""Data sets that others publish: their archives, unpacked to the layout that is read here.

An archive is an asset: downloaded, continued and checked like one. It is removed when its pictures
are in their places.
"""

from __future__ import annotations

import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from srtool.assets import ANOTHER_FOLDER, Asset, Report, cache_folder, fetch
from srtool.errors import AssetError
from srtool.files import whole_file, writing

_LARGEST = 1 << 28  # bytes of a picture in an archive


@dataclass(frozen=True)
class DataSet:
    """name: of its folder. pictures: HR images, or HR and LR images together. members: which files
    of the archives are wanted; its groups are the parts of their place below the folder. pixels:
    SHA-256 over the HR pixels, see `images.datasets.digest_of`, where they are known."""

    name: str
    purpose: str
    licence: str
    archives: tuple[Asset, ...]
    members: str
    pictures: int
    pixels: str = ""


_SELFEXSR = "https://github.com/jbhuang0604/SelfExSR"
_BOX = "https://uofi.box.com/shared/static"
_ETH = "https://data.vision.ee.ethz.ch/cvl/DIV2K"


def _selfexsr(  # noqa: PLR0913 - a row of a table
    name: str, purpose: str, licence: str, count: int, size: str, file: str, pixels: str = ""
) -> DataSet:
    """One of those that SelfExSR's authors published, HR and LR images in one folder."""
    archive = Asset(
        f"{name}_SR", f"{name}_SR.zip", "pictures", size, _SELFEXSR, f"{_BOX}/{file}.zip"
    )
    members = r"(?:.*/)?(image_SRF_4)/(img_\d+_SRF_4_(?:HR|LR)\.png)"
    return DataSet(name, purpose, licence, (archive,), members, 2 * count, pixels)


def _div2k(name: str, size: str, sha256: str) -> Asset:
    file = f"{name}.zip"
    return Asset(name, file, "pictures", size, f"{_ETH}/", f"{_ETH}/{file}", sha256)


DATA_SETS = (
    DataSet(
        name="DIV2K",
        purpose="training: 800 photographs and their LR images",
        licence="academic research only, says its page; the photographs belong to their authors",
        archives=(
            _div2k(
                "DIV2K_train_HR",
                "3.5 GB",
                "9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335",
            ),
            _div2k(
                "DIV2K_train_LR_bicubic_X4",
                "247 MB",
                "f006b837f4eb52b82909aa01478e6d6d199eefce932179491d0c9dbb706dde3a",
            ),
        ),
        members=r"(?:.*/)?(DIV2K_train_HR|DIV2K_train_LR_bicubic/X4)/(\d{4}(?:x4)?\.png)",
        pictures=1600,
    ),
    _selfexsr(
        "Set5",
        "tables: 5 pictures, of Bevilacqua et al.",
        "none is stated",
        5,
        "",
        "kfahv87nfe8ax910l85dksyl2q212voc",
        "016739d54d500f35536179754bec585c116ea27e59bc384e65efde3aac74d018",
    ),
    _selfexsr(
        "Set14",
        "tables: 14 pictures, of Zeyde et al.",
        "none is stated",
        14,
        "86 MB",
        "igsnfieh4lz68l926l8xbklwsnnk8we9",
        "5ca20117fef5695bf816cf78ab9b76e1f2eb8bd7608b9488d9d6d3c9c7328ee6",
    ),
    _selfexsr(
        "BSD100",
        "tables: 100 photographs of the BSDS300 test set",
        "non-commercial research and education, says Berkeley's page",
        100,
        "568 MB",
        "qgctsplb8txrksm9to9x01zfa4m61ngq",
    ),
    _selfexsr(
        "Urban100",
        "tables: 100 photographs of buildings, of Huang et al.",
        "photographs of Flickr under Creative Commons licences",
        100,
        "1.1 GB",
        "65upg43jjd0a4cwsiqgl6o6ixube6klm",
    ),
    DataSet(
        name="General100",
        purpose="tables: 100 pictures, of Dong et al. (FSRCNN)",
        licence="none is stated",
        archives=(
            Asset(
                "General-100",
                "General-100.zip",
                "pictures",
                "",
                "http://mmlab.ie.cuhk.edu.hk/projects/FSRCNN.html",
                "",  # the page links to a drive that answers browsers alone
            ),
        ),
        members=r"(?:.*/)?(im_\d+\.bmp)",
        pictures=100,
    ),
)


def folder_of(data_set: DataSet) -> Path:
    """Where its pictures are, or will be: what `evaluate` and `train` are given."""
    return cache_folder() / "data" / data_set.name


def pictures_in(data_set: DataSet) -> int:
    """How many of its pictures are in their places."""
    folder = folder_of(data_set)
    wanted = re.compile(data_set.members)
    return sum(
        bool(wanted.fullmatch(path.relative_to(folder).as_posix()))
        for path in folder.rglob("*.*")
        if path.is_file()
    )


def fetch_data_set(data_set: DataSet, report: Report = lambda done, total: None) -> Path:
    """Download and unpack what is not there yet; the same call continues an interrupted one.

    Returns its folder. AssetError says what to do by hand where that fails.
    """
    for archive in data_set.archives if pictures_in(data_set) < data_set.pictures else ():
        if not archive.url:
            raise AssetError(
                f"{data_set.name} has no download of its own: get {archive.file} from "
                f"{archive.page} and run `srtool assets add {archive.file}`"
            )
        path = fetch(archive, report)
        try:
            unpack(data_set, path)
        finally:
            path.unlink()  # one that cannot be unpacked would stand in the way of another
    folder, count = folder_of(data_set), pictures_in(data_set)
    if count < data_set.pictures:
        raise AssetError(
            f"{folder}: holds {count} of {data_set.pictures} pictures, and its archives no more; "
            f"look at {data_set.archives[0].page}",
            path=folder,
            found=f"{count} pictures",
            expected=f"{data_set.pictures} pictures",
        )
    return folder


def add_archive(path: Path) -> tuple[DataSet, Path] | None:
    """Unpack an archive got by hand, known by how many pictures of which names it holds, or, where
    two data sets have as many, by its own name. None where it is none; AssetError where it could
    be several or holds less than its data set."""
    if not zipfile.is_zipfile(path):
        return None
    with _opened(path) as archive:
        names = archive.namelist()
    fitting = []
    for data_set in DATA_SETS:
        count = len(_wanted(data_set, names))
        if count * len(data_set.archives) == data_set.pictures:
            fitting.append(data_set)
    if len(fitting) > 1:
        fitting = [it for it in fitting if it.name.lower() in path.name.lower()] or fitting
    if len(fitting) > 1:
        known = " or ".join(data_set.name for data_set in fitting)
        raise AssetError(
            f"{path}: holds as many pictures as {known}, of the same names; rename it to one of "
            f"them, like {fitting[0].name}.zip"
        )
    if not fitting:
        return None
    unpack(fitting[0], path)
    return fitting[0], folder_of(fitting[0])


def unpack(data_set: DataSet, path: Path) -> None:
    """Bring the pictures of an archive into their places, each whole or absent; those that are
    there already, of their size, are left alone. AssetError for a damaged one."""
    with _opened(path) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
        for name, place in _wanted(data_set, list(sizes)).items():
            target, size = folder_of(data_set) / place, sizes[name]
            if target.is_file() and target.stat().st_size == size:
                continue
            if size > _LARGEST:
                raise AssetError(f"{path}: {name} has {size} bytes; no picture is as large")
            with (
                writing(target, AssetError, ANOTHER_FOLDER),
                whole_file(target) as temporary,
                archive.open(name) as packed,
                temporary.open("wb") as file,
            ):
                shutil.copyfileobj(packed, file)


def _wanted(data_set: DataSet, names: list[str]) -> dict[str, str]:
    """The files of an archive that are pictures of a data set, and their places below its folder.
    These are made of what the pattern allows: no name in an archive leads elsewhere."""
    wanted = re.compile(data_set.members)
    found = ((name, wanted.fullmatch(name)) for name in names)
    return {name: "/".join(match.groups()) for name, match in found if match}


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise AssetError(f"{path}: cannot be unpacked ({error}); get it again", path=path) from None
