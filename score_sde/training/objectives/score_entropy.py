"""The bound of any discrete process."""

from __future__ import annotations

from jaxtyping import Array

from score_sde.conditioning.conditioner import Conditioner
from score_sde.models.model import Model
from score_sde.processes import Discrete
from score_sde.processes.rates import rate_entropy
from score_sde.training.objective import Objective
from score_sde.training.time_law import TimeLaw
from score_sde.training.tokens import by_time, token_objective

__all__ = ["score_entropy"]  # what a config can name


def score_entropy(
    model: Model, conditioner: Conditioner, *, time_law: TimeLaw, drop_cond: float = 0.0
) -> Objective:
    """The integral of `processes.rates.rate_entropy` over t, divided by the number of
    tokens: a bound of the nats of a token, for any discrete process (Lou et al. 2023,
    arXiv:2310.16834, eq. 9; for `Uniform` Schiff et al. 2024, arXiv:2412.10193, eq. 18).

    Its minimum is the posterior D. With the parametrization `without_itself` the network itself is
    the law of a token without its own x_t. Of `Masking` it is `masked`.

    Raises:
      ValueError: the process is not of tokens; drop_cond is no probability.
    """
    return token_objective(model, conditioner, entropy_loss, by_time(model, time_law), drop_cond)


def entropy_loss(process: Discrete, x_0: Array, x_t: Array, t: Array, found: Array) -> Array:
    """The relative entropy of the rates of each token, nats in a unit of t [b, l]."""
    return rate_entropy(process, x_0, x_t, t, found)
