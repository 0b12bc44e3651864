"""Pictures to image files, whole or not at all, in one piece or row by row."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srtool.errors import ImageError, UsageError
from srtool.files import whole_file
from srtool.images.formats import FORMATS, LARGEST_AREA, LARGEST_SIDE, WRITABLE
from srtool.images.metadata import Metadata, profile_from_signal
from srtool.images.picture import Picture, resized_image
from srtool.images.rows import TiffOfRows
from srtool.images.vips import interpreted, libvips, mapped, reason_of

_PNG = {"format": "png"}  # what holds everything
QUALITY = 95  # of the lossy formats, 1 to 100
STREAMED = frozenset({"PNG", "JPEG", "TIFF"})  # that are encoded row by row

_PART = 4 << 20  # bytes of rows that are handed over at a time
_HEAD_OF_PNG = 33  # signature and IHDR; colour chunks must follow here


@dataclass(frozen=True)
class Shape:
    """What a picture to be written is like: its sides in pixels, the dtype of its samples, and
    whether it has one channel of colour, and alpha."""

    width: int
    height: int
    dtype: Any
    gray: bool
    has_alpha: bool


def shape_of(picture: Picture) -> Shape:
    """Of a picture in memory."""
    height, width = picture.pixels.shape[:2]
    return Shape(width, height, picture.pixels.dtype, picture.gray, picture.alpha is not None)


def check_writable(path: Path, shape: Shape, metadata: Metadata) -> None:
    """ImageError where the format that the suffix of `path` names cannot hold such a picture."""
    format = _format(path)
    size = f"{shape.width}x{shape.height} pixels"
    if shape.has_alpha and format == "JPEG":
        raise ImageError(
            f"{path}: has transparency, which JPEG cannot hold", path=path, remedy=_PNG
        )
    largest = LARGEST_SIDE.get(format)
    if largest is not None and max(shape.width, shape.height) > largest:
        raise ImageError(
            f"{path}: is {size}, {format} holds at most {largest} a side",
            path=path,
            remedy=_PNG,
        )
    area = LARGEST_AREA.get(format)
    if area is not None and shape.width * shape.height > area:
        raise ImageError(
            f"{path}: is {size}, whose encoder for {format} would hold the whole picture in "
            f"memory, at most {area / 1e6:.0f} million pixels; PNG, TIFF and JPEG are written "
            "row by row",
            path=path,
            remedy=_PNG,
        )
    if metadata.signal is not None and metadata.signal.hdr and format != "PNG":
        raise ImageError(
            f"{path}: is HDR ({metadata.signal.hdr}), which is kept in PNG only",
            path=path,
            remedy=_PNG,
        )


def write_image(path: Path, picture: Picture, quality: int | None = None) -> None:
    """Encode `picture` as the format that the suffix of `path` names, whole or not at all.

    PNG and TIFF are lossless and keep 16 bits; AVIF holds a 16-bit picture in 12 bits, JPEG and
    WebP in 8, rounded to the nearest level. `quality` (1 to 100, QUALITY if None) goes to JPEG,
    WebP and AVIF; JPEG and AVIF keep full chroma resolution (4:4:4), lossy WebP has none (4:2:0).
    A gray picture is one channel in PNG, JPEG and TIFF. ICC profile, XMP and resolution are kept
    everywhere, EXIF everywhere but in TIFF, IPTC in JPEG, texts in PNG; a colour signal stands in
    the chunks of PNG and becomes an ICC profile elsewhere. The orientation is always upright and
    the embedded thumbnail is dropped.

    Raises ImageError if the suffix is not in WRITABLE, the format cannot hold transparency or
    this many pixels, or the file cannot be written; UsageError if `quality` is out of range.
    """
    _check_quality(quality)
    check_writable(path, shape_of(picture), picture.metadata)
    vips = libvips()
    image = vips.Image.new_from_array(picture.pixels)
    if picture.gray:
        image = image.bandmean()
    if picture.alpha is not None:
        image = image.bandjoin(vips.Image.new_from_array(picture.alpha))
    with _written(path) as temporary:
        encoded = _encoded(image, picture.metadata, _format(path), quality)
        temporary.write_bytes(encoded)


class RowWriter:
    """Encodes a picture of any size while its rows come: `feed` takes them in one thread, `write`
    encodes in another, in memory that does not grow with the picture.

    `feed` blocks while `write` is more than `most` bytes behind.
    """

    def __init__(
        self,
        path: Path,
        shape: Shape,
        metadata: Metadata,
        quality: int | None,
        most: int,
        size: tuple[int, int] | None = None,
    ) -> None:
        """shape: of the rows that come. size: width and height of the file, where they are not to
        be those. ImageError and UsageError: see `write_image`, and for formats not in STREAMED."""
        _check_quality(quality)
        self._size = size or (shape.width, shape.height)
        check_writable(path, replace(shape, width=self._size[0], height=self._size[1]), metadata)
        assert _format(path) in STREAMED
        self._path, self._shape, self._metadata, self._quality = path, shape, metadata, quality
        self._bands = (1 if shape.gray else 3) + shape.has_alpha
        row = shape.width * self._bands * shape.dtype.itemsize
        self._step = max(1, _PART // row)
        self._parts: queue.Queue[bytes] = queue.Queue(max(1, most // (self._step * row)))
        self._is_ended = self._is_given_up = self.has_failed = False

    def feed(self, colours: NDArray[Any], alpha: NDArray[Any] | None) -> None:
        """Rows (h, W, 3), and their alpha (h, W), where the picture has it. ImageError where
        `write` has ended."""
        for top in range(0, len(colours), self._step):
            rows = slice(top, top + self._step)
            part = colours[rows, :, :1] if self._shape.gray else colours[rows]
            if alpha is not None:
                part = np.concatenate((part, alpha[rows, :, None]), 2)
            if not self._handed(part.tobytes()):
                raise ImageError(f"{self._path}: could not be encoded")

    def _handed(self, content: bytes) -> bool:
        """Whether it was taken before `write` ended."""
        while not self._is_ended:
            with suppress(queue.Full):
                self._parts.put(content, timeout=0.5)
                return True
        return False

    def end(self) -> None:
        """No more rows will come: either all have, or the file is to be given up."""
        self._is_given_up = True
        self._handed(b"")

    def write(self) -> None:
        """Encode what is fed, whole or not at all; returns when the file is there. ImageError."""
        vips, shape = libvips(), self._shape
        try:
            with _written(self._path) as temporary:
                rows = TiffOfRows(
                    shape.width, shape.height, self._bands, shape.dtype.itemsize, self._parts.get
                )
                source = vips.SourceCustom()
                source.on_read(rows.read)
                source.on_seek(rows.seek)
                image = vips.Operation.call("tiffload_source", source, access="sequential")
                image = image.copy()
                for name in image.get_fields():
                    if name != "vips-sequential":  # reductions keep rows that come only once
                        image.remove(name)
                if self._size != (shape.width, shape.height):
                    peak = float(np.iinfo(shape.dtype).max)
                    image = resized_image(image, self._size, peak, shape.has_alpha)
                # Each more thread has libvips keep more rows, and encoders take but one
                image.set_type(vips.GValue.gint_type, "concurrency", 1)
                _save(image, self._metadata, self._path, temporary, self._quality)
                if rows.missing:
                    raise vips.Error("the picture was given up", "rows: not all of them came")
        except BaseException:
            self.has_failed = not self._is_given_up
            raise
        finally:
            self._is_ended = True


@contextmanager
def _written(path: Path) -> Iterator[Path]:
    """`whole_file`, with what goes wrong told of `path`."""
    vips = libvips()
    try:
        with whole_file(path) as temporary:
            yield temporary
    except vips.Error as error:
        raise ImageError(
            f"{path}: cannot be encoded as {_format(path)} ({reason_of(error)})"
        ) from None
    except OSError as error:
        raise ImageError(
            f"{path}: cannot be written ({error.strerror or error}), expected a folder with write "
            "permission and free space"
        ) from None


def _check_quality(quality: int | None) -> None:
    if quality is not None and not 1 <= quality <= 100:
        raise UsageError(f"quality is {quality}, expected 1 to 100")


def _format(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in WRITABLE:
        raise ImageError(
            f"{path}: cannot write '{path.suffix}' files, expected one of "
            f"{' '.join(sorted(WRITABLE))}"
        )
    return FORMATS[suffix]


def _encoded(image: Any, metadata: Metadata, format: str, quality: int | None) -> bytes:
    image = _prepared(image, metadata, format)
    name, options = _encoder(image, format, quality)
    encoded: bytes = getattr(image, f"{name}_buffer")(**options)
    if extra := _chunks(metadata, format):
        encoded = encoded[:_HEAD_OF_PNG] + extra + encoded[_HEAD_OF_PNG:]
    return encoded


def _save(image: Any, metadata: Metadata, path: Path, file: Path, quality: int | None) -> None:
    """Encode into a file, row by row."""
    format = _format(path)
    image = _prepared(image, metadata, format)
    name, options = _encoder(image, format, quality)
    extra = _chunks(metadata, format)
    with file.open("r+b", buffering=0) as out:
        if not extra:
            target = libvips().Target.new_to_descriptor(out.fileno())
            getattr(image, f"{name}_target")(target, **options)
            return

        def write(block: Any) -> int:
            content = bytes(block)
            left = max(0, _HEAD_OF_PNG - out.tell())
            if left:
                out.write(content[:left])
                if len(content) >= left:
                    out.write(extra)
            out.write(content[left:])
            return len(content)

        target = libvips().TargetCustom()
        target.on_write(write)
        getattr(image, f"{name}_target")(target, **options)


def _chunks(metadata: Metadata, format: str) -> bytes:
    if format != "PNG":
        return b""
    signal = metadata.signal.chunks if metadata.signal is not None else ()
    return b"".join((*signal, *metadata.texts))


def _encoder(image: Any, format: str, quality: int | None) -> tuple[str, dict[str, Any]]:
    """libvips' operation and its options."""
    quality = QUALITY if quality is None else quality
    if format == "PNG":
        # 4 Mpixel of photographs on one core: level 3 with "up" 0.17 s and 60 % of the raw size;
        # level 1 0.10 s and 78 %, level 6 0.25 s and 59 %, "paeth" 0.21 s and 59 %, no filter
        # (libvips' default, at level 6) 0.21 s and 82 %
        return "pngsave", {"compression": 3, "filter": "up"}
    if format == "JPEG":
        return "jpegsave", {"Q": quality, "subsample_mode": "off"}
    if format == "WebP":
        # smart_subsample wins back 1 dB of the halved chroma; lossless takes 3 times as long
        return "webpsave", {"Q": quality, "smart_subsample": True, "effort": 2}
    if format == "TIFF":
        raw = image.width * image.height * image.bands * (2 if image.format == "ushort" else 1)
        return "tiffsave", {
            "compression": "deflate",
            "predictor": "horizontal",
            "level": 3,
            "bigtiff": raw > 2**31,
        }
    # effort 0 gives the size and PSNR of effort 2 in a fifth of the time, here 0.5 s
    return "heifsave", {
        "compression": "av1",
        "Q": quality,
        "subsample_mode": "off",
        "effort": 0,
        "bitdepth": 12 if image.format == "ushort" else 8,
    }


def _prepared(image: Any, metadata: Metadata, format: str) -> Any:
    """The libvips image with the levels and metadata that `format` holds."""
    vips = libvips()
    image = interpreted(image)
    gray = image.bands < 3
    icc = metadata.icc
    if icc is None and metadata.signal is not None and format != "PNG":
        icc = profile_from_signal(metadata.signal, gray)
    for name, block in (
        ("icc-profile-data", icc),
        ("exif-data", metadata.exif),
        ("xmp-data", metadata.xmp),
        ("iptc-data", metadata.iptc if format == "JPEG" else None),
    ):
        if block is not None:
            image.set_type(vips.GValue.blob_type, name, block)
    # Setting the EXIF block also sets what it says of these two, so they come after it
    image.set_type(vips.GValue.gint_type, "orientation", 1)
    image = image.copy(xres=metadata.resolution[0], yres=metadata.resolution[1])
    if gray and icc is not None and format in ("WebP", "AVIF"):
        # These two store RGB, on which a gray profile is void
        image = image.icc_transform(
            "srgb", embedded=True, depth=16 if image.format == "ushort" else 8
        )
    if image.format == "ushort" and format in ("JPEG", "WebP"):
        image = mapped(image, ((np.arange(65536) * 255 + 32767) // 65535).astype(np.uint8))
    elif image.format == "ushort" and format == "AVIF":
        # libvips takes the upper 12 bits of 16
        twelve_bits = (np.arange(65536) * 4095 + 32767) // 65535
        image = mapped(image, (twelve_bits << 4).astype(np.uint16))
    return image
