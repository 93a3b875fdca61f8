"""Two sets of clouds of points: distances between clouds, and how well they tell the sets apart."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_DISTANCES = 2**24  # of points, computed at a time


def chamfer(
    a: Float[Array | np.ndarray, "n k f"], b: Float[Array | np.ndarray, "m l f"]
) -> Float[np.ndarray, "n m"]:
    """The Chamfer distance of each cloud of a to each of b (Fan et al. 2017, arXiv:1612.00603): the
    mean square distance of the points of one to the nearest of the other, and of the other to the
    one, added."""
    return np.asarray(_chamfer(jnp.asarray(a), jnp.asarray(b)))


@jax.jit
def _chamfer(a, b):
    def pair(numbers):
        i, j = numbers
        x, y = a[i], b[j]
        # the square is not expanded, since it would cancel for points that are near
        square = jnp.sum((x[:, None, :] - y[None, :, :]) ** 2, axis=-1)
        return jnp.mean(jnp.min(square, axis=1)) + jnp.mean(jnp.min(square, axis=0))

    i, j = jnp.divmod(jnp.arange(len(a) * len(b)), len(b))
    pairs = max(1, _DISTANCES // (a.shape[1] * b.shape[1]))
    return jax.lax.map(pair, (i, j), batch_size=pairs).reshape(len(a), len(b))


def one_nearest_neighbour(
    within_a: Float[np.ndarray, "n n"],
    across: Float[np.ndarray, "n m"],
    within_b: Float[np.ndarray, "m m"],
) -> float:
    """The share of examples of two sets whose nearest other example is of their own set (Lopez-Paz
    & Oquab 2017, arXiv:1610.06545; of clouds, Yang et al. 2019, arXiv:1906.12320): 1/2 for two sets
    of one law, 1 for sets that lie apart, and less than 1/2 for samples that copy the others.

    A distance is to other examples: those on the diagonals are not looked at. Where an example of
    each set is equally near, it counts as a half.
    """

    def share(within, across):
        others = within + np.diag(np.full(len(within), np.inf))
        own, other = others.min(axis=1), across.min(axis=1)
        return np.sum(own < other) + np.sum(own == other) / 2

    right = share(within_a, across) + share(within_b, across.T)
    return float(right / (len(within_a) + len(within_b)))


def distinguished(a: Float[np.ndarray, "n k f"], b: Float[np.ndarray, "m l f"]) -> dict[str, float]:
    """`one_nearest_neighbour` by the Chamfer distance, for the points alone (x, y, z); and the mean
    distance of an example of b to the nearest of a ("minimum matching distance")."""
    a, b = a[..., :3], b[..., :3]
    across = chamfer(a, b)
    accuracy = one_nearest_neighbour(chamfer(a, a), across, chamfer(b, b))
    return {
        "one_nearest_neighbour": accuracy,
        "minimum_matching_distance": float(across.min(axis=0).mean()),
    }
