"""The sliced Wasserstein distance between two sets of samples."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.types import Key


def sliced_wasserstein(
    key: Key, a: Float[Array, "n *d"], b: Float[Array, "n *d"], projections: int = 64
) -> Float[Array, ""]:
    """The root mean square of W_2 over directions, in the units of the data (Bonneel et al. 2015).

    In one dimension W_2 pairs the sorted samples. The directions are drawn from the key. Two sets
    of n samples of one distribution are about 1/sqrt(n) of its size apart.
    """
    a, b = (x.reshape(len(x), -1) for x in (a, b))
    directions = jax.random.normal(key, (a.shape[1], projections), a.dtype)
    directions /= jnp.linalg.norm(directions, axis=0, keepdims=True)
    with jax.default_matmul_precision("highest"):
        a, b = (jnp.sort(x @ directions, axis=0) for x in (a, b))
    return jnp.sqrt(jnp.mean((a - b) ** 2))
