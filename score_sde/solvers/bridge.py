"""Steps between two ends, by the posterior means of both."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array

from score_sde.processes import SDE
from score_sde.processes.two_ends import between
from score_sde.types import Solver

__all__ = ["bridge"]  # what a config can name


def bridge(sde: SDE, eta: float | Array = 0.0) -> Solver:
    """DDIM of bridges (Zheng et al. 2024, arXiv:2405.15885, for an x_1 that is told): with
    E_i = E[x_i | x_t] and the weights of `processes.two_ends.between`,

        x_s = a_s E_0 + b_s E_1 + sqrt(c_s^2 - std^2) (x_t - a_t E_0 - b_t E_1)/c_t + std z
        std = eta sqrt(c_s^2 - c_t^2 b_s^2/b_t^2)

    At t_max, where c is 0, all of the noise is drawn anew. With eta 0 the rest is deterministic and
    follows the ODE of the bridge; with eta 1 E_1 drops out, and this is `ancestral`. Both have the
    law of the bridge at all times. The pairs differ. Order 1, one evaluation a step; for few steps.

    It asks for both means: of an objective `bridge_matching(second=...)`.
    """

    def step(noise, denoiser, x, t, s, state):
        x_0, x_1 = jnp.split(denoiser(x, t, s), 2, axis=-1)
        now, then = between(sde, t), between(sde, s)
        begins = now.c <= 0
        kept2 = (then.b / now.b * now.c) ** 2  # of the variance, after `ancestral`
        std2 = jnp.where(begins, then.c**2, eta**2 * (then.c**2 - kept2))
        old = (x - now.a * x_0 - now.b * x_1) / jnp.where(begins, 1, now.c)
        mean = then.a * x_0 + then.b * x_1 + jnp.sqrt(jnp.maximum(then.c**2 - std2, 0)) * old
        return mean + jnp.sqrt(std2) * noise(t, s, x.shape), state

    return Solver(lambda x, times: (), step, asks="ends")
