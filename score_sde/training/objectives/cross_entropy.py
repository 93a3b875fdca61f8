"""Cross-entropy of noised tokens."""

from __future__ import annotations

from jaxtyping import Array

from score_sde.conditioning.conditioner import Conditioner
from score_sde.models.model import Model
from score_sde.processes import Discrete
from score_sde.training.objective import Objective
from score_sde.training.time_law import TimeLaw
from score_sde.training.tokens import by_time, surprise, token_objective

__all__ = ["cross_entropy"]  # what a config can name


def cross_entropy(
    model: Model, conditioner: Conditioner, *, time_law: TimeLaw, drop_cond: float = 0.0
) -> Objective:
    """E_t -ln D(x_0), a mean over tokens, without a weight (Gat et al. 2024, arXiv:2407.15595, eq.
    28). Its minimum is the posterior D, with either parametrization. It bounds no likelihood.

    Raises:
      ValueError: the process is not of tokens; drop_cond is no probability.
    """
    return token_objective(model, conditioner, plain_loss, by_time(model, time_law), drop_cond)


def plain_loss(process: Discrete, x_0: Array, x_t: Array, t: Array, found: Array) -> Array:
    """-ln D(x_0) of each token, nats [b, l]."""
    return surprise(found, x_0)
