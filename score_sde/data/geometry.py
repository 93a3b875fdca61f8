"""Affine transformations of images, band-limited by a wavelet filter.

An image is continued by reflection, made twice as large by the filter, read between its pixels, and
made half as large by the same filter (Karras et al. 2020, arXiv:2006.06676, app. B; Karras et al.
2022, arXiv:2206.00364, app. F.2).
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

# The low-pass filter of Daubechies' least asymmetric wavelet with 6 vanishing moments ("sym6").
SYM6 = np.array(
    [
        *(0.015404109327027373, 0.0034907120842174702, -0.11799011114819057),
        *(-0.048311742585633, 0.4910559419267466, 0.787641141030194),
        *(0.3379294217276218, -0.07263752278646252, -0.021060292512300564),
        *(0.04472490177066578, 0.0017677118642428036, -0.007800708325034148),
    ]
)
MARGIN = len(SYM6) // 4  # pixels around the result that its filter reaches

SCALE_STD = 0.2  # of log2 of the factors
SHIFT_STD = 0.125  # of the shifts, in widths and heights


class Change(NamedTuple):
    """What is done to one image.

    flips: (x, y), 0 or 1. scale: log2 of the factor, in units of SCALE_STD. rotation: radians.
    stretch, axis: log2 of the factor of anisotropic scaling, in the same units, and the direction
    of it, radians. shift: (x, y), in units of SHIFT_STD widths and heights.
    """

    flips: tuple[int, int] = (0, 0)
    scale: float = 0.0
    rotation: float = 0.0
    stretch: float = 0.0
    axis: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)

    @property
    def numbers(self) -> tuple[float, ...]:
        """The nine numbers that tell a network of it; all 0 where nothing is done."""
        turned = math.cos(self.rotation) - 1, math.sin(self.rotation)
        stretched = self.stretch * math.cos(self.axis), self.stretch * math.sin(self.axis)
        return tuple(map(float, (*self.flips, self.scale, *turned, *stretched, *self.shift)))

    def inverse_map(self, height: int, width: int) -> Float[np.ndarray, "2 3"]:
        """From a pixel of the result to the place in the flipped image that it shows: (x, y, 1) to
        (x, y), in pixels from the middle, y downwards."""
        factor = 2 ** (SCALE_STD * self.stretch)
        linear = (
            np.eye(2)
            / 2 ** (SCALE_STD * self.scale)
            @ _rotation(self.rotation)
            @ _rotation(-self.axis)
            @ np.diag([1 / factor, factor])
            @ _rotation(self.axis)
        )
        shift = SHIFT_STD * np.array([width, height]) * self.shift
        return np.concatenate([linear, -(linear @ shift)[:, None]], axis=1)

    def apply(self, image: Float[np.ndarray, "h w c"]) -> Float[np.ndarray, "h w c"]:
        """The changed image."""
        x, y = (slice(None, None, -1 if flip else None) for flip in self.flips)
        image = image[y, x]
        if any(self.numbers[2:]):
            image = warped(image, self.inverse_map(*image.shape[:2]))
        return image


def warped(
    image: Float[np.ndarray, "h w c"], inverse_map: Float[np.ndarray, "2 3"]
) -> Float[np.ndarray, "h w c"]:
    """The image with `inverse_map(place)` at each place, both in pixels from the middle.

    It is reflected once at each edge, and 0 beyond.
    """
    h, w, _ = image.shape
    large = _both_axes(image, _doubling(h), _doubling(w)).astype(image.dtype)
    # places of a result of twice the size, with its margin, in pixels of the small image
    y, x = ((np.arange(2 * (n + 2 * MARGIN)) + 0.5) / 2 - MARGIN - n / 2 + 0.25 for n in (h, w))
    places = np.stack(np.broadcast_arrays(x, y[:, None], 1.0), axis=-1) @ inverse_map.T
    middle = (np.array(large.shape[1::-1]) - 1) / 2
    found = _between(large, 2 * places - 0.5 + middle)
    return _both_axes(found, _halving(h), _halving(w)).astype(image.dtype)


def _rotation(angle: float) -> Float[np.ndarray, "2 2"]:
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def _both_axes(image, rows, columns):
    """rows image columns^T, in each channel."""
    image = np.tensordot(rows.astype(image.dtype), image, 1)  # [H, w, c]
    return np.tensordot(image, columns.astype(image.dtype), (1, 1)).swapaxes(1, 2)


@functools.lru_cache
def _doubling(n: int) -> Float[np.ndarray, "m n"]:
    """From n pixels to twice as many of them and of their reflections, n - 1 at each end."""
    reflected = np.pad(np.eye(n), [(n - 1, n - 1), (0, 0)], mode="reflect")
    spread = np.zeros((2 * len(reflected) - 1, n))
    spread[::2] = reflected
    return _filtered(np.pad(spread, [(len(SYM6) // 2, len(SYM6) // 2), (0, 0)]), SYM6)


@functools.lru_cache
def _halving(n: int) -> Float[np.ndarray, "n m"]:
    """From 2 (n + 2 MARGIN) pixels to the n in the middle of half as many."""
    size = 2 * (n + 2 * MARGIN)
    padding = (len(SYM6) - 1) // 2
    wide = np.pad(np.eye(size), [(padding, padding), (0, 0)])
    return _filtered(wide, SYM6[::-1])[::2][MARGIN:-MARGIN]


def _filtered(columns: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """Each column convolved with the taps, where they lie within it."""
    return np.stack([np.convolve(column, taps, "valid") for column in columns.T], axis=1)


def _between(
    image: Float[np.ndarray, "h w c"], places: Float[np.ndarray, "H W 2"]
) -> Float[np.ndarray, "H W c"]:
    """The image at places (x, y), counted in pixels from its first, linearly between pixels and 0
    beyond."""
    h, w = image.shape[:2]
    image = np.pad(image, [(1, 1), (1, 1), (0, 0)])
    places = np.clip(places + 1, 0, [w + 1, h + 1])
    start = np.minimum(np.floor(places).astype(np.intp), [w, h])
    x, y = start[..., 0], start[..., 1]
    over = (places - start).astype(image.dtype)
    right, down = over[..., :1], over[..., 1:]
    above = (1 - right) * image[y, x] + right * image[y, x + 1]
    below = (1 - right) * image[y + 1, x] + right * image[y + 1, x + 1]
    return (1 - down) * above + down * below
