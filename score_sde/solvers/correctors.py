"""Correctors: they stay at time t and pull x towards its density there.

The letters of the equations are those of `score_sde.solvers`.
"""

from __future__ import annotations

import jax.numpy as jnp

from score_sde.processes import SDE
from score_sde.solvers.compose import chain
from score_sde.solvers.first_order import ancestral, ddim
from score_sde.solvers.reverse_sde import euler_maruyama, reverse_diffusion
from score_sde.types import Solver

__all__ = ["predictor_corrector"]  # correctors alone do not advance time


def langevin(sde: SDE, snr: float = 0.16) -> Solver:
    """One Langevin step at t (Song et al. 2021, alg. 4 and 5): with score = -eps/sigma_t,

        x <- x + d score + sqrt(2 d) z
        d = 2 a (snr |z|/|score|)^2      a = (alpha_t/alpha_s)^2

    The norms are means over the batch; a is 1 - beta_i of DDPM, 1 of SMLD. One evaluation,
    stochastic. It does not advance time, so it is used in a `chain`.
    """

    def size(x, score, z, a, sigma):
        # The score (alpha D - x)/sigma^2 is not known below its rounding, where it may even be 0.
        rounding = jnp.finfo(x.dtype).eps * _mean_norm(x) / sigma**2
        return 2 * a * (snr * _mean_norm(z) / (_mean_norm(score) + rounding)) ** 2

    return _corrector(sde, size)


def annealed_langevin(sde: SDE, snr: float = 0.16) -> Solver:
    """`langevin` with d = 2 a (snr sigma_t)^2 (Song & Ermon 2019, alg. 1)."""
    return _corrector(sde, lambda x, score, z, a, sigma: 2 * a * (snr * sigma) ** 2)


def predictor_corrector(
    sde: SDE,
    predictor: str = "reverse_diffusion",
    corrector: str = "langevin",
    snr: float = 0.16,
    corrector_steps: int = 1,
) -> Solver:
    """The PC sampler (Song et al. 2021, alg. 1): in each step

        x <- x + d score + sqrt(2 d) z      corrector_steps times, d as in `langevin`
        x_s from x by the predictor         `reverse_diffusion` by default

    1 + corrector_steps evaluations a step, stochastic. Of no order: a correction leaves an error of
    about snr^2 in the variance, whatever the grid. The paper's sampler of the VE models: for a
    thousand steps.

    predictor: reverse_diffusion, euler_maruyama, ancestral or ddim. corrector: langevin or
    annealed_langevin.

    Raises:
      ValueError: the predictor or corrector is not known.
    """
    predictors = {
        solver.__name__: solver for solver in (reverse_diffusion, euler_maruyama, ancestral, ddim)
    }
    correctors = {solver.__name__: solver for solver in (langevin, annealed_langevin)}
    for name, known in ((predictor, predictors), (corrector, correctors)):
        if name not in known:
            raise ValueError(f"predictor_corrector: {name!r} is not one of {', '.join(known)}")
    corrections = [correctors[corrector](sde, snr=snr)] * corrector_steps
    return chain(*corrections, predictors[predictor](sde))


def _corrector(sde: SDE, size) -> Solver:
    def step(noise, denoiser, x, t, s, state):
        score = sde.score(x, t, denoiser(x, t))
        z = noise(t, s, x.shape)
        step_size = size(x, score, z, (sde.alpha(t) / sde.alpha(s)) ** 2, sde.sigma(t))
        return x + step_size * score + jnp.sqrt(2 * step_size) * z, state

    return Solver(lambda x, times: (), step)


def _mean_norm(x):
    return jnp.mean(jnp.linalg.norm(x.reshape(x.shape[0], -1), axis=1))
