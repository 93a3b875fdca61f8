"""Precision, recall, density and coverage, by balls that reach to a nearest neighbour."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32

from score_sde.evaluation.metrics.summary import Summary, kept

_ROWS = 256  # of the distance matrix, in memory at once


class PrecisionRecall(NamedTuple):
    """Shares in [0, 1]; only the density may exceed 1."""

    precision: float
    recall: float
    density: float
    coverage: float


def precision_recall(
    data: Summary, samples: Summary, k: int = 3, k_density: int = 5
) -> PrecisionRecall:
    """The measures of the examples in the reservoirs. The ball around an example reaches to its
    k-th nearest other example of the same set, border included.

    precision: the share of samples in a ball of the data. recall: the share of data in a ball of
    the samples (Kynkaanniemi et al. 2019, arXiv:1904.06991). The other two have balls to the
    k_density-th neighbour (Naeem et al. 2020, arXiv:2002.09797). density: the mean number of balls
    of the data around a sample, over k_density. coverage: the share of balls of the data that hold
    a sample. All depend on the numbers of examples.

    Raises:
      ValueError: there are too few examples to have such neighbours.
    """
    x, y = kept(data), kept(samples)
    if len(x) <= max(k, k_density) or len(y) <= k:
        raise ValueError(
            f"{len(x)} examples of data and {len(y)} samples are too few to have neighbours "
            f"{k} and {k_density}"
        )
    center = x.mean(axis=0, dtype=np.float64).astype(np.float32)
    x, y = x - center, y - center  # the squares of short vectors lose fewer digits
    radius, wide = _radii(x, (k, k_density))
    (radius_y,) = _radii(y, (k,))
    precise, balls = jax.device_get(_contained(y, x, radius, wide))
    recalled, covered = jax.device_get(_reached(x, y, radius_y, wide))
    return PrecisionRecall(
        precision=float(np.mean(precise)),
        recall=float(np.mean(recalled)),
        density=float(np.mean(balls)) / k_density,
        coverage=float(np.mean(covered)),
    )


@functools.partial(jax.jit, static_argnames="ks")
def _radii(x: Float32[Array | np.ndarray, "n d"], ks: tuple[int, ...]) -> list[Array]:
    """Squared distances [n] to the k-th nearest other point, for every k."""

    def row(i, distance):
        nearest, _ = jax.lax.top_k(-distance.at[i].set(jnp.inf), max(ks))
        return [-nearest[k - 1] for k in ks]

    return _by_row(row, x, x)


@jax.jit
def _contained(y, x, radius, wide) -> tuple[Bool[Array, " m"], Int32[Array, " m"]]:
    """For each y: whether it is in a ball (x, radius), and in how many balls (x, wide) it is."""

    def row(_, distance):
        return jnp.any(distance <= radius), jnp.sum(distance <= wide)

    return _by_row(row, y, x)


@jax.jit
def _reached(x, y, radius_y, wide) -> tuple[Bool[Array, " n"], Bool[Array, " n"]]:
    """For each x: whether it is in a ball (y, radius_y), and whether its ball (x, wide) has a y."""

    def row(i, distance):
        return jnp.any(distance <= radius_y), jnp.any(distance <= wide[i])

    return _by_row(row, x, y)


def _by_row(row: Callable[[Array, Array], Any], x: Any, y: Any) -> Any:
    """`row(i, squared distances of x_i to all y)` for every i, a block of rows at a time."""
    squares = jnp.sum(y**2, axis=1)

    def one(args):
        i, x_i = args
        dot = jnp.matmul(y, x_i, precision=jax.lax.Precision.HIGHEST)
        return row(i, jnp.maximum(squares - 2 * dot + jnp.sum(x_i**2), 0))

    return jax.lax.map(one, (jnp.arange(x.shape[0]), x), batch_size=_ROWS)
