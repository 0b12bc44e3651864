"""What a picture carries beside its pixels, and what of it libvips does not tell: colour signals
without a profile (gAMA, cHRM and cICP of PNG, nclx of AVIF), texts, pages of TIFF, parts of EXIF.

Code points: ITU-T H.273. PNG: W3C PNG (third edition), 11.3.2. Profile: ICC.1:2010, matrix/TRC.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

# CIE 1931 x, y of white, red, green and blue
Primaries = tuple[float, float, float, float, float, float, float, float]

_D65 = (0.3127, 0.3290)
SRGB: Primaries = (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_PRIMARIES: dict[int, Primaries] = {
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),  # BT.2020
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # DCI P3
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # Display P3
}
_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}
_HDR = {16: "PQ", 18: "HLG"}
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_XMP = b"XML:com.adobe.xmp\0"
_MOST_TEXT = 4 << 20  # bytes of all texts together
_SCREEN_RESOLUTION = 72 / 25.4


@dataclass(frozen=True)
class Signal:
    """How numbers become light. gamma: the exponent of the display, None for sRGB's curve. hdr:
    "PQ" or "HLG", else empty. chunks: the PNG chunks that say all this, whole."""

    primaries: Primaries
    gamma: float | None
    hdr: str
    chunks: tuple[bytes, ...]


@dataclass(frozen=True)
class Metadata:
    """What a picture carries besides its samples.

    `icc` is the profile that the samples are in (None: `signal`, else sRGB or an unnamed gray);
    `exif`, `xmp` and `iptc` are the blocks of the source file. `resolution` is horizontal and
    vertical pixels per millimetre, 72 per inch where the source names none. `signal`: primaries
    and transfer that the source names without a profile (gAMA, cHRM, cICP, nclx), None for sRGB.
    `texts`: tEXt, zTXt and iTXt chunks of a PNG file, whole.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    resolution: tuple[float, float] = (_SCREEN_RESOLUTION, _SCREEN_RESOLUTION)
    signal: Signal | None = None
    texts: tuple[bytes, ...] = ()


def signal_from_codes(primaries: int, transfer: int, full_range: int = 1) -> Signal | None:
    """Of cICP and nclx; None for sRGB and what is shown as that (BT.709, unspecified)."""
    colours, gamma = _PRIMARIES.get(primaries, SRGB), _GAMMAS.get(transfer)
    hdr = _HDR.get(transfer, "")
    if colours == SRGB and gamma is None and not hdr:
        return None
    return Signal(
        colours, gamma, hdr, (chunk(b"cICP", bytes([primaries, transfer, 0, full_range])),)
    )


def signal_of_heif(head: bytes) -> Signal | None:
    """The nclx box among the first bytes of an AVIF or HEIF file."""
    at = head.find(b"colrnclx")
    if at < 0 or len(head) < at + 15:
        return None
    primaries, transfer = struct.unpack_from(">HH", head, at + 8)
    return signal_from_codes(min(primaries, 255), min(transfer, 255))


@dataclass(frozen=True)
class PngFacts:
    """What libvips does not tell of a PNG file. frames: of an animation, else 1."""

    signal: Signal | None
    texts: tuple[bytes, ...]
    frames: int


def facts_of_png(file: BinaryIO) -> PngFacts:
    """Read from the chunks of a PNG file, without its pixels; what is damaged counts as absent."""
    found: dict[bytes, bytes] = {}
    texts: list[bytes] = []
    for kind, whole in _chunks(file):
        if kind not in _TEXTS:
            found.setdefault(kind, whole)
        elif not whole[8:].startswith(_XMP):  # libvips keeps XMP
            texts.append(whole)
    frames = 1
    if b"acTL" in found:
        frames = max(1, int.from_bytes(found[b"acTL"][8:12], "big"))
    return PngFacts(_signal_of_png(found), tuple(texts), frames)


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """(name, whole chunk) of the small ones that matter here, with a right checksum."""
    file.seek(8)
    room = _MOST_TEXT
    while len(start := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", start)
        if kind == b"IEND":
            return
        wanted = kind in (b"gAMA", b"cHRM", b"cICP", b"sRGB", b"acTL", b"iCCP")
        if (wanted and length <= 256) or (kind in _TEXTS and length <= room):
            rest = file.read(length + 4)
            if len(rest) == length + 4 and zlib.crc32(kind + rest[:-4]) == int.from_bytes(
                rest[-4:], "big"
            ):
                room -= length if kind in _TEXTS else 0
                yield kind, start + rest
        else:
            if kind == b"iCCP":
                yield kind, start
            file.seek(length + 4, 1)


def _signal_of_png(found: dict[bytes, bytes]) -> Signal | None:
    codes = found.get(b"cICP", b"")
    if len(codes) == 16:
        return signal_from_codes(codes[8], codes[9], codes[11])
    if b"iCCP" in found or b"sRGB" in found:
        return None
    colours, gamma = SRGB, None
    kept = []
    if len(found.get(b"cHRM", b"")) == 44:
        values = struct.unpack(">8I", found[b"cHRM"][8:40])
        if max(values) <= 100_000 and min(values[1::2]) > 0:
            x = [value / 100_000 for value in values]
            colours = (x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7])
            kept.append(found[b"cHRM"])
    if len(found.get(b"gAMA", b"")) == 16:
        encoded = int.from_bytes(found[b"gAMA"][8:12], "big") / 100_000
        if 0.05 <= encoded <= 20:
            gamma = None if abs(encoded * 2.2 - 1) < 0.05 else 1 / encoded
            kept.append(found[b"gAMA"])
    close = max(abs(a - b) for a, b in zip(colours, SRGB, strict=True)) < 0.002
    if gamma is None and close:
        return None
    return Signal(SRGB if close else colours, gamma, "", tuple(kept))


def chunk(kind: bytes, data: bytes) -> bytes:
    """A whole PNG chunk."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def full_page(file: BinaryIO) -> tuple[int, int]:
    """Of a TIFF file: the first page that is no thumbnail or mask (NewSubfileType), and how many
    such pages there are. TIFF 6.0 and BigTIFF; where the file is damaged, libvips says so."""
    file.seek(0)
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = struct.unpack(order + "H", head[2:4])[0] == 43
    size, count, offset = (20, "Q", "Q") if big else (12, "H", "I")
    seen: list[int] = []
    full: list[int] = []
    try:
        (at,) = struct.unpack_from(order + offset, head, 8 if big else 4)
        while at and at not in seen and len(seen) < 4096:
            file.seek(at)
            (entries,) = struct.unpack(order + count, file.read(struct.calcsize(count)))
            table = file.read(min(entries, 4096) * size)
            kinds = [
                struct.unpack_from(order + "I", table, place + (12 if big else 8))[0]
                for place in range(0, len(table) - size + 1, size)
                if struct.unpack_from(order + "H", table, place)[0] == 254
            ]
            if not kinds or not kinds[0] & 0b101:
                full.append(len(seen))
            seen.append(at)
            (at,) = struct.unpack(order + offset, file.read(struct.calcsize(offset)))
    except struct.error:
        pass
    return (full[0], len(full)) if full else (0, max(1, len(seen)))


def without_thumbnail(exif: bytes) -> bytes | None:
    """Cut the second image directory off an EXIF block (TIFF 6.0, section 2): the thumbnail there
    is as the camera held it, not upright. A block too broken for that is dropped."""
    start = 6 if exif.startswith(b"Exif\0\0") else 0
    order = "<" if exif[start : start + 2] == b"II" else ">"
    try:
        (directory,) = struct.unpack_from(f"{order}I", exif, start + 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, start + directory)
    except struct.error:
        return None
    link = start + directory + 2 + 12 * entries
    return exif[:link] + bytes(4) + exif[link + 4 :]


def ratio(text: str) -> float:
    """ "300" or "300/1" as a number; 0 where it is none. Floating point: files claim exponents
    that whole numbers would be computed to for ever."""
    numerator, _, denominator = text[:64].partition("/")
    try:
        return float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError, OverflowError):
        return 0.0


def profile_from_signal(signal: Signal, gray: bool = False) -> bytes:
    """An ICC profile, version 4, that says the same; not for HDR, which it could not say."""
    assert not signal.hdr
    curve = _curve(signal.gamma)
    texts = b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", 12, 28)
    texts += "srtool".encode("utf-16-be")
    tags = {b"desc": texts, b"cprt": texts, b"wtpt": _xyz(np.array([0.9642, 1.0, 0.8249]))}
    if gray:
        tags[b"kTRC"] = curve
    else:
        columns, adapted = _matrix(signal.primaries)
        tags[b"chad"] = b"sf32" + bytes(4) + _fixed(adapted)
        for name, column in zip((b"r", b"g", b"b"), columns.T, strict=True):
            tags[name + b"XYZ"] = _xyz(column)
            tags[name + b"TRC"] = curve
    offset = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    space = b"GRAY" if gray else b"RGB "
    head = struct.pack(">I4xI", offset + len(body), 0x04200000) + b"mntr" + space + b"XYZ "
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    head += _fixed(np.array([0.9642, 1.0, 0.8249])) + bytes(48)
    return head + table + body


def _curve(gamma: float | None) -> bytes:
    if gamma is None:  # sRGB's, IEC 61966-2-1
        parameters = np.array([2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045])
        return b"para" + bytes(4) + struct.pack(">HH", 3, 0) + _fixed(parameters)
    return b"para" + bytes(4) + struct.pack(">HH", 0, 0) + _fixed(np.array([gamma]))


def _xyz(values: NDArray[np.float64]) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(values)


def _fixed(values: NDArray[np.float64]) -> bytes:
    rounded = np.rint(values.ravel() * 65536).clip(-(2**31), 2**31 - 1)
    return rounded.astype(">i4").tobytes()


_TO_CONES = np.array(  # Bradford
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


def _matrix(primaries: Primaries) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """RGB -> XYZ relative to D50, and the adaptation to D50 (Bradford) within it."""
    xy = np.array(primaries).reshape(4, 2)
    xyz = np.stack([xy[:, 0] / xy[:, 1], np.ones(4), (1 - xy.sum(1)) / xy[:, 1]])
    white, columns = xyz[:, 0], xyz[:, 1:]
    try:
        scaled = columns * np.linalg.solve(columns, white)
    except np.linalg.LinAlgError:  # three primaries on one line say nothing
        return _matrix(SRGB)
    d50 = np.array([0.9642, 1.0, 0.8249])
    cones = np.diag(_TO_CONES @ d50 / (_TO_CONES @ white))
    adapted = np.linalg.inv(_TO_CONES) @ cones @ _TO_CONES
    return adapted @ scaled, adapted
