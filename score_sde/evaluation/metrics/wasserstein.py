"""The sliced Wasserstein distance between two sets of samples."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.types import Key


def sliced_wasserstein(
    key: Key, a: Float[Array, "n *d"], b: Float[Array, "m *d"], projections: int = 64
) -> Float[Array, ""]:
    """The root mean square of W_2 over random directions, in the units of the data (Bonneel et al.
    2015).

    In one dimension W_2 is the distance between quantile functions: it pairs the sorted samples of
    two sets of one size. Two sets of n samples of one distribution are about 1/sqrt(n) of its size
    apart.
    """
    a, b = (x.reshape(len(x), -1) for x in (a, b))
    directions = jax.random.normal(key, (a.shape[1], projections), a.dtype)
    directions /= jnp.linalg.norm(directions, axis=0, keepdims=True)
    with jax.default_matmul_precision("highest"):
        a, b = (jnp.sort(x @ directions, axis=0) for x in (a, b))
    i, j, weight = _pairs(len(a), len(b))
    costs = jnp.mean((a[i] - b[j]) ** 2, axis=1)
    return jnp.sqrt(jnp.sum(weight.astype(costs.dtype) * costs))


def _pairs(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best transport between n and m sorted points of a line: pairs of points, and the mass
    that goes from one to the other, 1 in total."""
    # quantile functions are constant between multiples of 1/n and of 1/m; in units of 1/(n m)
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    starts = np.concatenate([[0], ends[:-1]])
    return starts // m, starts // n, (ends - starts) / (n * m)
