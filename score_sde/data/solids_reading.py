"""What solid a cloud of points is on: the surface that is nearest to all of its points."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from score_sde.data.solids import CONE, CUBE, CYLINDER, SIZES, TORUS, turned

__all__ = ["distance", "read", "signed_distance"]


class Solid(NamedTuple):
    """kind: as in `solids.KINDS`. size: of the solid. distance: of the points to its surface, the
    root of the mean square."""

    kind: str
    size: float
    distance: float


def read(cloud: Float[np.ndarray, "n 3"], finest: float = 0.01) -> Solid:
    """The kind, size and angle whose surface has the least mean square distance to the points.

    finest: of the sizes that are tried; the angles of a cube are 2 degrees apart.
    """
    low, high = 0.7 * SIZES[0], 1.2 * SIZES[1]
    sizes = np.linspace(low, high, round((high - low) / finest) + 1)
    angles = np.radians(np.arange(0, 90, 2.0))
    turns = turned(np.broadcast_to(cloud[:, :3], (len(angles), len(cloud), 3)), -angles)
    found = []
    for kind in DISTANCES:
        clouds = turns if kind == "cube" else turns[:1]
        scaled = clouds[:, None] / sizes[None, :, None, None]
        square = np.mean(distance(kind, scaled) ** 2, axis=-1) * sizes**2
        best = np.unravel_index(np.argmin(square), square.shape)
        found.append(Solid(kind, float(sizes[best[1]]), float(np.sqrt(square[best]))))
    return min(found, key=lambda solid: solid.distance)


def distance(kind: str, points: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n"]:
    """Of each point to the surface of a solid of size 1 that is not turned."""
    return np.abs(DISTANCES[kind](points))


def signed_distance(kind: str, points: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n"]:
    """As `distance`, negative inside."""
    return DISTANCES[kind](points)


def _profile(points: np.ndarray) -> np.ndarray:
    """(distance from z, z) of points [*n, 3]: all but the cube are solids of revolution."""
    return np.stack([np.linalg.norm(points[..., :2], axis=-1), points[..., 2]], axis=-1)


def _box(points: np.ndarray, half: tuple[float, ...]) -> np.ndarray:
    """To a box around the origin; negative inside."""
    beyond = np.abs(points) - np.asarray(half)
    outside = np.linalg.norm(np.maximum(beyond, 0), axis=-1)
    return outside + np.minimum(beyond.max(axis=-1), 0)


def _segment(points: np.ndarray, a: tuple[float, float], b: tuple[float, float]) -> np.ndarray:
    """To the line between two points of the plane."""
    along = np.subtract(b, a)
    share = np.clip((points - np.asarray(a)) @ along / (along @ along), 0, 1)
    return np.linalg.norm(points - np.asarray(a) - share[..., None] * along, axis=-1)


def _cone(points: np.ndarray) -> np.ndarray:
    radius, low, high = CONE
    place = _profile(points)
    side = _segment(place, (radius, low), (0.0, high))
    away = np.minimum(side, _segment(place, (0.0, low), (radius, low)))
    rho, z = place[..., 0], place[..., 1]
    inside = (z > low) & (rho * (high - low) < radius * (high - z))
    return np.where(inside, -away, away)


def _torus(points: np.ndarray) -> np.ndarray:
    place = _profile(points) - np.array([TORUS[0], 0.0])
    return np.linalg.norm(place, axis=-1) - TORUS[1]


DISTANCES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sphere": lambda points: np.linalg.norm(points, axis=-1) - 1,
    "cube": lambda points: _box(points, (CUBE,) * 3),
    "cylinder": lambda points: _box(_profile(points), CYLINDER),
    "cone": _cone,
    "torus": _torus,
}
