"""Exact search for nearest neighbours, within a compiled program."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num


def different(rows: Num[np.ndarray, "n *shape"]) -> Num[np.ndarray, "m *shape"]:
    """The rows without repetitions, in the order in which each is found first."""
    flat = np.ascontiguousarray(rows.reshape(len(rows), -1))
    _, first = np.unique(flat, axis=0, return_index=True)
    return rows[np.sort(first)]


def nearest(queries: Float[Array, "b d"], points: Float[Array, "n d"], k: int) -> Int[Array, "b k"]:
    """The numbers of the k points that are nearest to each query, the nearest first; of equally
    near ones the first.

    By one matrix product, `|q - p|^2 = |q|^2 - 2 q.p + |p|^2`. The term |q|^2 is the same for all
    points. So distances that differ by less than the rounding of that sum can change places.
    """
    middle = jnp.mean(points, axis=0, keepdims=True)  # smaller numbers lose fewer digits
    q, p = queries - middle, points - middle
    product = jnp.matmul(q, p.T, precision=jax.lax.Precision.HIGHEST)
    return jax.lax.top_k(2 * product - jnp.sum(p**2, axis=1)[None], k)[1]


def nearest_others(
    queries: Float[Array, "b d"],
    points: Float[Array, "n d"],
    k: int,
    raw: Num[Array, "b *shape"],
    rows: Num[Array, "n *shape"],
) -> Int[Array, "b k"]:
    """As `nearest`, without the point of a query itself: the one whose row equals the query's raw
    part. No two rows may be equal (`different`)."""
    candidates = nearest(queries, points, k + 1)
    found = rows[candidates].reshape(*candidates.shape, -1).astype(float)
    same = jnp.all(found == raw.reshape(len(raw), 1, -1).astype(float), axis=-1)
    order = jnp.argsort(same, axis=1, stable=True)  # the query itself comes last
    return jnp.take_along_axis(candidates, order[:, :k], axis=1)
