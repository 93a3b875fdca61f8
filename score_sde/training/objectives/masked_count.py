"""The bound of masked tokens, by their number."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array

from score_sde.conditioning.conditioner import Conditioner
from score_sde.models.model import Model
from score_sde.processes import MASK, Discrete
from score_sde.training.objective import Objective
from score_sde.training.objectives.masked import check_masks
from score_sde.training.time_law import TimeLaw
from score_sde.training.tokens import Noised, surprise, token_objective

__all__ = ["masked_count"]  # what a config can name


def masked_count(
    model: Model, conditioner: Conditioner, *, time_law: TimeLaw, drop_cond: float = 0.0
) -> Objective:
    """The bound of `masked` by exactly k masks, k uniform from 1 to l (Nie et al. 2025,
    arXiv:2502.09992, eq. 14): E_k l/k sum_(masked i) -ln D_i(x_0), divided by l.

    Its mean is that of `masked`; it varies less, since the number of masks is not drawn beside the
    time. t is drawn of its law given k, for a D that depends on it. The law of t is not used.

    Raises:
      ValueError: the process has no masks; drop_cond is no probability.
    """
    process = check_masks("masked_count", model)

    def noise(key, x_0):
        b, length = x_0.shape
        # the noise level at which each token becomes a mask; k is the rank of one of them
        key_levels, key_count = jax.random.split(key)
        levels = jax.random.uniform(key_levels, (b, length), jnp.float32)
        count = jax.random.randint(key_count, (b,), 0, length)
        level = jnp.take_along_axis(jnp.sort(levels, axis=1), count[:, None], axis=1)
        x_t = jnp.where(levels <= level, jnp.asarray(MASK, x_0.dtype), x_0)
        t = jnp.clip(process.t_of_noise(level[:, 0]), process.t_min, process.t_max)
        return Noised(t, x_t, jnp.ones(b, jnp.float32))

    return token_objective(model, conditioner, count_loss, noise, drop_cond)


def count_loss(process: Discrete, x_0: Array, x_t: Array, t: Array, found: Array) -> Array:
    """l/k (-ln D(x_0)) of each of k masks, nats [b, l]."""
    masks = x_t == MASK
    count = jnp.sum(masks.astype(found.dtype), axis=1, keepdims=True)
    return jnp.where(masks, x_0.shape[1] / jnp.maximum(count, 1) * surprise(found, x_0), 0)
