"""Coloured shapes on a plain background: what they can be like, and how they are drawn.

Places and lengths are in units of the image's side, x to the right and y downwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

COLOURS = {
    "red": (214, 40, 40),
    "green": (40, 160, 60),
    "blue": (45, 80, 215),
    "yellow": (235, 195, 30),
    "purple": (175, 50, 175),
    "black": (30, 30, 30),
}
NEW_COLOURS = {"orange": (240, 120, 20), "turquoise": (40, 190, 200)}
"""Colours of no example, unless they are asked for: what an adapter learns from a few images. Each
is further from all of COLOURS than the 60 of 255 at which a colour is read."""
PAINTS = COLOURS | NEW_COLOURS
FORMS = ("circle", "square", "triangle", "ring")
SIZES = {"small": 0.09, "large": 0.14}  # radius; a shape stays within its cell of the grid
PLACES = (
    *("top left", "top", "top right"),
    *("left", "middle", "right"),
    *("bottom left", "bottom", "bottom right"),
)  # cells of a 3x3 grid, in the order of reading
BACKGROUND = 245.0

SHIFT, STRETCH, SHADE, LIGHT = 0.012, 0.05, 10.0, 10.0  # see Look
SQUARE = 0.88  # half the side, for a radius of 1: the area is that of the circle
TRIANGLE = (1.05, 1.8)  # half the base, and the height
HOLE = 0.5  # radius of the ring's hole
FINENESS = 8  # samples along each side of a pixel


class Shape(NamedTuple):
    """The attributes of one shape; None where one is not known or not asked for."""

    colour: str | None = None
    form: str | None = None
    size: str | None = None
    place: str | None = None


class Look(NamedTuple):
    """What differs between two drawings of equal attributes; each number is in [-1, 1].

    shift: of the centre from the middle of its cell, (x, y), in units of SHIFT. stretch: of the
    radius, in units of STRETCH of it. shade: of the colour, (red, green, blue), in units of SHADE
    of 255.
    """

    shift: tuple[float, float] = (0.0, 0.0)
    stretch: float = 0.0
    shade: tuple[float, float, float] = (0.0, 0.0, 0.0)


def centre(place: str) -> tuple[float, float]:
    """The middle of the cell of this name, (x, y)."""
    row, column = divmod(PLACES.index(place), 3)
    return (column + 0.5) / 3, (row + 0.5) / 3


def distance(
    form: str, x: Float[np.ndarray, "*#n"], y: Float[np.ndarray, "*#n"], radius: float | np.ndarray
) -> Float[np.ndarray, "*n"]:
    """The signed distance from the edge of a form around 0, negative inside. Outside a corner it is
    the distance from the nearer side's line."""
    if form == "circle":
        return np.sqrt(x * x + y * y) - radius
    if form == "ring":
        middle, half = (1 + HOLE) / 2 * radius, (1 - HOLE) / 2 * radius
        return np.abs(np.sqrt(x * x + y * y) - middle) - half
    if form == "square":
        return np.maximum(np.abs(x), np.abs(y)) - SQUARE * radius
    if form == "triangle":
        base, height = TRIANGLE[0] * radius, TRIANGLE[1] * radius
        side = (height * np.abs(x) - base * (y + height / 2)) / np.sqrt(base**2 + height**2)
        return np.maximum(y - height / 2, side)
    raise ValueError(f"{form} is none of the forms {', '.join(FORMS)}")


def draw(
    shapes: Sequence[Shape],
    image_size: int,
    looks: Sequence[Look] | None = None,
    light: float = 0.0,
) -> UInt8[np.ndarray, "image_size image_size 3"]:
    """The picture of shapes whose attributes are all known.

    An edge covers a part of a pixel: the mean of FINENESS^2 points, at each of which it is ramped
    over the distance between two points. So pictures of other sizes show the same.

    looks: of each shape, by default that of no change. light: of the background, in [-1, 1], in
    units of LIGHT of 255.
    """
    image = np.full((image_size, image_size, 3), BACKGROUND + LIGHT * light)
    for shape, look in zip(shapes, looks or [Look()] * len(shapes), strict=True):
        colour, form, size, place = map(str, shape)
        x, y = (c + SHIFT * s for c, s in zip(centre(place), look.shift, strict=True))
        radius = SIZES[size] * (1 + STRETCH * look.stretch)
        columns, rows = (_around(c, radius, image_size) for c in (x, y))
        across, down = (_points(part, image_size) for part in (columns, rows))
        edge = distance(form, across - x, down[:, None] - y, radius) * (image_size * FINENESS)
        cover = np.clip(0.5 - edge, 0, 1).reshape(
            rows.stop - rows.start, FINENESS, columns.stop - columns.start, FINENESS
        )
        paint = np.asarray(PAINTS[colour]) + SHADE * np.asarray(look.shade)
        part = image[rows, columns]
        part += cover.mean((1, 3))[..., None] * (paint - part)
    return np.rint(np.clip(image, 0, 255)).astype(np.uint8)


def _around(middle: float, radius: float, image_size: int) -> slice:
    """The pixels that a shape may reach, along one axis."""
    reach = 1.05 * radius + 1 / image_size
    first, last = (middle - reach) * image_size, (middle + reach) * image_size
    return slice(max(int(first), 0), min(int(last) + 1, image_size))


def _points(pixels: slice, image_size: int) -> Float[np.ndarray, " n"]:
    return (np.arange(pixels.start * FINENESS, pixels.stop * FINENESS) + 0.5) / (
        FINENESS * image_size
    )
