"""Steerable pyramid (Simoncelli & Freeman 1995) and the divisive normalisation of its bands."""

from __future__ import annotations

from dataclasses import dataclass
from math import factorial

import numpy as np
from numpy.typing import NDArray
from scipy.fft import fftfreq, irfft2, rfft2, rfftfreq

from srtool.images.imresize import resize_rows

Array = NDArray[np.float64]

ORIENTATIONS = 6
SCALES = 2
_GUARD = 16  # pixels cut off each side of a full-size normalised band


@dataclass(frozen=True)
class Pyramid:
    """Bands of an (H, W) image, float64 in the units of the image.

    high_pass: (H, W). bands[scale][orientation]: (H, W), then (ceil((H - 0.5) / 2), likewise W).
    """

    high_pass: Array
    bands: tuple[tuple[Array, ...], ...]


def pyramid_from_image(image: Array) -> Pyramid:
    """`buildSFpyr(image, 2, 5)`: (H, W) float64 -> high-pass band and 2 x 6 oriented bands.

    Filters act in the Fourier domain, so the image wraps around at its edges.
    """
    y, x = 2 * fftfreq(image.shape[0])[:, None], 2 * rfftfreq(image.shape[1])[None]
    spectrum = rfft2(image)
    high, low = _radial_split(y, x, 1.0)
    high_pass = irfft2(spectrum * high, image.shape)
    spectrum = spectrum * low
    shape = image.shape
    scales = []
    for scale in range(SCALES):
        high, low = _radial_split(y, x, 0.5 ** (scale + 1))
        scales.append(
            tuple(irfft2(spectrum * high * filt, shape) for filt in _angular_filters(y, x))
        )
        height, width = ((length + 1) // 2 for length in shape)
        rows = np.r_[: (height + 1) // 2, shape[0] - height // 2 : shape[0]]
        columns = slice(width // 2 + 1)
        spectrum = (spectrum * low)[rows, columns]
        y, x, shape = y[rows], x[:, columns], (height, width)
    return Pyramid(high_pass, tuple(scales))


def _radial_split(y: Array, x: Array, cutoff: float) -> tuple[Array, Array]:
    """High-pass and low-pass masks, squares adding up to 1: a raised cosine over one octave that
    ends at `cutoff`, in units of the Nyquist frequency."""
    with np.errstate(divide="ignore"):
        octave = np.clip(np.log2(np.hypot(y, x) / cutoff) + 1, 0, 1)
    return np.sin(np.pi / 2 * octave), np.cos(np.pi / 2 * octave)


def _angular_filters(y: Array, x: Array) -> list[NDArray[np.complex128]]:
    """cos^5 of the angle to each of six orientations, as odd (imaginary) filters."""
    order = ORIENTATIONS - 1
    gain = 2**order * factorial(order) / np.sqrt(ORIENTATIONS * factorial(2 * order))
    angle = np.arctan2(y, x)
    return [
        (-1j) ** order * gain * np.cos(angle - np.pi * index / ORIENTATIONS) ** order
        for index in range(ORIENTATIONS)
    ]


def resize_to(image: Array, shape: tuple[int, int]) -> Array:
    """`imresize(image, shape, 'bicubic')` with mirrored edges: (h, w) float64 -> (H, W)."""
    rows = resize_rows(image, shape[0] / image.shape[0], shape[0], "mirror")
    return np.ascontiguousarray(
        resize_rows(rows.T, shape[1] / image.shape[1], shape[1], "mirror").T
    )


def normalised_bands(pyramid: Pyramid) -> tuple[tuple[Array, ...], ...]:
    """Each oriented band divided by its local energy in a Gaussian scale mixture.

    Returns [scale][orientation], (H - 34, W - 34) and about half of it, float64 of mean zero.
    The divisor is sqrt(y' C^-1 y / N), y holding the 3 x 3 neighbourhood, the parent (the same
    orientation one scale up) and the five sibling orientations, C their second moments (y is not
    centred). Only so do the figures of the released code come out: the last orientation has no
    parent, siblings count in y but not in N, and a band is centred both before it is divided and
    after its guard pixels are cut off.
    """
    scales = []
    for scale, bands in enumerate(pyramid.bands):
        guard = _GUARD >> scale
        scales.append(
            tuple(
                _divisive_normalisation(bands, orientation, _parent(pyramid, scale, orientation))[
                    guard:-guard, guard:-guard
                ]
                for orientation in range(ORIENTATIONS)
            )
        )
    return tuple(tuple(band - band.mean() for band in bands) for bands in scales)


def _parent(pyramid: Pyramid, scale: int, orientation: int) -> Array | None:
    if scale == SCALES - 1 or orientation == ORIENTATIONS - 1:
        return None
    height, width = pyramid.bands[scale][0].shape
    coarse = pyramid.bands[scale + 1][orientation]
    return resize_to(coarse, (2 * coarse.shape[0], 2 * coarse.shape[1]))[:height, :width]


def _divisive_normalisation(
    bands: tuple[Array, ...], orientation: int, parent: Array | None
) -> Array:
    """One band of a scale over its divisor: (H, W) -> (H - 2, W - 2)."""
    band = bands[orientation]
    height, width = band.shape[0] - 2, band.shape[1] - 2
    inner = np.s_[1:-1, 1:-1]
    terms = [band[i : i + height, j : j + width] for i in range(3) for j in range(3)]
    if parent is not None:
        terms.append(parent[inner])
    divisor_count = len(terms)
    terms += [other[inner] for index, other in enumerate(bands) if index != orientation]

    y = np.stack([term.ravel() for term in terms])
    moments = y @ y.T / y.shape[1]
    # eigenvalues below MATLAB's tolerance for pinv are rounding, not energy
    tolerance = len(moments) * np.finfo(np.float64).eps
    precision = np.linalg.pinv(moments, rcond=tolerance, hermitian=True)
    energy = np.einsum("ij,ij->j", precision @ y, y).reshape(height, width)
    divisor = np.sqrt(np.maximum(energy, 0) / divisor_count)
    centred: Array = band[inner] - band[inner].mean()
    np.divide(centred, divisor, out=centred, where=divisor != 0)
    return centred
