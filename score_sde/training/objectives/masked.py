"""The bound of masked tokens."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array

from score_sde.conditioning.conditioner import Conditioner
from score_sde.models.model import Model
from score_sde.processes import MASK, Discrete
from score_sde.training.objective import Objective
from score_sde.training.time_law import TimeLaw
from score_sde.training.tokens import by_time, process_of, surprise, token_objective
from score_sde.types import expand

__all__ = ["masked"]  # what a config can name


def masked(
    model: Model, conditioner: Conditioner, *, time_law: TimeLaw, drop_cond: float = 0.0
) -> Objective:
    """Masked diffusion (Sahoo et al. 2024, arXiv:2406.07524, eq. 10; Shi et al. 2024,
    arXiv:2406.04329, eq. 4), for `Masking` with any schedule:

        int dt -alpha'/(1 - alpha) E sum_(masked i) -ln D_i(x_0)

    divided by the number of tokens: a bound of the nats of a token. It does not depend on the
    schedule, if D does not depend on t.

    Raises:
      ValueError: the process has no masks; drop_cond is no probability.
    """
    check_masks("masked", model)
    return token_objective(model, conditioner, masked_loss, by_time(model, time_law), drop_cond)


def masked_loss(process: Discrete, x_0: Array, x_t: Array, t: Array, found: Array) -> Array:
    """-alpha'/(1 - alpha) (-ln D(x_0)) of each mask, nats [b, l]."""
    weight = expand(process.revealing_rate(t), x_0).astype(found.dtype)
    return jnp.where(x_t == MASK, weight * surprise(found, x_0), 0)


def check_masks(objective: str, model: Model) -> Discrete:
    """The process.

    Raises:
      ValueError: it has no masks.
    """
    process = process_of(model)
    if not process.absorbing:
        raise ValueError(f"objective.name={objective!r} learns masks: set sde='Masking'")
    return process
