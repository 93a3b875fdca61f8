"""Discretisations of the reverse SDE `dx = (f x - g^2 score) dt + g dw` (Anderson 1982).

The letters of the equations are those of `score_sde.solvers`.
"""

from __future__ import annotations

import jax.numpy as jnp

from score_sde.processes import SDE, coefficients, finite_log_snr
from score_sde.solvers.exponential import IN_X0
from score_sde.types import Solver

__all__ = ["euler_maruyama", "reverse_diffusion"]


def euler_maruyama(sde: SDE) -> Solver:
    """Euler-Maruyama (Song et al. 2021, app. G): with f and g at t, and score = -eps/sigma_t,

        x_s = x_t + (s - t) (f x_t - g^2 score) + g sqrt(t - s) z

    Weak order 1, one evaluation a step, stochastic. For hundreds of steps, to reproduce the paper;
    `ancestral` is more accurate at the same cost.

    Raises:
      ValueError: alpha is 0 at t_max, where the drift is infinite.
    """
    finite_log_snr(sde, sde.t_max, "euler_maruyama", IN_X0)

    def step(noise, denoiser, x, t, s, state):
        f, g2 = coefficients(sde, t)
        drift = f * x - g2 * sde.score(x, t, denoiser(x, t))
        z = noise(t, s, x.shape)
        return x + (s - t) * drift + jnp.sqrt(g2 * (t - s)) * z, state

    return Solver(lambda x, times: (), step)


def reverse_diffusion(sde: SDE) -> Solver:
    """Reverse diffusion (Song et al. 2021, eq. 46 and app. E): with score = -eps/sigma_t,

        x_s = (2 - a) x_t + G^2 score + G z
        a = alpha_t/alpha_s      G^2 = sigma_t^2 - a^2 sigma_s^2 = sigma_t^2 (1 - SNR_t/SNR_s)

    It reverses the forward transition x_t = a x_s + G z. Weak order 1, one evaluation a step,
    stochastic. The predictor of the paper's VE models: for hundreds of steps, to reproduce it.
    """

    def step(noise, denoiser, x, t, s, state):
        a = sde.alpha(t) / sde.alpha(s)
        g2 = -(sde.sigma(t) ** 2) * jnp.expm1(sde.log_snr(t) - sde.log_snr(s))
        score = sde.score(x, t, denoiser(x, t))
        z = noise(t, s, x.shape)
        return (2 - a) * x + g2 * score + jnp.sqrt(g2) * z, state

    return Solver(lambda x, times: (), step)
