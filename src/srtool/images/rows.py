"""Rows that are still being made, in a form that libvips reads: a TIFF file that is never there."""

from __future__ import annotations

import struct
from collections.abc import Callable

_STRIP = 1 << 18  # bytes, about


class TiffOfRows:
    """An uncompressed BigTIFF whose directory stands first and whose strips follow in order.

    libvips has no other way in for rows that do not lie in memory or on disk. `read` and `seek`
    are those of a file; no byte of a row can be read twice.
    """

    def __init__(
        self, width: int, height: int, bands: int, bytes_: int, part: Callable[[], bytes]
    ) -> None:
        """bands: 1 to 4, gray or RGB with or without alpha. bytes_: of a sample, native order.
        part: gives the next rows, and nothing where no more will come."""
        row = width * bands * bytes_
        self._head = _head(width, height, bands, bytes_, max(1, _STRIP // row))
        self._size = len(self._head) + height * row
        self._part, self._left = part, memoryview(b"")
        self._position, self._taken = 0, len(self._head)
        self._is_over = False

    @property
    def missing(self) -> int:
        """Bytes of rows that were not read."""
        return self._size - self._taken

    def seek(self, offset: int, whence: int) -> int:
        """As of a file."""
        start = (0, self._position, self._size)[whence]
        self._position = start + offset
        return self._position

    def read(self, count: int) -> bytes:
        """As of a file; less than asked for at the end of each part, nothing at the end of all."""
        if self._position < len(self._head):
            found = self._head[self._position : self._position + count]
        elif self._position != self._taken or self._is_over or not self.missing:
            return b""
        else:
            if not self._left:
                self._left = memoryview(self._part())
                self._is_over = not self._left
            found = bytes(self._left[:count])
            self._left = self._left[count:]
            self._taken += len(found)
        self._position += len(found)
        return found


def _head(width: int, height: int, bands: int, bytes_: int, rows: int) -> bytes:
    """Header and directory; rows: of a strip."""
    count = -(-height // rows)
    row = width * bands * bytes_
    lengths = [rows * row] * (count - 1) + [(height - rows * (count - 1)) * row]
    entries = [
        (256, 4, 1, struct.pack("<I", width)),
        (257, 4, 1, struct.pack("<I", height)),
        (258, 3, bands, struct.pack(f"<{bands}H", *[8 * bytes_] * bands)),
        (259, 3, 1, struct.pack("<H", 1)),
        (262, 3, 1, struct.pack("<H", 1 if bands < 3 else 2)),
        (273, 16, count, None),
        (277, 3, 1, struct.pack("<H", bands)),
        (278, 4, 1, struct.pack("<I", rows)),
        (279, 16, count, None),
        (284, 3, 1, struct.pack("<H", 1)),
    ]
    if bands in (2, 4):
        entries.append((338, 3, 1, struct.pack("<H", 2)))  # alpha, not multiplied in
    tables = 16 + 8 + 20 * len(entries) + 8
    first = tables + 16 * count
    offsets = [first + number * rows * row for number in range(count)]
    outside = {273: (offsets, tables), 279: (lengths, tables + 8 * count)}
    head = b"II" + struct.pack("<HHHQ", 43, 8, 0, 16) + struct.pack("<Q", len(entries))
    for tag, kind, number, value in entries:
        if value is None:  # a table of one stands in the directory itself
            table, at = outside[tag]
            value = struct.pack("<Q", table[0] if count == 1 else at)
        head += struct.pack("<HHQ", tag, kind, number) + value.ljust(8, b"\0")
    head += bytes(8)
    return head + struct.pack(f"<{2 * count}Q", *offsets, *lengths)
