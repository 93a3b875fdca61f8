"""Clouds of points on solids: a procedural world of five kinds, whose attributes can be read back
(`solids_reading`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from score_sde.data.captions import caption_features
from score_sde.data.draws import uniform
from score_sde.data.source import Arrays, Data, labelled_reals
from score_sde.errors import DataError

__all__ = ["solids"]

Points = Float[np.ndarray, "*n 3"]

# Of solids of size 1. The axis of symmetry is z, and the origin is inside.
CUBE = 0.6  # half of an edge
CYLINDER = (0.6, 0.7)  # radius, half of the height
CONE = (0.8, -0.6, 0.9)  # radius of the base, z of the base and of the top
TORUS = (0.7, 0.25)  # radius of the circle in the middle, radius of the tube
SIZES = (0.5, 1.0)
LARGE = 0.75  # solids of this size and more are called large

TRAIN, TEST = range(2)  # each has random numbers of its own


def solids(
    *,
    points: int = 64,
    kinds: Sequence[str] = ("sphere", "cube", "cylinder", "cone", "torus"),
    normals: bool = False,
    train: int = 4000,
    test: int = 400,
    seed: int = 0,
) -> Data:
    """float32 [points, 3]: points drawn evenly from the surface of a solid, in no order.

    The size of a solid is uniform in SIZES, and it is turned about z by a uniform angle. The label
    is its kind; the kinds alternate. The caption is such as "a small cube". An example depends on
    its number and the seed alone, on every machine.

    points: of a cloud.
    normals: whether each point has the outward normal of the surface beside it, [points, 6].
    train, test: how many clouds.

    Raises DataError where a number is below 1 or there is no such kind.
    """
    if min(points, train, test) < 1:
        raise DataError(
            f"points, train and test must be at least 1, got {points}, {train} and {test}"
        )
    check_kinds(kinds)

    def source(split: int, size: int) -> Arrays:
        label = np.arange(size, dtype=np.int32) % len(kinds)
        u = uniform((seed, split), size * (2 + 3 * points)).reshape(size, -1)
        scale, angle = SIZES[0] + (SIZES[1] - SIZES[0]) * u[:, 0], 2 * math.pi * u[:, 1]
        surface, normal = (np.empty((size, points, 3)) for _ in range(2))
        for i, kind in enumerate(kinds):
            ours = label == i
            draws = np.moveaxis(u[ours, 2:].reshape(-1, points, 3), -1, 0)
            surface[ours], normal[ours] = KINDS[kind](*draws)
        surface = turned(surface, angle) * scale[:, None, None]
        fields = [surface, turned(normal, angle)] if normals else [surface]
        said = [
            [f"a {'large' if s >= LARGE else 'small'} {kinds[k]}"]
            for s, k in zip(scale, label.tolist(), strict=True)
        ]
        cloud = np.concatenate(fields, axis=-1).astype(np.float32)
        return Arrays(points=cloud, label=label, caption=np.array(said))

    features = labelled_reals("points", (points, 6 if normals else 3), len(kinds))
    splits = source(TRAIN, train), source(TEST, test)
    return Data("solids", *splits, features | caption_features(1))


def check_kinds(kinds: Sequence[str]) -> None:
    """Raises DataError where there are none, or a name is of no kind."""
    if not kinds:
        raise DataError(f"kinds is empty: one or more of {', '.join(KINDS)}")
    for kind in kinds:
        if kind not in KINDS:
            raise DataError(f"there is no kind {kind!r}: one of {', '.join(KINDS)}")


def turned(points: Float[np.ndarray, "b n 3"], angle: Float[np.ndarray, " b"]) -> np.ndarray:
    """Clouds turned about z."""
    cos, sin, zero = np.cos(angle), np.sin(angle), np.zeros_like(angle)
    rows = [[cos, -sin, zero], [sin, cos, zero], [zero, zero, zero + 1]]
    return points @ np.moveaxis(np.array(rows), -1, 0).swapaxes(1, 2)


# Points of surfaces of size 1, uniform by area, and their outward normals, from uniform numbers
# u, v, w [...] in [0, 1).


def _around(rho: np.ndarray, z: np.ndarray, u: np.ndarray) -> Points:
    """Points of these distances from the axis, at the angles 2 pi u."""
    return np.stack([rho * np.cos(2 * math.pi * u), rho * np.sin(2 * math.pi * u), z], axis=-1)


def _sphere(u, v, w):
    """Archimedes: z is uniform."""
    z = 2 * v - 1
    points = _around(np.sqrt(1 - z**2), z, u)
    return points, points


def _cube(u, v, w):
    face = np.floor(6 * w).astype(int)
    axis, sign = face // 2, 2 * (face % 2) - 1
    place = np.stack([sign, 2 * u - 1, 2 * v - 1], axis=-1)
    order = (np.arange(3) - axis[..., None]) % 3
    normal = np.where(np.arange(3) == axis[..., None], sign[..., None], 0)
    return CUBE * np.take_along_axis(place, order, axis=-1), normal


def _cylinder(u, v, w):
    """w chooses the side or a cap, by area."""
    radius, half = CYLINDER
    side = w < 2 * half / (2 * half + radius)
    top = np.where(v < 0.5, -1, 1)
    inside = radius * np.sqrt(2 * v % 1)  # uniform in a disk
    points = _around(np.where(side, radius, inside), half * np.where(side, 2 * v - 1, top), u)
    return points, _around(np.where(side, 1, 0), np.where(side, 0, top), u)


def _cone(u, v, w):
    radius, low, high = CONE
    slant = math.hypot(radius, high - low)
    side = w < slant / (slant + radius)
    rho = radius * np.sqrt(v)  # on the side too: area grows with rho
    points = _around(rho, np.where(side, high - (high - low) * np.sqrt(v), low), u)
    out = (high - low) / slant, radius / slant
    return points, _around(np.where(side, out[0], 0), np.where(side, out[1], -1), u)


def _torus(u, v, w):
    """The angle of the tube has the density 1 + r cos / R: its distribution is inverted on a
    table."""
    middle, tube = TORUS
    table = np.linspace(0, 2 * math.pi, 1025)
    angle = np.interp(2 * math.pi * v, table + tube / middle * np.sin(table), table)
    cos, sin = np.cos(angle), np.sin(angle)
    return _around(middle + tube * cos, tube * sin, u), _around(cos, sin, u)


KINDS: dict[str, Callable[..., tuple[Points, Points]]] = {
    "sphere": _sphere,
    "cube": _cube,
    "cylinder": _cylinder,
    "cone": _cone,
    "torus": _torus,
}
