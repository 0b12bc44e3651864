"""Data sets on disk: HR images and the LR images that belong to them, for training, certification
and evaluation. Layouts in circulation are read right or refused, never guessed."""

from __future__ import annotations

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from srtool.errors import DataError, ImageError, UsageError
from srtool.images.folders import images_below, parts_of
from srtool.images.imresize import make_lr, mod_crop
from srtool.images.reading import read_rgb

SCALE = 4
BORDER = 4  # HR pixels that no metric looks at

Image = NDArray[np.uint8]

# Folders of HR images: HR, GT, GTmod12, DIV2K_train_HR; the part before stands for the data set
_HR = re.compile(r"(?:(?P<set>.+)_)?(?:hr|gt(?:mod\d+)?|original)", re.IGNORECASE)
# Folders of LR images: LR, LRx4, LRbicx4, LR_bicubic, DIV2K_train_LR_bicubic_X4
_LR = re.compile(
    r"(?:(?P<set>.+)_)?lr(?:_?(?:bic|bicubic|mild|wild|difficult|unknown|mod\d+))?"
    r"(?:_?(?:x(?P<scale>\d)(?:m|d|w)?|(?P<scale_>\d)x))?",
    re.IGNORECASE,
)
_SCALED = re.compile(r"x?(?P<scale>\d)x?", re.IGNORECASE)  # X4 within a folder of LR images
_HR_FILE = re.compile(r"(?P<stem>.+)_SRF_(?P<scale>\d)_HR", re.IGNORECASE)
_LR_FILE = re.compile(r"(?P<stem>.+)(?:_SRF_(?P<scale>\d)_LR|_?x[2348])", re.IGNORECASE)
_ENDINGS = ("", f"x{SCALE}", f"_x{SCALE}", "_LR", f"_LRx{SCALE}")  # of an LR image's name


@dataclass(frozen=True)
class Sample:
    """One image of a data set. `name`: of its file below the HR folder. `lr`: None is made."""

    name: str
    hr: Path
    lr: Path | None


@dataclass(frozen=True)
class Dataset:
    """lr: the folder of its LR images, None where they are made."""

    name: str
    folder: Path
    samples: tuple[Sample, ...]
    lr: Path | None = None


@dataclass(frozen=True)
class Pair:
    """Pixels of a sample: hr (4 H, 4 W, 3) and lr (H, W, 3), RGB uint8, gray as R = G = B."""

    path: Path
    hr: Image
    lr: Image


@dataclass(frozen=True)
class Photograph:
    """What is known of a source image. name: its file, below its folder. height, width: pixels,
    multiples of 4. sha256: 32 bytes, see `digest`."""

    name: str
    height: int
    width: int
    sha256: bytes


@dataclass(frozen=True)
class Collection:
    """Photographs, and the pairs to cut patches from: they or parts of them. owners[i]: the number
    of the photograph that pairs[i] shows."""

    photographs: tuple[Photograph, ...]
    pairs: tuple[Pair, ...]
    owners: tuple[int, ...]


def image_files(folder: Path) -> list[Path]:
    """All image files below a folder, sorted, hidden and half-written ones left out; DataError
    when there are none."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; name a folder of photographs")
    files = images_below(folder).files
    if not files:
        raise DataError(f"{folder}: holds no images; expected files like photo.png or photo.jpg")
    return files


def dataset_from_folder(folder: Path) -> Dataset:
    """A data set in one of the layouts in circulation:

    - HR/ (or GT, GTmod12, DIV2K_train_HR, ...) and perhaps LRx4/ (LRbicx4, LR_bicubic/X4,
      DIV2K_train_LR_bicubic/X4, ...), in it files of the same names, or with x4 after them;
    - such an HR folder itself, beside which LR images are looked for;
    - NAME_SRF_4_HR and NAME_SRF_4_LR files in one folder (SelfExSR), or image_SRF_4/ of them;
    - images in the folder itself and below it.

    DataError where there are none, where LR images stand among the HR images, and where there are
    LR images that match nothing, or only a part. Nothing is decoded yet.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected a data set: images, or HR/ and LRx4/")
    here = folder.resolve()
    paired = folder / f"image_SRF_{SCALE}"
    if paired.is_dir():
        return _paired_in_one(here.name, folder, image_files(paired))
    if match := _HR.fullmatch(here.name):
        name = match["set"] or here.parent.name
        return _from_folders(name, folder, folder, folder / "..")
    inner = _children(folder, _HR)
    if len(inner) > 1:
        names = " and ".join(path.name for path in inner)
        raise DataError(f"{folder}: holds {names}; name one of them")
    if inner:
        return _from_folders(here.name, folder, inner[0], folder)
    files = image_files(folder)
    if any(_HR_FILE.fullmatch(path.stem) for path in files):
        return _paired_in_one(here.name, folder, files)
    _refuse_lr(folder, files)
    samples = (Sample(path.relative_to(folder).as_posix(), path, None) for path in files)
    return Dataset(here.name, folder, tuple(samples))


def _children(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if pattern.fullmatch(path.name) and path.is_dir()
    )


def _from_folders(name: str, folder: Path, hr: Path, beside: Path) -> Dataset:
    """HR images in a folder of their own, LR images perhaps in another one beside it."""
    files = image_files(hr)
    _refuse_lr(hr, files)
    match = _HR.fullmatch(hr.resolve().name)
    prefix = (match["set"] or "") if match else ""
    lr = _lr_folder(beside, prefix)
    found = images_below(lr).files if lr else []
    if lr and not found:
        raise DataError(f"{lr}: holds no images for {hr}; fill it, or remove it to have them made")
    by_name = {path.relative_to(lr).with_suffix("").as_posix(): path for path in found if lr}
    samples = []
    for path in files:
        relative = path.relative_to(hr)
        names = (relative.with_suffix("").as_posix() + ending for ending in _ENDINGS)
        low = next((by_name[stem] for stem in names if stem in by_name), None)
        samples.append(Sample(relative.as_posix(), path, low))
    missing = [sample for sample in samples if sample.lr is None]
    if lr and missing:
        used = {sample.lr for sample in samples}
        unused = [path.name for path in found if path not in used]
        raise DataError(
            f"{lr}: has no {missing[0].name} for {missing[0].hr} ({len(missing)} of {len(samples)} "
            f"are missing{'; it holds ' + unused[0] if unused else ''}); add LR images of the same "
            "names, or remove the folder to have all of them made"
        )
    return Dataset(name, folder, tuple(samples), lr)


def _lr_folder(beside: Path, prefix: str) -> Path | None:
    """The folder of x4 LR images; DataError where there are several. Other scales are no matter
    of ours."""
    found = []
    for folder in _children(beside, _LR):
        match = _LR.fullmatch(folder.name)
        assert match is not None
        if (match["set"] or "").lower() != prefix.lower():
            continue
        scale = match["scale"] or match["scale_"]
        inner = [] if scale else _children(folder, _SCALED)
        if inner:
            found += [path for path in inner if str(SCALE) in path.name]
        elif scale in (None, str(SCALE)):
            found.append(folder)
    if len(found) > 1:
        names = " and ".join(path.relative_to(beside).as_posix() for path in found)
        raise DataError(f"{beside}: holds LR images in {names}; keep one of them there")
    return found[0] if found else None


def _paired_in_one(name: str, folder: Path, files: list[Path]) -> Dataset:
    """SelfExSR: HR and LR images of one folder, told apart by their names."""
    low = {path.with_name(path.stem.upper()): path for path in files}
    samples, used = [], set()
    for path in files:
        match = _HR_FILE.fullmatch(path.stem)
        if match is None or match["scale"] != str(SCALE):
            continue
        lr = low.get(path.with_name(f"{match['stem']}_SRF_{SCALE}_LR".upper()))
        if lr is None:
            raise DataError(
                f"{path}: has no {match['stem']}_SRF_{SCALE}_LR{path.suffix} beside it; "
                "add it, or put the HR images into a folder of their own"
            )
        used |= {path, lr}
        samples.append(Sample(path.relative_to(folder).as_posix(), path, lr))
    rest = [path for path in files if path not in used]
    others = [path for path in rest if not _other_scale(path)]
    if others or not samples:
        wrong = (others or files)[0]
        raise DataError(
            f"{wrong}: is neither NAME_SRF_{SCALE}_HR nor NAME_SRF_{SCALE}_LR, as other files in "
            f"{folder} are; put HR images into HR/ and LR images into LRx{SCALE}/"
        )
    return Dataset(name, folder, tuple(samples), folder)


def _other_scale(path: Path) -> bool:
    match = re.fullmatch(r".+_SRF_(\d)_(?:HR|LR)", path.stem, re.IGNORECASE)
    return match is not None and match[1] != str(SCALE)


def _refuse_lr(folder: Path, files: list[Path]) -> None:
    """DataError where there are LR images among what would be taken for HR images."""
    stems = {path.with_suffix("") for path in files}
    for path in files:
        low = next((name for name in parts_of(path, folder) if _LR.fullmatch(name)), None)
        if low is not None:
            raise DataError(
                f"{path}: lies in {low}, a folder of LR images by its name, but {folder} has no "
                "HR/ that belongs to it; put the HR images into HR/ and the LR images into "
                f"LRx{SCALE}/ beside it, or rename the folder"
            )
        match = _LR_FILE.fullmatch(path.stem)
        if match and (match["scale"] or path.with_name(match["stem"]) in stems):
            raise DataError(
                f"{path}: is an LR image by its name, among HR images; "
                f"put it into LRx{SCALE}/ and those into HR/"
            )


def datasets_from_folders(folders: list[Path]) -> list[Dataset]:
    """As above; UsageError where two have the same name, by which the results are keyed."""
    datasets: dict[str, Dataset] = {}
    for folder in folders:
        dataset = dataset_from_folder(folder)
        if other := datasets.get(dataset.name):
            raise UsageError(
                f"{other.folder} and {folder} are both called {dataset.name}; "
                "evaluate them one at a time"
            )
        datasets[dataset.name] = dataset
    return list(datasets.values())


def check_lr_size(sample: Sample, lr: tuple[int, int], hr: tuple[int, int]) -> None:
    """ImageError unless an LR image has the size that its HR image, cropped to a multiple of 4,
    asks for. Sizes: height, width."""
    height, width = hr[0] // SCALE, hr[1] // SCALE
    if lr != (height, width):
        raise ImageError(
            f"{sample.lr}: is {lr[1]}x{lr[0]}, expected {width}x{height} to fit {sample.hr}"
        )


def load_pair(sample: Sample, border: int = 0) -> Pair:
    """Read HR, cropped to a multiple of 4, and read or make LR; ImageError names a bad file, and
    one that has nothing inside a border of so many HR pixels."""
    hr = mod_crop(read_rgb(sample.hr), SCALE)
    if border and min(hr.shape[:2]) <= 2 * border:
        raise ImageError(
            f"{sample.hr}: has nothing inside the shaved border of {border} pixels; "
            "leave it out of the evaluation"
        )
    if sample.lr is None:
        return Pair(sample.hr, hr, make_lr(hr, SCALE))
    lr = read_rgb(sample.lr)
    check_lr_size(sample, (lr.shape[0], lr.shape[1]), (hr.shape[0], hr.shape[1]))
    return Pair(sample.hr, hr, lr)


def load_dataset(folder: Path) -> list[Pair]:
    """Read all of `dataset_from_folder`, in the order of the file names."""
    return [load_pair(sample) for sample in dataset_from_folder(folder).samples]


def load_photographs(folder: Path) -> Collection:
    """Read a folder of training data into memory, on all cores."""

    def load(sample: Sample) -> tuple[Photograph, Pair]:
        pair = load_pair(sample)
        height, width = pair.hr.shape[:2]
        return Photograph(sample.name, height, width, digest(pair)), pair

    with ThreadPoolExecutor() as pool:
        loaded = list(pool.map(load, dataset_from_folder(folder).samples))
    photographs, pairs = zip(*loaded, strict=True)
    return Collection(photographs, pairs, tuple(range(len(pairs))))


def digest(pair: Pair) -> bytes:
    """SHA-256 of the HR pixels, 32 bytes: the same picture in two places is recognised by it."""
    return hashlib.sha256(pair.hr.tobytes()).digest()


def digest_of(dataset: Dataset) -> str:
    """SHA-256 over the HR pixels of all images, in hexadecimal; of no matter which names, files
    and layout."""
    with ThreadPoolExecutor() as pool:
        digests = sorted(pool.map(lambda sample: digest(load_pair(sample)), dataset.samples))
    return hashlib.sha256(b"".join(digests)).hexdigest()


def fingerprint(*parts: Path | str) -> str:
    """SHA-256 over the contents of files and over texts; a file that cannot be read counts as
    empty, since reading it as an image will name it."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            content = part.encode()
        else:
            try:
                content = part.read_bytes() if part.is_file() else b""  # a pipe has no end
            except OSError:
                content = b""
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()
