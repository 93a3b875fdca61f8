"""Reads the attributes of coloured shapes back from a picture, by drawing them again.

Around each patch that differs from the background each form is fitted, with its centre, its radius,
its brightness and a slight blur. A form is read if its drawing explains the patch and no other
form's does nearly as well. What is not clear is None, so a half-drawn shape is no shape.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from score_sde.data.shapes_captions import in_order
from score_sde.data.shapes_drawing import (
    COLOURS,
    FORMS,
    PAINTS,
    PLACES,
    SIZES,
    Shape,
    centre,
    distance,
)

LEAST_SIDE, MOST_SIDE = 32, 64  # pixels; larger pictures are shrunk
CONTRAST = 45.0  # from the background, of 255: the distance of a pixel that is drawn on
MOST_NOISE = 25.0  # standard deviation of the background, of 255
SPECK = 0.003  # of the picture: a smaller patch is passed over
WIDEST = 0.4  # of the picture's side: a wider patch is more than one shape
PLACE_REACH = 0.08  # of a centre from the middle of its cell, on each axis
SIZE_REACH = 0.2  # of a radius from that of its size, as a share

# What a form may leave unexplained, and how much more the next best form must leave, as shares of
# the energy of the patch. Blur and compression spoil an edge, so the former is for a circle with a
# radius of 1 pixel, and goes with the length of the edge over the area (EDGES). The latter grows
# with the radius.
MOST_LEFT, LEAST_LEAD = 0.14, 0.002

# Distances of colours, of 255: from the colour of that name; of a pixel from the mean, and the
# share of pixels that may be further away; between two halves of a shape, and how much more that
# may be for a circle with a radius of 1 pixel, by the length of the edge over the area.
COLOUR_REACH, PIXEL_REACH, ODD_PIXELS = 60.0, 40.0, 0.5
UNEVEN_REACH, UNEVEN_MORE = 15.0, 170.0

AREAS = np.array([3.1416, 3.0976, 1.89, 2.3562])  # of each form of radius 1
EDGES = np.array([1.0, 1.1364, 1.6581, 2.0])  # length over area, beside that of a circle
DROPS = np.array([0.0, 0.0, 0.3, 0.0])  # of its centre of mass below the middle of its height
LUMA = np.array([0.299, 0.587, 0.114]) / np.linalg.norm([0.299, 0.587, 0.114])
CHROMA = 0.2  # weight of a difference of hue beside one of brightness; files keep it coarsely
STEPS, ALL_FORMS = 3, 2  # of the fit, and the first ones of them, with all forms; then the best 2
MOST_BLUR = 0.25  # share of a pixel that goes to each neighbour


class Fits(NamedTuple):
    """Of each form that was fitted: its number; centre x and y, radius, in pixels, and blur
    [f, 4]; the share of each pixel that it covers; and the share of the energy that it leaves."""

    forms: Int[np.ndarray, " f"]
    numbers: Float[np.ndarray, "f 4"]
    covers: Float[np.ndarray, "f h w"]
    left: Float[np.ndarray, " f"]


def read_attributes(
    image: UInt8[np.ndarray, "h w 3"], colours: Sequence[str] = tuple(COLOURS)
) -> list[Shape]:
    """The shapes of a square picture, in the order of reading.

    colours: the names of those that a shape may have: the nearest one is read.

    An attribute is None where it is not clear. A patch that is no shape counts as a shape without
    attributes, so that a picture with smears never reads as the shapes that were asked for. A plain
    picture has no shapes; one without a plain background has one without attributes.

    Raises:
      ValueError: the picture is not square, or has fewer than 32 pixels a side.
    """
    height, width, _ = image.shape
    if height != width or height < LEAST_SIDE:
        raise ValueError(f"a picture of {height}x{width} pixels is not a square of 32 or more")
    pixels = _shrunk(image).astype(np.float64)
    background = np.median(pixels, axis=(0, 1))
    offset = pixels - background
    noise = float(1.4826 * np.median(np.abs(offset)))
    drawn = np.linalg.norm(offset, axis=-1) > max(CONTRAST, 5 * noise)
    if noise > MOST_NOISE or drawn.mean() > 0.5:
        return [Shape()]
    patches = _patches(drawn)
    every = range(1, patches.max() + 1)
    return in_order([_read(offset, patches, i, background, noise, colours) for i in every])


def _shrunk(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "s s 3"]:
    if len(image) <= MOST_SIDE:
        return image
    from PIL import Image

    size = (MOST_SIDE, MOST_SIDE)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def _patches(drawn: Bool[np.ndarray, "s s"]) -> Int[np.ndarray, "s s"]:
    """The number of the patch that each pixel is of, 1 and up; 0 for the background.

    A patch is what hangs together. But what is wider than a shape is cut at the borders of the
    grid's cells, since two shapes may nearly touch there.
    """
    from scipy import ndimage

    side = len(drawn)
    parts: Any = np.zeros(drawn.shape, np.intp)
    ndimage.label(drawn, np.ones((3, 3)), parts)
    widths = [max(s.stop - s.start for s in box) for box in ndimage.find_objects(parts)]
    wide = np.array([0, *widths]) > WIDEST * side
    third = (np.arange(side) * 2 + 1) * 3 // (2 * side)
    cell = third[:, None] * 3 + third
    name = np.where(drawn, parts * 9 + np.where(wide[parts], cell, 0), 0)
    pixels = np.bincount(name.ravel())
    pixels[0] = 0  # the background
    kept = np.flatnonzero(pixels >= SPECK * side**2)
    number = np.zeros(len(pixels), int)
    number[kept] = np.arange(1, len(kept) + 1)
    return number[name]


def _read(
    offset: Float[np.ndarray, "s s 3"],
    patches: Int[np.ndarray, "s s"],
    patch: int,
    background: Float[np.ndarray, "3"],
    noise: float,
    colours: Sequence[str],
) -> Shape:
    """The shape of one patch, from the pixels around it that are not around others."""
    side = len(patches)
    rows, columns = (_around(np.any(patches == patch, axis), side) for axis in (1, 0))
    offset, patches = offset[rows, columns], patches[rows, columns]
    mine = patches == patch
    own = mine | ~_grown((patches > 0) & ~mine, 1)
    fits = _fit(_signal(offset, mine), own, mine, noise)
    best, second = np.argsort(fits.left)[:2]
    x, y, radius, _ = fits.numbers[best]
    left, lead = fits.left[best], fits.left[second] - fits.left[best]
    edge = EDGES[fits.forms[best]] / radius
    near = own & _grown(mine, 2)
    cover = fits.covers[best]
    mean = _even_colour(offset, cover, near, (x, y), edge, noise)
    colour = None if mean is None else _name(background + mean, colours)
    if left > MOST_LEFT * edge or lead < LEAST_LEAD * radius:
        return Shape(colour)
    at = np.array([x + columns.start, y + rows.start]) / side
    places = [p for p in PLACES if np.abs(at - centre(p)).max() < PLACE_REACH]
    sizes = [s for s, r in SIZES.items() if abs(radius / side / r - 1) < SIZE_REACH]
    return Shape(colour, FORMS[fits.forms[best]], *(sizes or [None]), *(places or [None]))


def _around(here: Bool[np.ndarray, " s"], side: int) -> slice:
    """From the first to the last pixel that is here, and 3 more at each end."""
    first, *_, last = np.flatnonzero(here).repeat(2).tolist()
    return slice(max(first - 3, 0), min(last + 4, side))


def _grown(pixels: Bool[np.ndarray, "h w"], by: int) -> Bool[np.ndarray, "h w"]:
    from scipy import ndimage

    return ndimage.binary_dilation(pixels, np.ones((2 * by + 1, 2 * by + 1)))


def _signal(
    offset: Float[np.ndarray, "h w 3"], mine: Bool[np.ndarray, "h w"]
) -> Float[np.ndarray, "h w"]:
    """How far each pixel is on the way from the background to the mean colour of the patch, with
    most of the weight on brightness; noise keeps its standard deviation."""
    mean = offset[mine].mean(0)
    bright = mean @ LUMA * LUMA
    way = bright + CHROMA * (mean - bright)
    return offset @ (way / np.linalg.norm(way))


def _fit(
    signal: Float[np.ndarray, "h w"],
    own: Bool[np.ndarray, "h w"],
    mine: Bool[np.ndarray, "h w"],
    noise: float,
) -> Fits:
    """The best fits of the two best forms, by least squares over the pixels `own`: steps of
    Levenberg and Marquardt for the numbers; the amplitude of each cover follows from them."""
    h, w = signal.shape
    share = np.where(mine, np.clip(signal / np.quantile(signal[mine], 0.8), 0, 1), 0)
    x, y = (share.sum(axis) @ (np.arange(n) + 0.5) / share.sum() for axis, n in ((0, w), (1, h)))
    radius = np.sqrt(share.sum() / AREAS)
    blank = np.zeros(len(FORMS))
    numbers = np.stack([blank + x, y - DROPS * radius, radius, blank + 0.05], axis=1)
    target = (signal * own).ravel()
    forms = np.arange(len(FORMS))
    for step in range(STEPS + 1):
        covers, slopes = _covers(forms, numbers[forms], h, w)
        base = (covers * own).reshape(len(forms), -1)
        energy = np.maximum((base**2).sum(1), 1e-9)
        amplitude = base @ target / energy
        rest = target - amplitude[:, None] * base
        left = (rest**2).sum(1)
        if step == STEPS:
            break
        slopes = (slopes * own).reshape(len(forms), 4, -1) * amplitude[:, None, None]
        slopes = np.concatenate([slopes, base[:, None]], axis=1)
        normal = slopes @ slopes.swapaxes(1, 2)
        normal += 2e-4 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(5)
        move = np.linalg.solve(normal, slopes @ rest[..., None])[:, :4, 0]
        moved = numbers[forms] + np.clip(move, -1, 1)
        moved[:, 2] = np.clip(moved[:, 2], 0.6 * radius[forms], 1.5 * radius[forms])
        moved[:, 3] = np.clip(moved[:, 3], 0, MOST_BLUR)
        numbers[forms] = moved
        if step + 1 == ALL_FORMS:
            forms = forms[np.argsort(left)[:2]]
    left = (left - noise**2 * own.sum()) / np.maximum(amplitude**2 * energy, 1e-9)
    return Fits(forms, numbers[forms], covers, left)


def _covers(
    forms: Int[np.ndarray, " f"], numbers: Float[np.ndarray, "f 4"], h: int, w: int
) -> tuple[Float[np.ndarray, "f h w"], Float[np.ndarray, "f 4 h w"]]:
    """The share of each pixel that a form covers, and its derivatives by the form's numbers.

    The cover of a point is `clip(1/2 - grid edge, 0, 1)`, and the edge is of degree 1: its
    derivative by the radius r is `(edge - x d edge/dx - y d edge/dy)/r`.
    """
    grid = 3 if max(h, w) < 20 else 2  # points along each side of a pixel
    across, down = ((np.arange(n * grid) + 0.5) / grid for n in (w, h))
    x, y, radius, blur = numbers.T[..., None, None]
    x, y = across - x, down[:, None] - y
    fine = np.zeros((4, len(forms), h * grid, w * grid))  # the cover, and by x, by y, by radius
    edge = np.stack([distance(FORMS[f], *of) for f, *of in zip(forms, x, y, radius, strict=True)])
    cover = 0.5 - grid * edge
    slope = grid * ((cover > 0) & (cover < 1))
    fine[0] = np.clip(cover, 0, 1)
    fine[1, :, :, 1:-1] = edge[:, :, 2:] - edge[:, :, :-2]
    fine[2, :, 1:-1] = edge[:, 2:] - edge[:, :-2]
    fine[1:3] *= slope * (grid / 2)
    fine[3] = (x * fine[1] + y * fine[2] - slope * edge) / radius
    coarse = _means(h, grid) @ fine @ _means(w, grid).T
    sideways = coarse @ _neighbours(w)
    once = coarse + blur * sideways
    upright = _neighbours(h) @ once
    all_ = once + blur * upright
    by_blur = sideways[0] + upright[0]
    return all_[0], np.stack([*all_[1:], by_blur], axis=1)


@functools.lru_cache
def _means(n: int, grid: int) -> Float[np.ndarray, "n m"]:
    """From points to the n pixels that they lie in."""
    return np.repeat(np.eye(n), grid, axis=1) / grid


@functools.lru_cache
def _neighbours(n: int) -> Float[np.ndarray, "n n"]:
    """The sum of both neighbours, less twice the pixel: what a blur adds."""
    return np.eye(n, k=1) + np.eye(n, k=-1) - 2 * np.eye(n)


def _even_colour(
    offset: Float[np.ndarray, "h w 3"],
    cover: Float[np.ndarray, "h w"],
    own: Bool[np.ndarray, "h w"],
    middle: tuple[float, float],
    edge: float,
    noise: float,
) -> Float[np.ndarray, "3"] | None:
    """The mean colour, less that of the background, if the colour is even. middle: x and y, pixels.
    edge: its length over the area, beside that of a circle with a radius of 1 pixel.

    A mean is the sum of all colour divided by the sum of the cover, so a blur does not change it.
    """
    h, w = cover.shape
    x, y = np.arange(w) + 0.5 - middle[0], (np.arange(h) + 0.5 - middle[1])[:, None]
    sides = np.stack(np.broadcast_arrays(x, y, x + y, x - y))
    first = np.clip(2 * sides + 0.5, 0, 1) * own  # of each of the 4 ways to halve a shape
    halves = np.stack([first, own - first]).reshape(2, 4, -1)
    sums = halves @ offset.reshape(-1, 3)
    means = sums / np.maximum(halves @ cover.reshape(-1, 1), 1e-3)
    uneven = np.linalg.norm(means[0] - means[1], axis=1).max()
    mean = sums[:, 0].sum(0) / max((cover * own).sum(), 1e-3)

    core = own & (cover > 0.6)
    if not core.any():
        return None
    away = offset[core] / cover[core][:, None] - mean
    bright = away @ LUMA
    away = np.sqrt(bright**2 + ((away**2).sum(1) - bright**2) / 4)  # hues are kept coarsely
    odd = np.mean(away > PIXEL_REACH + 3 * noise)

    even = uneven < UNEVEN_REACH + UNEVEN_MORE * edge + 2 * noise and odd < ODD_PIXELS
    return mean if even else None


def _name(colour: Float[np.ndarray, "3"], colours: Sequence[str]) -> str | None:
    """The name of the nearest of these colours, if it is near."""
    far = {name: np.linalg.norm(colour - PAINTS[name]) for name in colours}
    name = min(far, key=far.__getitem__)
    return name if far[name] < COLOUR_REACH else None
