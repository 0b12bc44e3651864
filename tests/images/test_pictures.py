"""Real files of each format and colour type, made with libvips, read and written."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from numpy.typing import NDArray
from PIL import Image

from srtool.errors import ImageError, UsageError
from srtool.images import writing
from srtool.images.formats import FORMATS, WRITABLE
from srtool.images.metadata import Metadata
from srtool.images.picture import Picture
from srtool.images.reading import read_image
from srtool.images.writing import write_image

H, W = 24, 40
Y, X = np.mgrid[0:H, 0:W]
RGB = np.stack([Y * 10, X * 6, 250 - 3 * (X + Y)], -1).astype(np.uint8)
GRAY = (Y * 7 + X).astype(np.uint8)
ALPHA = (255 - 5 * X - Y).astype(np.uint8)
# Every level of 16 bits is as likely, so that a loss of low bits shows
RGB16 = np.random.default_rng(0).integers(0, 65536, (H, W, 3), dtype=np.uint16)
GRAY16 = RGB16[..., 0].copy()
ALPHA16 = RGB16[..., 1].copy()

LOSSLESS = [".png", ".tif", ".tiff"]
LOSSY = [".jpg", ".jpeg", ".webp", ".avif"]
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'
IPTC = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + struct.pack(">I", 10) + b"\x1c\x02\x78\x00\x05hello"


def vips(array: NDArray[Any], interpretation: str | None = None) -> Any:
    bands = 1 if array.ndim == 2 else array.shape[2]
    names = {(False, 1): "b-w", (False, 3): "srgb", (True, 1): "grey16", (True, 3): "rgb16"}
    guess = names[array.dtype == np.uint16, 3 if bands > 2 else 1]
    return pyvips.Image.new_from_array(array).copy(interpretation=interpretation or guess)


def tagged(image: Any, **fields: Any) -> Any:
    image = image.copy()
    for name, value in fields.items():
        kind = pyvips.GValue.gint_type if isinstance(value, int) else pyvips.GValue.blob_type
        image.set_type(kind, name.replace("_", "-"), value)
    return image


def tag(path: Path, name: str) -> Any:
    image = pyvips.Image.new_from_buffer(path.read_bytes(), "")
    return image.get(name) if image.get_typeof(name) else None


def built_in_profile(name: str) -> bytes:
    profile: bytes = pyvips.Operation.call("profile_load", name)
    return profile


def gray_profile(gamma: float) -> bytes:
    """A minimal ICC v2 profile of a gray display."""

    def text(kind: bytes, value: bytes, tail: bytes = b"") -> bytes:
        return kind + bytes(4) + value + tail

    fixed = struct.pack(">III", 0xF6D6, 0x10000, 0xD32D)
    tags = {
        b"desc": text(b"desc", struct.pack(">I", 5) + b"gray\0", bytes(8 + 3 + 67 + 4)),
        b"cprt": text(b"text", b"none\0\0\0\0"),
        b"wtpt": text(b"XYZ ", fixed),
        b"kTRC": text(b"curv", struct.pack(">IHxx", 1, round(gamma * 256))),
    }
    offset = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = struct.pack(">I4xI", offset + len(body), 0x02100000) + b"mntrGRAYXYZ " + bytes(12)
    header += b"acsp" + bytes(28) + fixed + bytes(48)
    assert len(header) == 128
    return header + table + body


def exif_block(orientation: int, thumbnail: bytes) -> bytes:
    """Two directories: Make in UTF-8 and Orientation, then a JPEG thumbnail."""
    make = b"J\xc3\xb6rg\0"

    def entry(number: int, kind: int, count: int, value: int) -> bytes:
        return struct.pack("<HHI", number, kind, count) + struct.pack("<I", value)

    second = 8 + 2 + 2 * 12 + 4
    data = second + 2 + 3 * 12 + 4
    block = b"II*\0" + struct.pack("<I", 8)
    block += struct.pack("<H", 2) + entry(0x10F, 2, len(make), data)
    block += entry(0x112, 3, 1, orientation) + struct.pack("<I", second)
    block += struct.pack("<H", 3) + entry(0x103, 3, 1, 6)
    block += entry(0x201, 4, 1, data + len(make)) + entry(0x202, 4, 1, len(thumbnail)) + bytes(4)
    return b"Exif\0\0" + block + make + thumbnail


def plain_tiff(samples: NDArray[np.uint8], photometric: int) -> bytes:
    """An uncompressed TIFF with its directory in front of the samples."""
    height, width, bands = samples.shape
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, bands, 8 + 2 + 10 * 12 + 4),
        (259, 3, 1, 1),
        (262, 3, 1, photometric),
        (273, 4, 1, 150),
        (277, 3, 1, bands),
        (278, 4, 1, height),
        (279, 4, 1, samples.size),
        (284, 3, 1, 1),
    ]
    block = b"II*\0" + struct.pack("<IH", 8, len(entries))
    block += b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    block += struct.pack("<3H", 8, 8, 8)
    return block.ljust(150, b"\0") + samples.tobytes()


def written(path: Path, picture: Picture) -> Picture:
    write_image(path, picture)
    return read_image(path)


def same(got: NDArray[Any] | None, expected: NDArray[Any]) -> None:
    assert got is not None
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)


def distance(got: NDArray[Any] | None, expected: NDArray[Any]) -> float:
    """Largest absolute difference."""
    assert got is not None
    assert got.shape == expected.shape
    return float(np.abs(got.astype(np.float64) - expected.astype(np.float64)).max())


# Round trips


def test_suffixes_cover_the_promised_formats() -> None:
    assert frozenset(LOSSLESS + LOSSY) <= WRITABLE
    jpegs = {".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg"}
    assert {suffix for suffix in WRITABLE if FORMATS[suffix] == "JPEG"} == jpegs


@pytest.mark.parametrize("suffix", LOSSLESS)
@pytest.mark.parametrize("pixels", [RGB, RGB16], ids=["8 bits", "16 bits"])
@pytest.mark.parametrize("gray", [False, True], ids=["rgb", "gray"])
@pytest.mark.parametrize("opaque", [False, True], ids=["alpha", "opaque"])
def test_png_and_tiff_return_every_sample(
    suffix: str, pixels: Any, gray: bool, opaque: bool, tmp_path: Path
) -> None:
    if gray:
        pixels = np.repeat(pixels[..., :1], 3, axis=2)
    alpha = None if opaque else (ALPHA if pixels.dtype == np.uint8 else ALPHA16)
    picture = written(tmp_path / f"a{suffix}", Picture(pixels, alpha, gray))
    same(picture.pixels, pixels)
    assert picture.pixels.flags.c_contiguous
    assert picture.gray == gray
    assert picture.pages == 1
    assert tag(tmp_path / f"a{suffix}", "bands") == (1 if gray else 3) + (not opaque)
    if alpha is None:
        assert picture.alpha is None
    else:
        same(picture.alpha, alpha)


@pytest.mark.parametrize(
    ("suffix", "most"), [(".jpg", 6), (".jpeg", 6), (".webp", 16), (".avif", 5)]
)
def test_lossy_formats_come_close(suffix: str, most: int, tmp_path: Path) -> None:
    picture = written(tmp_path / f"a{suffix}", Picture(RGB))
    assert picture.pixels.dtype == np.uint8
    assert distance(picture.pixels, RGB) <= most
    assert not picture.gray
    assert picture.alpha is None


@pytest.mark.parametrize("suffix", [".webp", ".avif"])
def test_webp_and_avif_keep_alpha(suffix: str, tmp_path: Path) -> None:
    picture = written(tmp_path / f"a{suffix}", Picture(RGB, ALPHA))
    assert distance(picture.alpha, ALPHA) <= 3


def test_avif_holds_16_bits_in_12(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, H * W).astype(np.uint16).reshape(H, W)
    alpha = np.where(X < W // 2, 0, 65535).astype(np.uint16)
    path = tmp_path / "a.avif"
    write_image(path, Picture(np.stack([ramp] * 3, -1), alpha), quality=100)
    assert tag(path, "bits-per-sample") == 12
    picture = read_image(path)
    assert picture.pixels.dtype == np.uint16
    assert distance(picture.pixels, np.stack([ramp] * 3, -1)) < 48  # 3 levels of 12 bits
    same(picture.alpha, alpha)


def test_16_bits_round_to_the_nearest_of_12() -> None:
    # Before the lossy encoder; libvips drops the low 4 bits
    samples = writing._prepared(vips(RGB16), Metadata(), "AVIF").numpy()
    same(samples >> 4, np.rint(RGB16 / 65535 * 4095).astype(np.uint16))


@pytest.mark.parametrize("bits", [10, 12])
def test_white_of_a_deep_avif_is_full_scale(bits: int, tmp_path: Path) -> None:
    array = np.repeat(np.where(X < 20, 0, 65535)[..., None], 3, axis=2).astype(np.uint16)
    vips(array).heifsave(tmp_path / "a.avif", compression="av1", bitdepth=bits, lossless=True)
    assert tag(tmp_path / "a.avif", "bits-per-sample") == bits
    same(read_image(tmp_path / "a.avif").pixels, array)


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_16_bits_round_to_the_nearest_of_8(suffix: str, tmp_path: Path) -> None:
    levels = np.array([0, 128, 129, 255, 32767, 33024, 65406, 65407, 65535])
    # One gray 16x16 block per level, which both codecs return within the level
    pixels = np.repeat(np.kron(levels, np.ones((16, 16), int))[..., None], 3, axis=2)
    path = tmp_path / f"a{suffix}"
    write_image(path, Picture(pixels.astype(np.uint16), gray=True), quality=100)
    got = read_image(path).pixels[8, 8::16, 0]
    assert got.dtype == np.uint8
    same(got, np.array([0, 0, 1, 1, 127, 128, 254, 255, 255], np.uint8))


def test_jpeg_keeps_full_chroma_resolution(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", Picture(RGB))
    assert tag(tmp_path / "a.jpg", "jpeg-chroma-subsample") == "4:4:4"


@pytest.mark.parametrize("suffix", LOSSY)
def test_quality_sets_the_size(suffix: str, tmp_path: Path) -> None:
    noise = (RGB16 >> 8).astype(np.uint8)
    sizes = []
    for quality in (40, None, 100):
        write_image(tmp_path / f"a{suffix}", Picture(noise), quality)
        sizes.append((tmp_path / f"a{suffix}").stat().st_size)
    assert sizes[0] < sizes[1] < sizes[2]


# Colour types


@pytest.mark.parametrize(
    ("array", "name", "options"),
    [
        (RGB[:8, :8], "a.png", {"palette": True, "dither": 0}),
        (np.dstack([RGB, ALPHA])[:8, :8], "a.png", {"palette": True, "dither": 0}),
        (np.where(GRAY > 100, 255, 0).astype(np.uint8), "a.png", {"bitdepth": 1}),
        (np.where(GRAY > 100, 255, 0).astype(np.uint8), "a.tif", {"bitdepth": 1}),
        (
            np.where(GRAY > 100, 255, 0).astype(np.uint8),
            "a.tif",
            {"bitdepth": 1, "miniswhite": True, "compression": "ccittfax4"},
        ),
        (GRAY // 17 * 17, "a.png", {"bitdepth": 4}),
        (np.dstack([GRAY, ALPHA]), "a.png", {}),
        (np.dstack([GRAY16, ALPHA16]), "a.tif", {}),
        (np.dstack([RGB, ALPHA]), "a.webp", {"lossless": True, "exact": True}),
        (RGB, "a.avif", {"lossless": True}),
    ],
    ids=[
        "palette",
        "palette with tRNS",
        "1-bit png",
        "1-bit tiff",
        "1-bit fax tiff",
        "4-bit gray",
        "gray and alpha",
        "16-bit gray and alpha",
        "lossless webp",
        "lossless avif",
    ],
)
def test_colour_types_of_others(
    array: NDArray[Any], name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    vips(array).write_to_file(str(tmp_path / name), **options)
    assert options.get("palette") is None or tag(tmp_path / name, "palette") == 1
    picture = read_image(tmp_path / name)
    bands = 1 if array.ndim == 2 else array.shape[2]
    planes = array.reshape(*array.shape[:2], bands)
    same(picture.pixels, np.repeat(planes[..., :1], 3, axis=2) if bands < 3 else planes[..., :3])
    assert picture.gray == (bands < 3)
    if bands in (2, 4):
        same(picture.alpha, planes[..., -1])
    else:
        assert picture.alpha is None


def test_gif_is_read(tmp_path: Path) -> None:
    vips(RGB[:8, :8]).gifsave(tmp_path / "a.gif", dither=0)
    assert distance(read_image(tmp_path / "a.gif").pixels, RGB[:8, :8]) <= 8


@pytest.mark.parametrize("name", ["a.jpg", "a.tif", "deep.tif"])
@pytest.mark.parametrize("profile", ["cmyk", None, "p3"])
def test_cmyk_becomes_srgb(name: str, profile: str | None, tmp_path: Path) -> None:
    # Muted colours, well inside any press gamut
    colours = np.array([[150, 100, 90], [90, 120, 100], [100, 105, 140], [40, 40, 40]], np.uint8)
    rgb = np.kron(colours[None], np.ones((16, 16, 1), np.uint8))
    deep = name.startswith("deep")
    cmyk = vips(rgb).icc_transform(
        "cmyk",
        input_profile="srgb",
        intent="relative",
        black_point_compensation=True,
        depth=16 if deep else 8,
    )
    cmyk = cmyk.copy()
    assert cmyk.bands == 4
    cmyk.remove("icc-profile-data")
    if profile is not None:  # "p3" is a profile that cannot be meant
        cmyk = tagged(cmyk, icc_profile_data=built_in_profile(profile))
    cmyk.write_to_file(str(tmp_path / name))
    picture = read_image(tmp_path / name)
    assert picture.pixels.dtype == (np.uint16 if deep else np.uint8)
    assert distance(picture.pixels / (257 if deep else 1), rgb) < 6
    assert picture.alpha is None
    icc = picture.metadata.icc
    assert icc is None or icc[16:20] == b"RGB "
    again = written(tmp_path / "b.png", picture)
    same(again.pixels, picture.pixels)


def test_the_embedded_cmyk_profile_counts(tmp_path: Path) -> None:
    # The built-in profile with the middle of each table to Lab overwritten by one Lab gray
    profile = bytearray(built_in_profile("cmyk"))
    (count,) = struct.unpack_from(">I", profile, 128)
    for at in range(132, 132 + 12 * count, 12):
        name, offset, size = struct.unpack_from(">4sII", profile, at)
        if name.startswith(b"A2B"):
            profile[offset + size // 10 : offset + size * 9 // 10] = b"\x80" * (size * 8 // 10)
    cmyk = vips(RGB).icc_transform("cmyk", input_profile="srgb")
    tagged(cmyk, icc_profile_data=bytes(profile)).tiffsave(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif").pixels.std() < 10 < RGB.std()


def test_alpha_beside_cmyk(tmp_path: Path) -> None:
    cmyk = vips(RGB).icc_transform("cmyk", input_profile="srgb")
    cmyk.bandjoin(vips(ALPHA)).tiffsave(tmp_path / "a.tif")
    picture = read_image(tmp_path / "a.tif")
    same(picture.alpha, ALPHA)
    assert picture.pixels.shape == RGB.shape


def test_lab_becomes_srgb(tmp_path: Path) -> None:
    lab = vips(RGB).colourspace("labs")
    tagged(lab, icc_profile_data=built_in_profile("p3")).tiffsave(tmp_path / "a.tif")
    deep = read_image(tmp_path / "a.tif")
    assert deep.pixels.dtype == np.uint16
    assert distance(deep.pixels / 257, RGB) < 2
    assert deep.metadata.icc is None


def test_lab_of_8_bits_is_refused(tmp_path: Path) -> None:
    # libvips has no decoder for it
    (tmp_path / "a.tif").write_bytes(plain_tiff(RGB, photometric=8))
    path = tmp_path / "a.tif"
    assert "bad labq format" in one_line(path, lambda: read_image(path))


def test_first_of_many_pages(tmp_path: Path) -> None:
    pages = pyvips.Image.arrayjoin([vips(RGB), vips(255 - RGB), vips(RGB)], across=1)
    pages = tagged(pages, page_height=H)
    pages.tiffsave(tmp_path / "a.tif")
    pages.webpsave(tmp_path / "a.webp", lossless=True)
    for name in ("a.tif", "a.webp"):
        picture = read_image(tmp_path / name)
        assert picture.pages == 3
        same(picture.pixels, RGB)


# Orientation and metadata

UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".jpg", ".avif"])
def test_orientation_is_applied(suffix: str, orientation: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {"lossless": True} if suffix in (".webp", ".avif") else {}
    if suffix == ".jpg":
        options = {"Q": 100, "subsample_mode": "off"}
    alpha = suffix != ".jpg"
    source = vips(np.dstack([RGB, ALPHA]) if alpha else RGB)
    tagged(source, orientation=orientation).write_to_file(str(tmp_path / f"a{suffix}"), **options)
    picture = read_image(tmp_path / f"a{suffix}")
    assert distance(picture.pixels, UPRIGHT[orientation](RGB)) <= (0 if alpha else 4)
    if alpha:
        same(picture.alpha, UPRIGHT[orientation](ALPHA))
    # Written and read again, nothing turns it a second time
    again = written(tmp_path / f"b{suffix}", picture)
    assert tag(tmp_path / f"b{suffix}", "orientation") in (None, 1)
    assert distance(again.pixels, picture.pixels) <= 20


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".avif", ".tif"])
def test_metadata_is_kept(suffix: str, tmp_path: Path) -> None:
    thumbnail = vips(RGB).jpegsave_buffer(keep="none")
    block = exif_block(6, thumbnail)
    fields = {"exif_data": block, "xmp_data": XMP, "iptc_data": IPTC}
    source = vips(RGB).copy(xres=300 / 25.4, yres=150 / 25.4)
    tagged(source, orientation=6, **fields).jpegsave(tmp_path / "a.jpg")
    assert thumbnail in (tmp_path / "a.jpg").read_bytes()
    first = read_image(tmp_path / "a.jpg")
    path = tmp_path / f"b{suffix}"
    second = written(path, first).metadata
    assert second.xmp == XMP
    assert second.iptc == (IPTC if suffix == ".jpg" else None)
    assert second.resolution == pytest.approx((300 / 25.4, 150 / 25.4), rel=1e-3)
    assert thumbnail not in path.read_bytes()
    assert tag(path, "jpeg-thumbnail-data") is None
    if suffix == ".tif":
        assert second.exif is None
    else:
        assert tag(path, "exif-ifd0-Make").startswith("Jörg ")
        assert tag(path, "exif-ifd0-Orientation") is None or tag(path, "orientation") == 1
        # of the upright picture, not of the source's
        assert tag(path, "exif-ifd2-PixelXDimension").startswith(f"{H} ")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".avif", ".tif"])
def test_resolution_of_the_picture_wins_over_its_exif(suffix: str, tmp_path: Path) -> None:
    vips(RGB).copy(xres=300 / 25.4, yres=300 / 25.4).jpegsave(tmp_path / "a.jpg")
    picture = read_image(tmp_path / "a.jpg")
    assert picture.metadata.exif is not None
    picture = replace(picture, metadata=replace(picture.metadata, resolution=(8.0, 4.0)))
    again = written(tmp_path / f"b{suffix}", picture)
    assert again.metadata.resolution == pytest.approx((8, 4), rel=1e-3)


def test_resolution_that_no_one_named_is_72_per_inch(tmp_path: Path) -> None:
    vips(RGB).pngsave(tmp_path / "a.png", keep="none")
    vips(RGB).webpsave(tmp_path / "a.webp", keep="none")
    for name in ("a.png", "a.webp"):
        assert read_image(tmp_path / name).metadata.resolution == (72 / 25.4, 72 / 25.4)


@pytest.mark.parametrize("exif", [b"Exif\0\0II", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"\0" * 9, b"x"])
def test_broken_exif_costs_no_picture(exif: bytes, tmp_path: Path) -> None:
    data = vips(RGB).jpegsave_buffer(keep="none", Q=100, subsample_mode="off")
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    (tmp_path / "a.jpg").write_bytes(data[:2] + segment + data[2:])
    picture = written(tmp_path / "b.png", read_image(tmp_path / "a.jpg"))
    assert distance(picture.pixels, RGB) <= 4


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".avif", ".tif"])
def test_rgb_keeps_its_values_and_profile(suffix: str, tmp_path: Path) -> None:
    profile = built_in_profile("p3")
    tagged(vips(RGB), icc_profile_data=profile).pngsave(tmp_path / "a.png")
    picture = read_image(tmp_path / "a.png")
    same(picture.pixels, RGB)
    assert picture.metadata.icc == profile
    again = written(tmp_path / f"b{suffix}", picture)
    assert again.metadata.icc == profile
    assert distance(again.pixels, RGB) <= 20


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_gray_keeps_its_values_and_profile(suffix: str, tmp_path: Path) -> None:
    profile = gray_profile(1.0)
    path = tmp_path / f"a{suffix}"
    tagged(vips(GRAY), icc_profile_data=profile).write_to_file(str(path))
    picture = read_image(path)
    assert picture.gray
    assert picture.metadata.icc == profile
    assert distance(picture.pixels[..., 1], GRAY) <= (20 if suffix == ".jpg" else 0)
    again = written(tmp_path / f"b{suffix}", picture)
    assert again.metadata.icc == profile
    assert again.gray


@pytest.mark.parametrize("suffix", [".webp", ".avif"])
@pytest.mark.parametrize("deep", [False, True], ids=["8 bits", "16 bits"])
def test_gray_profile_is_resolved_where_gray_becomes_rgb(
    suffix: str, deep: bool, tmp_path: Path
) -> None:
    # Half of full scale in linear light is sRGB 188
    half = np.full((H, W, 3), 32768 if deep else 128, np.uint16 if deep else np.uint8)
    picture = Picture(half, gray=True, metadata=Metadata(icc=gray_profile(1.0)))
    again = written(tmp_path / f"a{suffix}", picture)
    assert again.metadata.icc is None or again.metadata.icc[16:20] == b"RGB "
    scale = 257 if again.pixels.dtype == np.uint16 else 1
    assert distance(again.pixels / scale, np.full((H, W, 3), 188)) < 2.5


def test_profile_of_another_colour_space_is_dropped(tmp_path: Path) -> None:
    # libvips does not write such files, so the profile's segment is put in by hand
    profile = built_in_profile("p3")
    segment = b"ICC_PROFILE\0\x01\x01" + profile
    segment = b"\xff\xe2" + struct.pack(">H", len(segment) + 2) + segment
    for array, expected in ((RGB, profile), (GRAY, None)):
        data = vips(array).jpegsave_buffer(keep="none")
        (tmp_path / "a.jpg").write_bytes(data[:2] + segment + data[2:])
        assert tag(tmp_path / "a.jpg", "icc-profile-data") == profile
        assert read_image(tmp_path / "a.jpg").metadata.icc == expected


def test_iptc_that_libvips_cuts_is_not_kept(tmp_path: Path) -> None:
    tagged(vips(RGB), iptc_data=IPTC).tiffsave(tmp_path / "a.tif")
    assert tag(tmp_path / "a.tif", "iptc-data") is not None
    assert read_image(tmp_path / "a.tif").metadata.iptc is None


# Bad input


def one_line(path: Path, action: Callable[[], object]) -> str:
    with pytest.raises(ImageError) as caught:
        action()
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{path}: ")
    return text.removeprefix(f"{path}: ")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".avif", ".tif"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.98])
def test_cut_off_files(
    suffix: str, kept: float, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"a{suffix}"
    write_image(path, Picture((RGB16 >> 8).astype(np.uint8)))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    assert one_line(path, lambda: read_image(path)).startswith("cannot be decoded (")
    assert capfd.readouterr() == ("", "")


def test_cut_off_tiff_with_its_directory_in_front(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    data = plain_tiff(RGB, photometric=2)
    path.write_bytes(data)
    same(read_image(path).pixels, RGB)
    path.write_bytes(data[:-400])
    assert "cannot be decoded" in one_line(path, lambda: read_image(path))


def test_corrupt_png(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.png"
    write_image(path, Picture((RGB16 >> 8).astype(np.uint8)))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    assert "cannot be decoded" in one_line(path, lambda: read_image(path))
    assert capfd.readouterr() == ("", "")


def test_stray_bytes_in_a_sound_jpeg_are_no_error(tmp_path: Path) -> None:
    data = vips(RGB).jpegsave_buffer(keep="none", Q=100, subsample_mode="off")
    at = data.index(b"\xff\xc0")
    (tmp_path / "a.jpg").write_bytes(data[:at] + b"\0\0" + data[at:] + b"trailing")
    assert distance(read_image(tmp_path / "a.jpg").pixels, RGB) <= 4


def test_files_that_are_no_image(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.png"
    text.write_text("not an image\n" * 20)
    assert "is of no known format" in one_line(text, lambda: read_image(text))
    empty = tmp_path / "empty.png"
    empty.touch()
    assert one_line(empty, lambda: read_image(empty)).startswith("is empty, ")
    missing = tmp_path / "missing.png"
    assert one_line(missing, lambda: read_image(missing)).startswith("no such file, ")
    folder = tmp_path / "folder.png"
    folder.mkdir()
    assert one_line(folder, lambda: read_image(folder)).startswith("is a folder, ")
    below = text / "a.png"
    assert "Not a directory" in one_line(below, lambda: read_image(below))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (9, 1)])
def test_too_small(height: int, width: int, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    vips(RGB[:height, :width].copy()).pngsave(path)
    text = one_line(path, lambda: read_image(path))
    assert text == f"is {width}x{height} pixels, too small to upscale; remove it from the input"


def test_smallest_that_is_read(tmp_path: Path) -> None:
    same(written(tmp_path / "a.png", Picture(RGB[:2, :2])).pixels, RGB[:2, :2])


@pytest.mark.parametrize(
    ("kind", "found"),
    [("float", "type float"), ("uint", "type uint"), ("short", "type short")],
)
def test_samples_that_are_refused(kind: str, found: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    vips(RGB).cast(kind).tiffsave(path)
    assert found in one_line(path, lambda: read_image(path))


def test_too_many_channels(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    vips(np.dstack([RGB, ALPHA, ALPHA])).tiffsave(path)
    assert one_line(path, lambda: read_image(path)).startswith("has 5 channels, expected ")


# Names, freshness, threads


def test_content_decides_not_the_suffix(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(vips(RGB).tiffsave_buffer())
    same(read_image(path).pixels, RGB)
    same(written(tmp_path / "A.PNG", Picture(RGB)).pixels, RGB)
    assert (tmp_path / "A.PNG").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "name", [b"photo[1].png", b"a [page=2].png", "ö雪.png".encode(), b"\xff.png"]
)
def test_odd_names(name: bytes, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(name)
    same(written(path, Picture(RGB)).pixels, RGB)
    assert os.listdir(os.fsencode(tmp_path)) == [name]


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    for pixels in (RGB, 255 - RGB, RGB):
        path.write_bytes(vips(pixels).pngsave_buffer())
        same(read_image(path).pixels, pixels)


def test_operations_are_not_cached(tmp_path: Path) -> None:
    pyvips.cache_set_max(100)
    write_image(tmp_path / "a.png", Picture(RGB))
    read_image(tmp_path / "a.png")
    assert pyvips.vips_lib.vips_cache_get_max() == 0


def test_many_threads(tmp_path: Path) -> None:
    def work(number: int) -> None:
        pixels = np.roll(RGB, number, axis=1)
        path = tmp_path / f"{number}{'.tif' if number % 2 else '.png'}"
        if number % 3 == 0:
            path.write_bytes(vips(pixels).pngsave_buffer()[:100])
            one_line(path, lambda: read_image(path))
        else:
            same(written(path, Picture(pixels, ALPHA)).pixels, pixels)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(60)))


def test_importing_the_module_does_not_load_libvips() -> None:
    code = "import sys, srtool.images.writing; sys.exit('pyvips' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Writing that fails


def test_jpeg_refuses_transparency(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    text = one_line(path, lambda: write_image(path, Picture(RGB, ALPHA)))
    assert text == "has transparency, which JPEG cannot hold"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("suffix", "side"), [(".webp", 16383), (".avif", 16384), (".jpg", 65500)])
def test_sizes_that_a_format_cannot_hold(suffix: str, side: int, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    too_wide = np.zeros((16, side + 1, 3), np.uint8)
    text = one_line(path, lambda: write_image(path, Picture(too_wide)))
    assert text.startswith(f"is {side + 1}x16 pixels, ")
    assert list(tmp_path.iterdir()) == []
    assert written(path, Picture(too_wide[:, :-1])).pixels.shape == (16, side, 3)


@pytest.mark.parametrize("name", ["a.gif", "a.bmp", "a"])
def test_formats_that_are_not_written(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    assert " .png " in one_line(path, lambda: write_image(path, Picture(RGB)))


@pytest.mark.parametrize("quality", [0, 101])
def test_quality_out_of_range(
    quality: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match=f"quality is {quality}, expected 1 to 100"):
        write_image(tmp_path / "a.jpg", Picture(RGB), quality)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", [".bmp", ".ppm", ".jp2"])
def test_the_only_limit_on_pixels_is_the_callers(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(RGB).save(path, lossless=True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow's own
    same(read_image(path, H * W).pixels, RGB)
    with pytest.raises(ImageError) as caught:
        read_image(path, H * W - 1)
    assert caught.value.remedy == {"max_pixels": H * W}


def test_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    below = file / "a.png"
    assert "cannot be written (" in one_line(below, lambda: write_image(below, Picture(RGB)))
    folder = tmp_path / "b.png"
    folder.mkdir()
    assert "Is a directory" in one_line(folder, lambda: write_image(folder, Picture(RGB)))

    def refuse(name: Path, *_: int) -> int:
        raise PermissionError(13, "Permission denied", str(name))

    # The tests may run as root, to whom nothing is forbidden
    monkeypatch.setattr("srtool.files.os.open", refuse)
    path = tmp_path / "c.png"
    text = one_line(path, lambda: write_image(path, Picture(RGB)))
    assert text.startswith("cannot be written (Permission denied), ")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["b.png", "file"]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            pyvips.Error("no", "old: line\npngsave: out of memory\n  (7)\n"),
            "pngsave: out of memory",
        ),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_a_failing_write_leaves_what_was_there(
    error: Exception, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bytes:
        raise error

    path = tmp_path / "a.png"
    write_image(path, Picture(RGB))
    before = path.read_bytes()
    monkeypatch.setattr(writing, "_encoded", fail)
    assert f"({text})" in one_line(path, lambda: write_image(path, Picture(255 - RGB)))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    new = tmp_path / "new.png"
    one_line(new, lambda: write_image(new, Picture(RGB)))
    assert list(tmp_path.iterdir()) == [path]


def test_a_picture_of_wrong_shape_or_dtype_is_our_own_fault() -> None:
    for pixels in (GRAY, RGB[..., :2], RGB.astype(np.float64)):
        with pytest.raises(AssertionError):
            Picture(pixels)  # type: ignore[arg-type]
    for alpha in (ALPHA16, ALPHA[1:]):
        with pytest.raises(AssertionError):
            replace(Picture(RGB), alpha=alpha)


def test_arrays_in_any_memory_layout_are_written(tmp_path: Path) -> None:
    turned, alpha = RGB[::-1, ::2], ALPHA[::-1, ::2]
    picture = written(tmp_path / "a.png", Picture(turned, alpha))
    same(picture.pixels, turned)
    same(picture.alpha, alpha)
