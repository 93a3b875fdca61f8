"""Learning to draw from an energy, by adjoint matching."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from score_sde.conditioning.conditioner import Conditioner
from score_sde.models.model import Model
from score_sde.models.rewards import Reward
from score_sde.training import lean_adjoint
from score_sde.training.objective import Objective
from score_sde.training.objectives.denoising import noise_error
from score_sde.training.time_law import TimeLaw
from score_sde.training.weighting import Weighting
from score_sde.types import as_pytree, expand

__all__ = ["adjoint_sampling"]  # what a config can name


def adjoint_sampling(
    model: Model,
    conditioner: Conditioner,
    *,
    time_law: TimeLaw,
    weighting: Weighting,
    log_density: Reward,
    std: float = 1.0,
    steps: int = 20,
    times_per_path: int = 4,
    anneal: int = 0,
) -> Objective:
    """A model of a law that is known by its log-density alone, up to a constant: `lean_adjoint`
    from the law N(0, std^2 I), whose D is known, with the reward

        r(x) = log_density(x) - ln N(x; 0, std^2 I)

    (the task of Havens et al. 2025, arXiv:2504.11713, there from a Brownian motion). The result is
    E[x_0 | x_t] of that law. No data are read: a batch says how many examples, and their shape.
    ln Z is between the bounds of `sampling.log_partition`.

    With `parametrization="edm(sigma_data=STD)"` a network whose output is 0 starts as N(0, std^2
    I). A std below that of the law finds some of its modes late or never, and a steep energy
    without `anneal` loses some.

    weighting, steps, times_per_path, anneal: as of `adjoint_matching`.

    Raises:
      ValueError: std is not above 0; as `lean_adjoint.matching`.
    """
    if not std > 0:
        raise ValueError(f"std must be above 0, not {std}")
    match = lean_adjoint.matching(
        model,
        time_law=time_law,
        weighting=weighting,
        steps=steps,
        tau=1.0,
        times_per_path=times_per_path,
        anneal=anneal,
    )

    def base(cond):
        def denoiser(x_t, t):
            alpha, sigma = model.sde.alpha(t), model.sde.sigma(t)
            return expand(alpha * std**2 / ((alpha * std) ** 2 + sigma**2), x_t) * x_t

        return denoiser

    def losses(log_density, params, key, batch, training):
        def reward(x):
            z = x.reshape(len(x), -1) / std
            log_norm = z.shape[1] * (math.log(std) + math.log(2 * math.pi) / 2)
            return log_density(x) + jnp.sum(z**2, axis=1) / 2 + log_norm

        return match(base, reward, params, key, batch, training)

    return Objective(
        jax.tree_util.Partial(losses, as_pytree(log_density)),
        noise_error(model),
        "noise_error",
        model.denoiser,
    )
