"""Image files to pixels and back, by libvips: PNG, JPEG, WebP, TIFF and AVIF, 8 and 16 bits."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srtool.errors import ImageError, UsageError
from srtool.files import whole_file

Samples = NDArray[np.uint8] | NDArray[np.uint16]

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WebP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".avif": "AVIF",
}
WRITABLE = frozenset(FORMATS)
READABLE = WRITABLE | {".gif"}

MIN_SIDE = 2  # pixels
QUALITY = 95  # of the lossy formats, 1 to 100

_LARGEST_SIDE = {"JPEG": 65500, "WebP": 16383, "AVIF": 16384}
_SCREEN_RESOLUTION = 72 / 25.4


@dataclass(frozen=True)
class Metadata:
    """What a picture carries besides its samples.

    `icc` is the profile that the samples are in (None: sRGB, or an unnamed gray); `exif`, `xmp`
    and `iptc` are the blocks of the source file. `resolution` is horizontal and vertical pixels
    per millimetre, 72 per inch where the source names none.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    resolution: tuple[float, float] = (_SCREEN_RESOLUTION, _SCREEN_RESOLUTION)


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded image in the form the network takes.

    `pixels` is (H, W, 3) RGB, uint8 or uint16 over the full range of its dtype, upright, in the
    colour space of `metadata.icc`. `alpha` is (H, W) of the same dtype, 0 transparent, not
    multiplied into the pixels. `gray`: the source had one colour channel, repeated three times
    here, and is written back as one where the format can. `pages`: how many pages or frames the
    source holds, of which this is the first.
    """

    pixels: Samples
    alpha: Samples | None = None
    gray: bool = False
    metadata: Metadata = field(default_factory=Metadata)
    pages: int = 1

    def __post_init__(self) -> None:
        assert self.pixels.dtype in (np.uint8, np.uint16)
        assert self.pixels.ndim == 3
        assert self.pixels.shape[2] == 3
        if self.alpha is not None:
            assert self.alpha.dtype == self.pixels.dtype
            assert self.alpha.shape == self.pixels.shape[:2]


def read_image(path: Path) -> Picture:
    """Decode the image file `path`, recognised by its content whatever its suffix.

    Samples of 8 bits or fewer become uint8; 10, 12 and 16 bits become uint16. The EXIF
    orientation is applied. RGB and gray keep their values and their ICC profile; CMYK (through
    its own profile or libvips' built-in one) and 16-bit Lab become sRGB. EXIF of TIFF files and
    IPTC of anything but JPEG are beyond libvips and not read. Safe to call from many threads.

    Raises ImageError if there is no such file, or it is empty, no image, cut off or damaged, has
    a side under MIN_SIDE pixels, more than four channels, or other samples than integers of up to
    16 bits (Lab excepted).
    """
    vips = _vips()
    data = _file_bytes(path)
    try:
        # Level "error" finds cut-off files; "warning" would also refuse sound ones with stray bytes
        image = vips.Image.new_from_buffer(data, "", access="sequential", fail_on="error")
        if min(image.width, image.height) < MIN_SIDE:
            raise ImageError(
                f"{path}: is {image.width}x{image.height} pixels, too small to upscale; "
                "remove it from the input"
            )
        pages = _field(image, "n-pages") or 1
        return _picture(_rgb_or_gray(_upright(image), path), pages)
    except vips.Error as error:
        raise ImageError(
            f"{path}: cannot be decoded ({_reason(error)}), "
            "expected a whole PNG, JPEG, WebP, TIFF, AVIF or GIF file"
        ) from error


def write_image(path: Path, picture: Picture, quality: int | None = None) -> None:
    """Encode `picture` as the format that the suffix of `path` names, whole or not at all.

    PNG and TIFF are lossless and keep 16 bits; AVIF holds a 16-bit picture in 12 bits, JPEG and
    WebP in 8, rounded to the nearest level. `quality` (1 to 100, QUALITY if None) goes to JPEG,
    WebP and AVIF; JPEG and AVIF keep full chroma resolution (4:4:4), lossy WebP has none (4:2:0).
    A gray picture is one channel in PNG, JPEG and TIFF. ICC profile, XMP and resolution are kept
    everywhere, EXIF everywhere but in TIFF, IPTC in JPEG; the orientation is always upright and
    the embedded thumbnail is dropped.

    Raises ImageError if the suffix is not in WRITABLE, the format cannot hold transparency or
    this many pixels, or the file cannot be written; UsageError if `quality` is out of range.
    """
    format = FORMATS.get(path.suffix.lower())
    if format is None:
        raise ImageError(
            f"{path}: cannot write '{path.suffix}' files, expected one of {' '.join(FORMATS)}"
        )
    if quality is not None and not 1 <= quality <= 100:
        raise UsageError(f"quality is {quality}, expected 1 to 100")
    if picture.alpha is not None and format == "JPEG":
        raise ImageError(f"{path}: has transparency, which JPEG cannot hold; use --format png")
    height, width = picture.pixels.shape[:2]
    largest = _LARGEST_SIDE.get(format)
    if largest is not None and max(width, height) > largest:
        raise ImageError(
            f"{path}: is {width}x{height} pixels, {format} holds at most {largest} a side; "
            "use --format png"
        )
    vips = _vips()
    try:
        with whole_file(path) as temporary:
            temporary.write_bytes(
                _encoded(picture, format, QUALITY if quality is None else quality)
            )
    except vips.Error as error:
        raise ImageError(
            f"{path}: cannot be encoded as {format} ({_reason(error)}); try another --format"
        ) from error
    except OSError as error:
        raise ImageError(
            f"{path}: cannot be written ({error.strerror}), expected a folder with write "
            "permission and free space"
        ) from error


def _vips() -> Any:
    """pyvips, imported on first use, without its cache of operations."""
    import pyvips

    # The cache would keep whole pictures alive, and no operation here is ever repeated
    pyvips.cache_set_max(0)
    return pyvips


def _reason(error: Any) -> str:
    """One line out of the many of a libvips error.

    libvips collects messages of all threads and past operations in one buffer; the newest stands
    last, and libheif breaks its own before a number.
    """
    lines = [line.strip() for line in error.detail.splitlines() if ": " in line]
    return lines[-1] if lines else "libvips gives no reason"


def _file_bytes(path: Path) -> bytes:
    # Python opens the file, not libvips: it takes any name ("a[1].png" and names that are no
    # UTF-8 too) and never a stale copy of a file that has changed
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file, expected an image") from error
    except IsADirectoryError as error:
        raise ImageError(f"{path}: is a folder, expected an image file") from error
    except OSError as error:
        raise ImageError(
            f"{path}: cannot be read ({error.strerror}), expected a file with read permission"
        ) from error
    if not data:
        raise ImageError(f"{path}: is empty, expected an image; remove it from the input")
    return data


def _upright(image: Any) -> Any:
    if _field(image, "orientation") in (None, 1):
        return image
    # Rotation needs its pixels in any order, a sequential decoder gives them once from the top
    return image.copy_memory().autorot()


def _rgb_or_gray(image: Any, path: Path) -> Any:
    """1 to 4 bands of full-range uint8 or uint16; refuse what is neither RGB nor gray."""
    if image.interpretation in ("lab", "labs"):
        image = image.colourspace("rgb16").copy()
        if _field(image, "icc-profile-data"):
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
    bits = _field(image, "bits-per-sample")
    if image.format == "ushort" and bits is not None and 8 < bits < 16:
        # libvips shifts 10 and 12 bits up, which leaves white short of 65535
        largest = (1 << bits) - 1
        narrow = np.arange(65536) >> (16 - bits)
        image = _mapped(image, ((narrow * 65535 + largest // 2) // largest).astype(np.uint16))
    return image


def _metadata(image: Any) -> Metadata:
    icc, exif, iptc = (_field(image, f"{name}-data") for name in ("icc-profile", "exif", "iptc"))
    # A profile of another colour space than the samples' says nothing true of them
    if icc is not None and icc[16:20] != (b"GRAY" if image.bands < 3 else b"RGB "):
        icc = None
    # Of the IPTC of a TIFF, libvips gives the first quarter: it takes a count of words for bytes
    if iptc is not None and not iptc.startswith(b"Photoshop 3.0"):
        iptc = None
    return Metadata(
        icc=icc,
        exif=None if exif is None else _without_thumbnail(exif),
        xmp=_field(image, "xmp-data"),
        iptc=iptc,
        resolution=_resolution(image),
    )


def _without_thumbnail(exif: bytes) -> bytes | None:
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


def _resolution(image: Any) -> tuple[float, float]:
    if (image.xres, image.yres) != (1.0, 1.0):
        return image.xres, image.yres
    # 1.0 is libvips' word for unknown. It does not look into the EXIF of WebP and AVIF
    x, y, unit = (
        str(_field(image, f"exif-ifd0-{tag}") or "").partition(" ")[0]
        for tag in ("XResolution", "YResolution", "ResolutionUnit")
    )
    millimetres = 10 if unit == "3" else 25.4
    try:
        return float(Fraction(x)) / millimetres, float(Fraction(y)) / millimetres
    except (ValueError, ZeroDivisionError):
        return _SCREEN_RESOLUTION, _SCREEN_RESOLUTION


def _picture(image: Any, pages: int) -> Picture:
    array = image.numpy().reshape(image.height, image.width, image.bands)
    gray = image.bands < 3
    colours = np.repeat(array[..., :1], 3, axis=2) if gray else array[..., :3]
    return Picture(
        pixels=np.ascontiguousarray(colours),
        alpha=np.ascontiguousarray(array[..., -1]) if image.bands in (2, 4) else None,
        gray=gray,
        metadata=_metadata(image),
        pages=pages,
    )


def _encoded(picture: Picture, format: str, quality: int) -> bytes:
    image = _image(picture, format)
    encoded: bytes
    if format == "PNG":
        # 4 Mpixel of photographs on one core: level 3 with "up" 0.17 s and 60 % of the raw size;
        # level 1 0.10 s and 78 %, level 6 0.25 s and 59 %, "paeth" 0.21 s and 59 %, no filter
        # (libvips' default, at level 6) 0.21 s and 82 %
        encoded = image.pngsave_buffer(compression=3, filter="up")
    elif format == "JPEG":
        encoded = image.jpegsave_buffer(Q=quality, subsample_mode="off")
    elif format == "WebP":
        # smart_subsample wins back 1 dB of the halved chroma; lossless takes 3 times as long
        encoded = image.webpsave_buffer(Q=quality, smart_subsample=True, effort=2)
    elif format == "TIFF":
        encoded = image.tiffsave_buffer(
            compression="deflate",
            predictor="horizontal",
            level=3,
            bigtiff=picture.pixels.nbytes > 2**31,
        )
    else:
        # effort 0 gives the size and PSNR of effort 2 in a fifth of the time, here 0.5 s
        encoded = image.heifsave_buffer(
            compression="av1",
            Q=quality,
            subsample_mode="off",
            effort=0,
            bitdepth=12 if picture.pixels.dtype == np.uint16 else 8,
        )
    return encoded


def _image(picture: Picture, format: str) -> Any:
    """The libvips image of `picture` with the channels, levels and metadata that `format` holds."""
    vips = _vips()
    metadata = picture.metadata
    image = vips.Image.new_from_array(picture.pixels)
    if picture.gray:
        image = image.bandmean()
    if picture.alpha is not None:
        image = image.bandjoin(vips.Image.new_from_array(picture.alpha))
    image = _interpreted(image)
    for name, block in (
        ("icc-profile-data", metadata.icc),
        ("exif-data", metadata.exif),
        ("xmp-data", metadata.xmp),
        ("iptc-data", metadata.iptc if format == "JPEG" else None),
    ):
        if block is not None:
            image.set_type(vips.GValue.blob_type, name, block)
    # Setting the EXIF block also sets what it says of these two, so they come after it
    image.set_type(vips.GValue.gint_type, "orientation", 1)
    image = image.copy(xres=metadata.resolution[0], yres=metadata.resolution[1])
    if picture.gray and metadata.icc is not None and format in ("WebP", "AVIF"):
        # These two store RGB, on which a gray profile is void
        image = image.icc_transform(
            "srgb", embedded=True, depth=16 if image.format == "ushort" else 8
        )
    if image.format == "ushort" and format in ("JPEG", "WebP"):
        image = _mapped(image, ((np.arange(65536) * 255 + 32767) // 65535).astype(np.uint8))
    elif image.format == "ushort" and format == "AVIF":
        # libvips takes the upper 12 bits of 16
        twelve_bits = (np.arange(65536) * 4095 + 32767) // 65535
        image = _mapped(image, (twelve_bits << 4).astype(np.uint16))
    return image


def _interpreted(image: Any) -> Any:
    """Name the colour space that bands and format imply; libvips converts by it when it saves."""
    deep = image.format == "ushort"
    if image.bands < 3:
        return image.copy(interpretation="grey16" if deep else "b-w")
    return image.copy(interpretation="rgb16" if deep else "srgb")


def _mapped(image: Any, table: Samples) -> Any:
    return _interpreted(image.maplut(_vips().Image.new_from_array(table[np.newaxis])))


def _field(image: Any, name: str) -> Any:
    """A metadata field of a libvips image, None where it has none."""
    return image.get(name) if image.get_typeof(name) else None
