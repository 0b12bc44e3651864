"""The image formats: by their suffix, and by the first bytes of a file."""

from __future__ import annotations

from typing import Literal, get_args

# Suffix -> format, of all that are read. Nothing else is ever handed to a decoder: no SVG, no
# PDF, no text.
FORMATS = {
    ".png": "PNG",
    ".apng": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".pjpeg": "JPEG",
    ".webp": "WebP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".avif": "AVIF",
    ".heic": "HEIF",
    ".heif": "HEIF",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".dib": "BMP",
    ".ppm": "PNM",
    ".pgm": "PNM",
    ".pbm": "PNM",
    ".pnm": "PNM",
    ".jp2": "JPEG 2000",
    ".j2k": "JPEG 2000",
    ".jpx": "JPEG 2000",
}
READABLE = frozenset(FORMATS)
WRITABLE = frozenset(
    suffix
    for suffix, format in FORMATS.items()
    if format in ("PNG", "JPEG", "WebP", "TIFF", "AVIF") and suffix != ".apng"
)

# By which name one of these is asked for
Written = Literal["png", "jpg", "webp", "tif", "avif"]
WRITTEN: tuple[Written, ...] = get_args(Written)

# Pixels a side, and of all that an encoder holds at a time where it holds the whole picture
LARGEST_SIDE = {"JPEG": 65500, "WebP": 16383, "AVIF": 16384}
LARGEST_AREA = {"WebP": 100_000_000, "AVIF": 100_000_000}

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
)
_BRANDS = {
    b"avif": "AVIF",
    b"avis": "AVIF",
    b"heic": "HEIF",
    b"heix": "HEIF",
    b"heim": "HEIF",
    b"heis": "HEIF",
    b"hevc": "HEIF",
    b"mif1": "HEIF",
    b"msf1": "HEIF",
}
HEAD = 64  # bytes that `format_of` looks at


def suffix_of(head: bytes) -> str:
    """The suffix of what a picture is written as by default, by the first HEAD bytes of its file:
    its own format's, ".png" where that is not written."""
    format = format_of(head)
    own = next((suffix for suffix, name in FORMATS.items() if name == format), "")
    return own if own in WRITABLE else ".png"


def format_of(head: bytes) -> str | None:
    """The format that a file's first HEAD bytes show, None where it is none that is read."""
    for magic, format in _MAGIC:
        if head.startswith(magic):
            return format
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[4:8] == b"ftyp":
        if b"avif" in head[8:]:
            return "AVIF"
        return _BRANDS.get(head[8:12])
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3] in (b" ", b"\n", b"\r", b"\t"):
        return "PNM"
    return None
