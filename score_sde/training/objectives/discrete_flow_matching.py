"""Discrete flow matching."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array

from score_sde.conditioning.conditioner import Conditioner
from score_sde.models.model import Model
from score_sde.processes import Discrete
from score_sde.training.objective import Objective
from score_sde.training.time_law import TimeLaw
from score_sde.training.tokens import by_time, surprise, token_objective
from score_sde.types import expand

__all__ = ["discrete_flow_matching"]  # what a config can name


def discrete_flow_matching(
    model: Model, conditioner: Conditioner, *, time_law: TimeLaw, drop_cond: float = 0.0
) -> Objective:
    """The bound of the mixture path (Shaul et al. 2024, arXiv:2412.03487, eq. 29), divided by the
    number of tokens: the integral over t of

        -alpha'/(1 - alpha) (1[x_t = x_0] - D(x_t) - 1[x_t != x_0] ln D(x_0))

    It compares the jumps of another chain with the same law at each t than `score_entropy` does:
    straight to a draw of x_0. So for `Uniform` it is a looser bound. Its minimum is the posterior
    D. Of `Masking` it is `masked`.

    Raises:
      ValueError: the process is not of tokens; drop_cond is no probability.
    """
    return token_objective(model, conditioner, flow_loss, by_time(model, time_law), drop_cond)


def flow_loss(process: Discrete, x_0: Array, x_t: Array, t: Array, found: Array) -> Array:
    """The loss of each token, nats in a unit of t [b, l]."""
    own = jax.nn.one_hot(x_t, found.shape[-1], dtype=found.dtype)
    of_own = jnp.sum(own * found, axis=-1)
    value = jnp.where(x_t == x_0, 1 - of_own, surprise(found, x_0) - of_own)
    return expand(process.revealing_rate(t), x_0).astype(found.dtype) * value
