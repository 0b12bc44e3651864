"""Files that are hard on a reader of images: cut off, damaged, lying, odd, or no images at all.

    python tools/zoo.py FOLDER

`animals` gives each with what is right: "done", "failed" in one line, or "either". Nothing of it
may end a run, hang, or leave a file that is not whole.
"""

from __future__ import annotations

import io
import os
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyvips
from PIL import Image

DONE, FAILED, EITHER = "done", "failed", "either"
H, W = 40, 48
PIXELS = np.random.default_rng(0).integers(0, 256, (H, W, 3), np.uint8)
PIXELS[:, :20] = 120


@dataclass(frozen=True)
class Animal:
    """make: puts it at a path. right: what becomes of it."""

    name: str
    make: Callable[[Path], None]
    right: str


def animals() -> list[Animal]:
    """All kinds."""
    return [*_of_formats(), *_of_content(), *_of_the_file_system()]


def whole(format: str) -> bytes:
    """A sound file of a format, by its suffix."""
    image = pyvips.Image.new_from_array(PIXELS).copy(interpretation="srgb")
    by_vips = {
        ".png": lambda: image.pngsave_buffer(),
        ".jpg": lambda: image.jpegsave_buffer(),
        ".webp": lambda: image.webpsave_buffer(),
        ".tif": lambda: image.tiffsave_buffer(compression="deflate"),
        ".avif": lambda: image.heifsave_buffer(compression="av1", effort=0),
        ".gif": lambda: image.gifsave_buffer(),
    }
    if format in by_vips:
        return bytes(by_vips[format]())
    stream = io.BytesIO()
    names = {".bmp": "BMP", ".ppm": "PPM", ".jp2": "JPEG2000"}
    Image.fromarray(PIXELS).save(stream, names[format])
    return stream.getvalue()


FORMATS = (".png", ".jpg", ".webp", ".tif", ".avif", ".gif", ".bmp", ".ppm", ".jp2")


def _file(content: bytes) -> Callable[[Path], None]:
    return lambda path: _write(path, content)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _of_formats() -> Iterator[Animal]:
    for suffix in FORMATS:
        content = whole(suffix)
        kind = suffix[1:]
        noise = np.random.default_rng(len(content)).integers(0, 256, 400, np.uint8).tobytes()
        middle = len(content) // 2
        yield Animal(f"{kind}-sound{suffix}", _file(content), DONE)
        yield Animal(f"{kind}-empty{suffix}", _file(b""), FAILED)
        yield Animal(f"{kind}-head-only{suffix}", _file(content[:24]), FAILED)
        yield Animal(f"{kind}-half{suffix}", _file(content[:middle]), FAILED)
        yield Animal(
            f"{kind}-noise-within{suffix}",
            _file(content[:middle] + noise + content[middle + len(noise) :]),
            EITHER,
        )
        yield Animal(f"{kind}-more-after{suffix}", _file(content + noise), EITHER)
        other = ".jpg" if suffix != ".jpg" else ".png"
        yield Animal(f"{kind}-named-otherwise{other}", _file(content), DONE)


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file of these chunks, whatever they say."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def _header(width: int, height: int, bits: int = 8, colour: int = 2, interlace: int = 0) -> bytes:
    return struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace)


def _rows(width: int, height: int) -> bytes:
    return zlib.compress(bytes((1 + 3 * width) * height))


def _of_content() -> Iterator[Animal]:
    sound, ihdr, idat = whole(".png"), (b"IHDR", _header(9, 9)), (b"IDAT", _rows(9, 9))
    end = (b"IEND", b"")
    jpeg, tiff = whole(".jpg"), whole(".tif")
    exif = b"Exif\0\0II*\0\x08\0\0\0"
    # PNG
    yield Animal(
        "png-claims-65500.png", _file(png((b"IHDR", _header(65500, 65500)), idat, end)), FAILED
    )
    yield Animal(
        "png-claims-2-billion.png",
        _file(png((b"IHDR", _header(2**31 - 1, 2**31 - 1)), idat, end)),
        FAILED,
    )
    yield Animal(
        "png-claims-more-rows.png", _file(png((b"IHDR", _header(9, 90)), idat, end)), FAILED
    )
    yield Animal("png-zero-wide.png", _file(png((b"IHDR", _header(0, 9)), idat, end)), FAILED)
    yield Animal(
        "png-one-pixel.png",
        _file(png((b"IHDR", _header(1, 1)), (b"IDAT", _rows(1, 1)), end)),
        FAILED,
    )
    yield Animal(
        "png-colour-type-5.png", _file(png((b"IHDR", _header(9, 9, 8, 5)), idat, end)), FAILED
    )
    yield Animal("png-depth-3.png", _file(png((b"IHDR", _header(9, 9, 3)), idat, end)), FAILED)
    yield Animal("png-without-pixels.png", _file(png(ihdr, end)), FAILED)
    yield Animal(
        "png-without-palette.png",
        _file(png((b"IHDR", _header(9, 9, 8, 3)), (b"IDAT", zlib.compress(bytes(90))), end)),
        FAILED,
    )
    yield Animal(
        "png-pixels-that-do-not-inflate.png", _file(png(ihdr, (b"IDAT", b"x" * 99), end)), FAILED
    )
    yield Animal("png-wrong-checksum.png", _file(sound[:-30] + b"\0" + sound[-29:]), FAILED)
    yield Animal(
        "png-chunk-of-4-gigabytes.png",
        _file(sound[:33] + b"\xff\xff\xff\xfftEXt" + sound[33:]),
        FAILED,
    )
    yield Animal(
        "png-text-bomb.png",
        _file(png(ihdr, (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(50_000_000))), idat, end)),
        EITHER,
    )
    yield Animal(
        "png-profile-of-noise.png",
        _file(png(ihdr, (b"iCCP", b"p\0\0" + zlib.compress(bytes(range(256)))), idat, end)),
        DONE,
    )
    yield Animal("png-gamma-zero.png", _file(png(ihdr, (b"gAMA", bytes(4)), idat, end)), DONE)
    yield Animal(
        "png-chromaticities-on-a-line.png",
        _file(png(ihdr, (b"cHRM", struct.pack(">8I", *[31270, 32900] * 4)), idat, end)),
        DONE,
    )
    yield Animal(
        "png-animation.png", _file(png(ihdr, (b"acTL", struct.pack(">II", 3, 0)), idat, end)), DONE
    )
    yield Animal("png-interlaced-half.png", _file(_saved("pngsave", interlace=True)[:2000]), FAILED)
    # JPEG
    size = jpeg.index(b"\xff\xc0") + 5
    for name, sides in (("65500", b"\xff\xdc\xff\xdc"), ("zero", bytes(4)), ("taller", b"\x20\0")):
        right = EITHER if name == "taller" else FAILED
        content = jpeg[:size] + sides + jpeg[size + len(sides) :]
        yield Animal(f"jpeg-claims-{name}.jpg", _file(content), right)
    yield Animal(
        "jpeg-without-tables.jpg",
        _file(jpeg.replace(b"\xff\xdb", b"\xff\xfe").replace(b"\xff\xc4", b"\xff\xfe")),
        FAILED,
    )
    yield Animal(
        "jpeg-progressive-half.jpg", _file(_saved("jpegsave", interlace=True)[:900]), FAILED
    )
    yield Animal("jpeg-stray-bytes.jpg", _file(jpeg[:-2] + bytes(300) + jpeg[-2:]), EITHER)
    for name, value in (
        ("exif-number-of-a-billion-digits", b"1e999999999\0"),
        ("exif-infinite", b"1e400\0"),
        ("exif-negative", b"-5\0"),
    ):
        entry = struct.pack("<HHHII", 1, 0x11A, 2, len(value), 26) + bytes(4)
        block = exif + entry + value
        segment = b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block
        yield Animal(f"jpeg-{name}.jpg", _file(jpeg[:2] + segment + jpeg[2:]), DONE)
    entry = struct.pack("<HHHIII", 1, 0x11A, 5, 1, 26, 0) + struct.pack("<II", 72, 0)
    segment = b"\xff\xe1" + struct.pack(">H", len(exif + entry) + 2) + exif + entry
    yield Animal("jpeg-exif-by-zero.jpg", _file(jpeg[:2] + segment + jpeg[2:]), DONE)
    block = b"Exif\0\0" + b"\xff" * 500
    yield Animal(
        "jpeg-exif-of-noise.jpg",
        _file(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]),
        DONE,
    )
    # TIFF
    yield Animal(
        "tiff-directories-in-a-circle.tif", _file(b"II*\0\x08\0\0\0\0\0\x08\0\0\0"), FAILED
    )
    yield Animal(
        "tiff-directory-beyond-the-end.tif", _file(b"II*\0\xff\xff\xff\x7f" + tiff[8:]), FAILED
    )
    yield Animal("tiff-65535-entries.tif", _file(b"II*\0\x08\0\0\0\xff\xff" + bytes(3000)), FAILED)
    for kind in ("float", "int", "double", "complex"):
        gray = pyvips.Image.new_from_array(PIXELS[..., 0]).cast(kind)
        yield Animal(f"tiff-{kind}.tif", _file(gray.tiffsave_buffer()), FAILED)
    five = pyvips.Image.new_from_array(np.repeat(PIXELS, 2, 2)[..., :5])
    yield Animal("tiff-five-channels.tif", _file(five.tiffsave_buffer()), FAILED)
    cmyk = pyvips.Image.new_from_array(np.repeat(PIXELS, 2, 2)[..., :4])
    cmyk = cmyk.copy(interpretation="cmyk")
    yield Animal("tiff-cmyk.tif", _file(cmyk.tiffsave_buffer()), DONE)
    yield Animal("jpeg-cmyk.jpg", _file(cmyk.jpegsave_buffer()), DONE)
    # Others
    bmp = whole(".bmp")
    yield Animal(
        "bmp-claims-2-billion.bmp", _file(bmp[:18] + b"\xff\xff\xff\x7f" * 2 + bmp[26:]), FAILED
    )
    yield Animal("bmp-run-lengths.bmp", _file(bmp[:30] + b"\x01" + bmp[31:]), EITHER)
    yield Animal("ppm-claims-a-lot.ppm", _file(b"P6 99999999 99999999 255\n" + bytes(99)), FAILED)
    yield Animal("ppm-of-words.ppm", _file(b"P6 nine nine 255\n" + bytes(300)), FAILED)
    yield Animal("pgm-16-bit.pgm", _file(b"P5 9 9 65535\n" + bytes(162)), DONE)
    gif = whole(".gif")
    yield Animal("gif-claims-65535.gif", _file(gif[:6] + b"\xff\xff\xff\xff" + gif[10:]), EITHER)
    webp = whole(".webp")
    yield Animal("webp-claims-4-gigabytes.webp", _file(webp[:4] + b"\xff" * 4 + webp[8:]), EITHER)
    for name, text in (
        ("svg", b"<svg xmlns='http://www.w3.org/2000/svg' width='60000' height='60000'/>"),
        ("pdf", b"%PDF-1.4\n1 0 obj <</Type /Catalog>> endobj"),
        ("text", b"I am a text, honestly.\n" * 20),
        ("csv", b"1,2,3\n4,5,6\n"),
        ("html", b"<!DOCTYPE html><title>404</title>"),
        ("zip", b"PK\x03\x04" + bytes(400)),
        ("program", b"\x7fELF" + bytes(400)),
        ("nul-bytes", bytes(4000)),
        ("vips", b"\x08\xf2\xa6\xb6" + bytes(400)),
        ("pfm", b"PF\n9 9\n-1.0\n" + bytes(972)),
    ):
        yield Animal(f"{name}.png", _file(text), FAILED)


def _saved(operation: str, **options: object) -> bytes:
    image = pyvips.Image.new_from_array(PIXELS).copy(interpretation="srgb")
    return bytes(getattr(image, f"{operation}_buffer")(**options))


def _of_the_file_system() -> Iterator[Animal]:
    sound = whole(".png")
    if hasattr(os, "mkfifo"):
        yield Animal("pipe.png", lambda path: os.mkfifo(path), FAILED)
        yield Animal("link-to-zero.png", lambda path: path.symlink_to("/dev/zero"), FAILED)
        yield Animal("link-to-proc.png", lambda path: path.symlink_to("/proc/self/mem"), FAILED)
        yield Animal("link-to-nothing.png", lambda path: path.symlink_to("nowhere"), FAILED)
        yield Animal("link-to-itself.png", lambda path: path.symlink_to(path.name), FAILED)
        yield Animal("bell\a and \x1b[31mred\x1b[0m.png", _file(sound), DONE)
        yield Animal("two\nlines.png", _file(sound), DONE)
        yield Animal(os.fsdecode(b"no-utf8-\xff\xfe.png"), _file(sound), DONE)
    yield Animal("[a-z]*?.png", _file(sound), DONE)
    yield Animal("x" * 240 + ".png", _file(sound), DONE)
    yield Animal(" .png", _file(sound), DONE)
    yield Animal("-o.png", _file(sound), DONE)


def fill(folder: Path) -> list[Animal]:
    """Put one of each into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = animals()
    for animal in kept:
        animal.make(folder / animal.name)
    return kept


if __name__ == "__main__":
    print(len(fill(Path(sys.argv[1]))), "kinds")  # noqa: T201
