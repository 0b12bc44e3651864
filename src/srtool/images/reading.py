"""Image files to pixels: one reader for training, certification, evaluation and inference."""

from __future__ import annotations

import os
import stat
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from srtool.errors import ImageError
from srtool.images.formats import HEAD, format_of
from srtool.images.metadata import (
    Metadata,
    Signal,
    facts_of_png,
    full_page,
    ratio,
    signal_of_heif,
    without_thumbnail,
)
from srtool.images.picture import Picture, Samples
from srtool.images.vips import (
    BY_PILLOW,
    by_pillow,
    check_claim,
    field_of,
    libvips,
    mapped,
    reason_of,
)

MIN_SIDE = 2  # pixels
MAX_PIXELS = 1 << 28  # that a file may claim; 16384 x 16384
MANY_BYTES = 16_000_000  # a file or picture of more is not held in memory as a whole

_LOADERS = {
    "PNG": "pngload_source",
    "JPEG": "jpegload_source",
    "WebP": "webpload_source",
    "TIFF": "tiffload_source",
    "AVIF": "heifload_source",
    "HEIF": "heifload_source",
    "GIF": "gifload_source",
}
_MAPPED = ("WebP", "GIF", *BY_PILLOW)  # decoders that want the whole file in memory
_LARGEST_RESOLUTION = 1e6  # pixels per millimetre


class ImageFile(AbstractContextManager["ImageFile"]):
    """An image file, opened: its head is read, its pixels are decoded when they are asked for.

    width, height: of the upright picture. dtype: of its samples, uint8 or uint16. gray: it has one
    channel of colour. has_alpha, pages, metadata: see `Picture`. bytes: of all its samples.
    """

    def __init__(self, path: Path, max_pixels: int = MAX_PIXELS) -> None:
        """Raises ImageError if there is no such file, or it is empty, no image, claims more than
        `max_pixels`, has a side under MIN_SIDE pixels, more than four channels, or other samples
        than integers of up to 16 bits (Lab excepted)."""
        self.path = path
        self._file = _opened(path)
        try:
            self._image = self._load(max_pixels)
        except BaseException:
            self.close()
            raise

    def _load(self, max_pixels: int) -> Any:
        path, vips = self.path, libvips()
        self.format = _format(self._file, path)
        try:
            image = self._decoder(max_pixels)
            self._check_size(image, max_pixels)
            self.is_turned = field_of(image, "orientation") not in (None, 1)
            self.width, self.height = image.width, image.height
            if (field_of(image, "orientation") or 1) > 4:
                self.width, self.height = image.height, image.width
            image = _rgb_or_gray(image, path)
            self.dtype: Any = np.dtype(np.uint8 if image.format == "uchar" else np.uint16)
            self.gray, self.has_alpha = image.bands < 3, image.bands in (2, 4)
            self.bytes = image.width * image.height * image.bands * self.dtype.itemsize
            self.metadata = self._metadata(image)
        except vips.Error as error:
            raise self._undecodable(error) from None
        return image

    def _decoder(self, max_pixels: int) -> Any:
        """The libvips image, upright or not, with `pages` and `_signal` set on the way."""
        vips, file = libvips(), self._file
        self.pages, self._signal = 1, None
        self._texts: tuple[bytes, ...] = ()
        options: dict[str, Any] = {}
        if self.format == "PNG":
            facts = facts_of_png(file)
            self.pages, self._signal, self._texts = facts.frames, facts.signal, facts.texts
        elif self.format in ("AVIF", "HEIF"):
            file.seek(0)
            self._signal = signal_of_heif(file.read(1 << 16))
        elif self.format == "TIFF":
            options["page"], self.pages = full_page(file)
        file.seek(0)
        if self.format in BY_PILLOW:
            return by_pillow(file, self.path, self.format, max_pixels)
        size = os.fstat(file.fileno()).st_size
        # A small file is read whole: one that is cut off by others while it is mapped into memory
        # would end the process
        if size <= MANY_BYTES or self.format in _MAPPED:
            self._data = file.read()
            source = vips.Source.new_from_memory(self._data)
        else:
            source = vips.Source.new_from_descriptor(file.fileno())
        # Level "error" finds cut-off files; "warning" would also refuse sound ones with stray bytes
        image = vips.Operation.call(
            _LOADERS[self.format], source, access="sequential", fail_on="error", **options
        )
        if self.format in ("WebP", "GIF", "AVIF", "HEIF"):
            self.pages = field_of(image, "n-pages") or 1
        return image

    def _check_size(self, image: Any, max_pixels: int) -> None:
        check_claim(self.path, image.width, image.height, max_pixels)
        if min(image.width, image.height) < MIN_SIDE:
            raise ImageError(
                f"{self.path}: is {image.width}x{image.height} pixels, too small to upscale; "
                "remove it from the input"
            )

    def _metadata(self, image: Any) -> Metadata:
        icc, exif, iptc = (
            field_of(image, f"{name}-data") for name in ("icc-profile", "exif", "iptc")
        )
        # A profile of another colour space than the samples' says nothing true of them
        if icc is not None and icc[16:20] != (b"GRAY" if image.bands < 3 else b"RGB "):
            icc = None
        # Of the IPTC of a TIFF, libvips gives the first quarter: it takes a count of words for
        # bytes
        if iptc is not None and not iptc.startswith(b"Photoshop 3.0"):
            iptc = None
        signal: Signal | None = self._signal
        return Metadata(
            icc=icc if signal is None or not signal.hdr else None,
            exif=None if exif is None else without_thumbnail(exif),
            xmp=field_of(image, "xmp-data"),
            iptc=iptc,
            resolution=_resolution(image),
            signal=signal if icc is None or (signal is not None and signal.hdr) else None,
            texts=self._texts,
        )

    def upright(self) -> Any:
        """The libvips image of 1 to 4 bands of full-range uint8 or uint16, to be read once, from
        its top to its bottom."""
        if not self.is_turned:
            return self._image
        # Rotation needs its pixels in any order, a sequential decoder gives them once from the top
        if self.bytes <= MANY_BYTES:
            return self._image.copy_memory().autorot()
        on_disk = libvips().Image.new_temp_file("%s.v")
        self._image.write(on_disk)
        return on_disk.autorot()

    def read(self) -> Picture:
        """All of it; ImageError where it is cut off or damaged."""
        vips = libvips()
        try:
            image = self.upright()
            array = image.numpy().reshape(image.height, image.width, image.bands)
        except vips.Error as error:
            raise self._undecodable(error) from None
        colours, alpha = split(array)
        return Picture(colours, alpha, self.gray, self.metadata, self.pages)

    def rows(self) -> Rows:
        """A reader of some rows at a time."""
        return Rows(self)

    def _undecodable(self, error: Any) -> ImageError:
        return ImageError(
            f"{self.path}: cannot be decoded ({reason_of(error)}), expected a whole "
            f"{self.format} file"
        )

    def close(self) -> None:
        """Close the file."""
        self._image, self._data = None, b""
        self._file.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Rows:
    """The rows of an image file from the top to the bottom, a band at a time; what the next band
    needs of the last one is kept."""

    def __init__(self, file: ImageFile) -> None:
        self._file, self._top = file, 0
        self._region: Any = None
        self._kept: NDArray[Any] = np.empty((0, 0, 0), file.dtype)

    def read(self, start: int, stop: int) -> tuple[Samples, Samples | None]:
        """Colours (stop - start, W, 3) and alpha; neither bound may be less than the last time.
        ImageError where the file is cut off or damaged."""
        vips = libvips()
        try:
            if self._region is None:
                self._image = self._file.upright()
                self._region = vips.Region.new(self._image)
                self._kept = np.empty((0, self._image.width, self._image.bands), self._file.dtype)
            image, bottom = self._image, self._top + len(self._kept)
            band = np.empty((stop - start, *self._kept.shape[1:]), self._file.dtype)
            kept = self._kept[start - self._top :]
            band[: len(kept)] = kept
            step = max(1, (4 << 20) // (image.width * image.bands * band.itemsize))
            for top in range(max(start, bottom), stop, step):
                count = min(step, stop - top)
                part = self._region.fetch(0, top, image.width, count)
                array = np.frombuffer(part, band.dtype).reshape(count, *band.shape[1:])
                band[top - start : top - start + count] = array
        except vips.Error as error:
            raise self._file._undecodable(error) from None
        self._kept, self._top = band, start
        return split(band)


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode the image file `path`, recognised by its content whatever its suffix.

    Samples of 8 bits or fewer become uint8; 10, 12 and 16 bits become uint16. The EXIF
    orientation is applied. RGB and gray keep their values and their ICC profile; CMYK (through
    its own profile or libvips' built-in one) and 16-bit Lab become sRGB. Of several pages or
    frames the first one that is no thumbnail is taken. EXIF of TIFF files and IPTC of anything
    but JPEG are beyond libvips and not read. Safe to call from many threads.

    Raises ImageError: see `ImageFile`, and where the file is cut off or damaged.
    """
    with ImageFile(path, max_pixels) as file:
        return file.read()


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Decode as (H, W, 3) RGB uint8; alpha is dropped, 16 bits are rounded to 8. ImageError."""
    return np.asarray(read_image(path).as_8_bit().pixels, np.uint8)


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of the upright picture as the head of the file gives them; nothing is
    decoded yet. ImageError names the file that is no image."""
    with ImageFile(path) as file:
        return file.height, file.width


def split(array: NDArray[Any]) -> tuple[Samples, Samples | None]:
    """(H, W, 1 to 4) samples as RGB (H, W, 3) and alpha (H, W)."""
    bands = array.shape[2]
    colours = np.repeat(array[..., :1], 3, axis=2) if bands < 3 else array[..., :3]
    alpha = np.ascontiguousarray(array[..., -1]) if bands in (2, 4) else None
    return np.ascontiguousarray(colours), alpha


def _opened(path: Path) -> BinaryIO:
    # Python opens the file, not libvips: it takes any name ("a[1].png" and names that are no
    # UTF-8 too) and never a stale copy of a file that has changed
    try:
        # A pipe without a writer would be waited for
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags)
        try:
            status = os.fstat(descriptor)
            if stat.S_ISDIR(status.st_mode):
                raise ImageError(f"{path}: is a folder, expected an image file")
            if not stat.S_ISREG(status.st_mode):
                raise ImageError(f"{path}: is a pipe, socket or device, expected an image file")
            if status.st_size == 0:
                raise ImageError(f"{path}: is empty, expected an image; remove it from the input")
            return os.fdopen(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file, expected an image") from None
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError | ValueError) -> ImageError:
    reason = getattr(error, "strerror", None) or error
    return ImageError(f"{path}: cannot be read ({reason}), expected a file with read permission")


def _format(file: BinaryIO, path: Path) -> str:
    try:
        head = file.read(HEAD)
    except OSError as error:
        raise _unreadable(path, error) from None
    format = format_of(head)
    if format is None:
        raise ImageError(
            f"{path}: cannot be decoded (it is of no known format), expected a whole PNG, JPEG, "
            "WebP, TIFF, AVIF, GIF, BMP, PNM or JPEG 2000 file"
        )
    return format


def _rgb_or_gray(image: Any, path: Path) -> Any:
    """1 to 4 bands of full-range uint8 or uint16; refuse what is neither RGB nor gray."""
    if image.interpretation in ("lab", "labs"):
        image = image.colourspace("rgb16").copy()
        if field_of(image, "icc-profile-data"):
            image.remove("icc-profile-data")
    elif image.interpretation == "cmyk":
        image = image.icc_transform(
            "srgb",
            embedded=True,
            input_profile="cmyk",
            intent="relative",
            black_point_compensation=True,
            depth=16 if image.format == "ushort" else 8,
        )
    if image.format not in ("uchar", "ushort"):
        raise ImageError(
            f"{path}: has samples of type {image.format}, expected 8 or 16-bit integers; "
            "convert it to 16-bit PNG or TIFF"
        )
    if image.bands > 4:
        raise ImageError(
            f"{path}: has {image.bands} channels, expected gray or RGB, with or without alpha; "
            "convert it to PNG"
        )
    bits = field_of(image, "bits-per-sample")
    if image.format == "ushort" and bits is not None and 8 < bits < 16:
        # libvips shifts 10 and 12 bits up, which leaves white short of 65535
        largest = (1 << bits) - 1
        narrow = np.arange(65536) >> (16 - bits)
        image = mapped(image, ((narrow * 65535 + largest // 2) // largest).astype(np.uint16))
    return image


def _resolution(image: Any) -> tuple[float, float]:
    if (image.xres, image.yres) != (1.0, 1.0):
        found = image.xres, image.yres
    else:
        # 1.0 is libvips' word for unknown. It does not look into the EXIF of WebP and AVIF
        x, y, unit = (
            str(field_of(image, f"exif-ifd0-{tag}") or "").partition(" ")[0]
            for tag in ("XResolution", "YResolution", "ResolutionUnit")
        )
        millimetres = 10 if unit == "3" else 25.4
        found = ratio(x) / millimetres, ratio(y) / millimetres
    if all(0 < value < _LARGEST_RESOLUTION for value in found):
        return found
    return Metadata().resolution
