"""Colours that a file names without a profile come out the same in every format, or are refused;
pages of TIFF files, and numbers of EXIF that are none."""

from __future__ import annotations

import io
import struct
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from numpy.typing import NDArray
from PIL import Image, features

from srtool.errors import ImageError
from srtool.images.metadata import (
    Metadata,
    Signal,
    chunk,
    facts_of_png,
    full_page,
    ratio,
    signal_from_codes,
)
from srtool.images.picture import Picture
from srtool.images.reading import read_image
from srtool.images.writing import write_image

P3 = (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
BT2020 = (0.3127, 0.3290, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046)
SRGB = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
# Colours that lie within sRGB's gamut in all signals
COLOURS = np.array(
    [[[128, 128, 128], [150, 120, 110], [90, 110, 140], [200, 190, 180], [60, 62, 58]]], np.uint8
)


def gama(gamma: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(100_000 * gamma)))


def chrm(primaries: tuple[float, ...]) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *(round(100_000 * value) for value in primaries)))


def cicp(primaries: int, transfer: int) -> bytes:
    return chunk(b"cICP", bytes([primaries, transfer, 0, 1]))


def png_with(*chunks: bytes) -> bytes:
    pixels = COLOURS.repeat(40, 0).repeat(16, 1)
    image = pyvips.Image.new_from_array(pixels).copy(interpretation="srgb")
    content: bytes = image.pngsave_buffer()
    return content[:33] + b"".join(chunks) + content[33:]


def shown(primaries: tuple[float, ...], gamma: float | None) -> NDArray[np.float64]:
    """COLOURS as sRGB shows them, by the definitions of IEC 61966-2-1 and CIE 1931."""

    def matrix(xy: tuple[float, ...]) -> NDArray[np.float64]:
        x = np.array(xy).reshape(4, 2)
        xyz = np.stack([x[:, 0] / x[:, 1], np.ones(4), (1 - x.sum(1)) / x[:, 1]])
        return xyz[:, 1:] * np.linalg.solve(xyz[:, 1:], xyz[:, 0])

    values = COLOURS[0] / 255.0
    if gamma is None:
        light = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    else:
        light = values**gamma
    light = light @ (np.linalg.inv(matrix(SRGB)) @ matrix(primaries)).T
    light = light.clip(0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


SIGNALS: list[tuple[str, tuple[bytes, ...], tuple[float, ...], float | None]] = [
    ("linear", (gama(1.0),), SRGB, 1.0),
    ("gamma 1.8", (gama(1 / 1.8),), SRGB, 1.8),
    ("P3", (chrm(P3),), P3, None),
    ("P3 and gamma 2.6", (chrm(P3), gama(1 / 2.6)), P3, 2.6),
    ("BT.2020", (cicp(9, 14),), BT2020, None),
    ("P3 by code", (cicp(12, 13),), P3, None),
    ("linear by code", (cicp(1, 8),), SRGB, 1.0),
    ("code before chromaticities", (chrm(BT2020), cicp(12, 13)), P3, None),
]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".avif"])
@pytest.mark.parametrize(
    ("chunks", "primaries", "gamma"), [each[1:] for each in SIGNALS], ids=[s[0] for s in SIGNALS]
)
def test_colours_are_shown_as_they_were(
    chunks: tuple[bytes, ...],
    primaries: tuple[float, ...],
    gamma: float | None,
    suffix: str,
    tmp_path: Path,
) -> None:
    (tmp_path / "a.png").write_bytes(png_with(*chunks))
    path = tmp_path / f"out{suffix}"
    write_image(path, read_image(tmp_path / "a.png"))
    if suffix == ".png":
        content = path.read_bytes()
        used = chunks if len({c[4:8] for c in chunks} & {b"cICP"}) == 0 else chunks[-1:]
        assert all(each in content for each in used)
        assert content.index(used[0]) < content.index(b"IDAT")
        return
    image = pyvips.Image.new_from_buffer(path.read_bytes(), "")
    found = image.icc_transform("srgb", embedded=True, intent="relative").numpy()
    centres = found[20, 8::16, :3].astype(float)
    assert np.abs(centres - shown(primaries, gamma)).max() < 5


@pytest.mark.parametrize(
    "chunks",
    [(), (gama(0.45455),), (chrm(SRGB),), (chunk(b"sRGB", b"\0"), gama(1.0)), (cicp(1, 13),)],
    ids=["none", "gamma", "chromaticities", "sRGB", "code"],
)
def test_srgb_is_no_signal(chunks: tuple[bytes, ...]) -> None:
    assert facts_of_png(io.BytesIO(png_with(*chunks))).signal is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c[:-1] + bytes([c[-1] ^ 1]),
        lambda c: c[:10],
        lambda c: b"\xff\xff\xff\xff" + c[4:],
        lambda c: chunk(b"gAMA", bytes(4)),
        lambda c: chunk(b"cHRM", bytes(32)),
        lambda c: chunk(b"cICP", b"\x09"),
    ],
)
def test_damaged_chunks_count_as_absent(damage: Any) -> None:
    content = png_with(damage(gama(1.0)))
    assert facts_of_png(io.BytesIO(content)).signal is None


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_stays_hdr_or_is_refused(transfer: int, name: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_with(cicp(9, transfer)))
    picture = read_image(tmp_path / "a.png")
    write_image(tmp_path / "b.png", picture)
    assert cicp(9, transfer) in (tmp_path / "b.png").read_bytes()
    for suffix in (".jpg", ".webp", ".tif", ".avif"):
        with pytest.raises(ImageError, match=name):
            write_image(tmp_path / f"b{suffix}", picture)
        assert not (tmp_path / f"b{suffix}").exists()


@pytest.mark.parametrize(
    ("codes", "hdr"), [((9, 16), "PQ"), ((9, 18), "HLG"), ((12, 13), ""), ((1, 13), None)]
)
def test_the_signal_of_avif(codes: tuple[int, int], hdr: str | None, tmp_path: Path) -> None:
    if not features.check("avif"):
        pytest.skip("libvips writes no nclx box, and this Pillow no AVIF")
    stream = io.BytesIO()
    Image.fromarray(COLOURS.repeat(40, 0).repeat(16, 1)).save(stream, "AVIF")
    content = stream.getvalue()
    at = content.index(b"colrnclx") + 8
    (tmp_path / "a.avif").write_bytes(content[:at] + struct.pack(">HH", *codes) + content[at + 4 :])
    picture = read_image(tmp_path / "a.avif")
    signal = picture.metadata.signal
    assert (signal is None) == (hdr is None)
    if signal is not None:
        assert signal.hdr == hdr
        write_image(tmp_path / "b.png", picture)
        assert cicp(*codes) in (tmp_path / "b.png").read_bytes()


def test_a_profile_wins_over_chunks(tmp_path: Path) -> None:
    profile = pyvips.Operation.call("profile_load", "p3")
    image = pyvips.Image.new_from_array(COLOURS.repeat(9, 0).repeat(9, 1))
    image = image.copy(interpretation="srgb")
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    content = image.pngsave_buffer()
    (tmp_path / "a.png").write_bytes(content[:33] + gama(1.0) + content[33:])
    metadata = read_image(tmp_path / "a.png").metadata
    assert (metadata.icc, metadata.signal) == (profile, None)


def test_gray_pictures_keep_their_gamma(tmp_path: Path) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    signal = Signal(SRGB, 1.0, "", (gama(1.0),))  # type: ignore[arg-type]
    picture = Picture(levels[..., None].repeat(3, 2), None, True, Metadata(signal=signal))
    write_image(tmp_path / "a.tif", picture)
    image = pyvips.Image.new_from_file(str(tmp_path / "a.tif"))
    light = image.icc_transform("srgb", embedded=True).numpy()[..., 0].ravel() / 255
    expected = np.arange(256) / 255
    expected = np.where(
        expected <= 0.0031308, 12.92 * expected, 1.055 * expected ** (1 / 2.4) - 0.055
    )
    assert np.abs(light - expected)[64:].max() < 0.02


@pytest.mark.parametrize("after", [False, True], ids=["before the pixels", "after them"])
def test_texts_are_kept_in_png(after: bool, tmp_path: Path) -> None:
    texts = (
        chunk(b"tEXt", b"parameters\0a cat, 8k"),
        chunk(b"iTXt", b"Title\0\0\0de\0Titel\0" + "Grüße".encode()),
        chunk(b"zTXt", b"Comment\0\0" + b"x"),
    )
    content = png_with(*(() if after else texts))
    if after:
        content = content[:-12] + b"".join(texts) + content[-12:]
    (tmp_path / "a.png").write_bytes(content)
    picture = read_image(tmp_path / "a.png")
    assert picture.metadata.texts == texts
    write_image(tmp_path / "b.png", replace(picture, pixels=picture.pixels[:20]))
    assert read_image(tmp_path / "b.png").metadata.texts == texts


def test_unknown_codes_are_srgb() -> None:
    assert signal_from_codes(2, 2) is None
    assert signal_from_codes(200, 200) is None


# TIFF and EXIF


def tiff(order: str, pages: list[tuple[int | None, int]]) -> bytes:
    """Gray pages: (NewSubfileType or None, side); the samples of each are its side."""
    content = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    for number, (kind, side) in enumerate(pages):
        entries = [(254, 4, kind)] if kind is not None else []
        entries += [(256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, 1), (262, 3, 1)]
        start = len(content) + 2 + 12 * (len(entries) + 4) + 4
        entries += [(273, 4, start), (277, 3, 1), (278, 4, side), (279, 4, side * side)]
        content += struct.pack(order + "H", len(entries))
        for tag, form, value in entries:
            packed = struct.pack(order + ("I" if form == 4 else "Hxx"), value)
            content += struct.pack(order + "HHI", tag, form, 1) + packed
        last = number == len(pages) - 1
        content += struct.pack(order + "I", 0 if last else start + side * side)
        content += bytes([side]) * side**2
    return content


@pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])
@pytest.mark.parametrize(
    ("pages", "side", "count"),
    [
        ([(None, 20)], 20, 1),
        ([(None, 20), (None, 30)], 20, 2),
        ([(1, 10), (0, 40)], 40, 1),
        ([(1, 10), (None, 40), (1, 20)], 40, 1),
        ([(0, 40), (1, 10)], 40, 1),
        ([(4, 10), (2, 40), (2, 30)], 40, 2),
        ([(1, 10), (1, 20)], 10, 2),
    ],
)
def test_thumbnails_and_masks_are_no_pages(
    order: str, pages: list[tuple[int | None, int]], side: int, count: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(order, pages))
    picture = read_image(path)
    assert np.array_equal(picture.pixels, np.full((side, side, 3), side))
    assert picture.pages == count


def test_damaged_directories_end_the_search() -> None:
    whole = tiff("<", [(1, 10), (0, 40)])
    for size in range(8, len(whole), 7):
        page, count = full_page(io.BytesIO(whole[:size]))
        assert 0 <= page <= 1
        assert count >= 1


@pytest.mark.parametrize(
    ("text", "value"),
    [("300", 300), ("300/1", 300), ("1/3", 1 / 3), ("", 0), ("x", 0), ("1/0", 0), ("1/x", 0)],
)
def test_ratios(text: str, value: float) -> None:
    assert ratio(text) == value


@pytest.mark.parametrize("text", ["1e999999999", "1e400/1e400", "9" * 100_000, "1/1e-999999999"])
def test_numbers_that_would_take_for_ever_take_no_time(text: str) -> None:
    start = time.perf_counter()
    ratio(text)
    assert time.perf_counter() - start < 1
