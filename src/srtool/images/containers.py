"""What stands in a file beside its pixels, and libvips does not tell: pages of TIFF, parts of
EXIF."""

from __future__ import annotations

import struct
from typing import BinaryIO


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
