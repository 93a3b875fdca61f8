"""How far two chains of tokens are apart, by their rates."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.processes.discrete import Discrete
from score_sde.types import expand


def rate_entropy(
    process: Discrete, x_0: Array, x_t: Array, t: Array, found: Float[Array, "b l v"]
) -> Float[Array, "b l"]:
    """The relative entropy of two chains backwards in time, nats in a unit of t, of each token. One
    knows x_0, and has the rates a_y; the other has those of the probabilities `found`, b_y:

        sum_y b_y - a_y + a_y ln(a_y / b_y)

    Its integral over t bounds -ln p(x_0) (Campbell et al. 2022, arXiv:2205.14987, prop. 2). It is
    the score entropy of Lou et al. 2023 (arXiv:2310.16834, eq. 5), and of masks
    -alpha'/(1 - alpha) times the cross-entropy of the masked tokens.
    """
    noisy = process.noise(t) > 0
    t = jnp.where(noisy, t, process.t_max)  # where there is none the rates are of no use
    known = jax.nn.one_hot(x_0, found.shape[-1], dtype=found.dtype)
    a, b = (process.reverse_rates(x_t, t, each) for each in (known, found))
    tiny = jnp.finfo(found.dtype).tiny
    ratio = jnp.log(jnp.maximum(a, tiny)) - jnp.log(jnp.maximum(b, tiny))
    value = jnp.sum(b - a + jnp.where(a > 0, a * ratio, 0), axis=2)
    return jnp.where(expand(noisy, value), value, 0)
