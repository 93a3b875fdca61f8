"""Runge-Kutta methods in the variables of EDM: x~ = x/alpha, s = sigma/alpha, dx~/ds = eps."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from score_sde.sde import SDE
from score_sde.types import Solver

__all__ = ["edm", "heun"]


def heun(sde: SDE) -> Solver:
    """Heun's method (Karras et al. 2022, alg. 1): order 2, two evaluations, deterministic."""
    return edm(sde, s_churn=0.0)


def edm(
    sde: SDE,
    s_churn: float = 40.0,
    s_min: float = 0.05,
    s_max: float = 50.0,
    s_noise: float = 1.003,
) -> Solver:
    """EDM's stochastic sampler (Karras et al. 2022, alg. 2): Heun's method after a churn.

    Two evaluations a step. Where sigma/alpha is in [s_min, s_max], noise of scale s_noise first
    raises it by the factor `1 + min(s_churn / steps, sqrt(2) - 1)`. The published constants of
    ImageNet-64 are the default.
    """

    def init(x, times):
        gamma = min(s_churn / (len(times) - 1), math.sqrt(2) - 1)
        return jnp.asarray(gamma, times.dtype)

    def noise_scale(t):
        return jnp.exp(-sde.log_snr(t) / 2)

    def step(key, denoiser, x, t, s, gamma):
        start, end = noise_scale(t), noise_scale(s)
        x_tilde = x / sde.alpha(t)
        if s_churn:
            inside = (s_min <= start) & (start <= s_max)
            gamma_t = jnp.where(inside, gamma, 0.0)
            z = jax.random.normal(key, x.shape, x.dtype)
            x_tilde = x_tilde + s_noise * start * jnp.sqrt(gamma_t * (2 + gamma_t)) * z
            start = (1 + gamma_t) * start
            t = jnp.where(inside, sde.t_of_log_snr(-2 * jnp.log(start)), t)

        slope = (x_tilde - denoiser(sde.alpha(t) * x_tilde, t)) / start
        euler = x_tilde + (end - start) * slope
        slope_end = (euler - denoiser(sde.alpha(s) * euler, s)) / end
        x_tilde = x_tilde + (end - start) * (slope + slope_end) / 2
        return sde.alpha(s) * x_tilde, gamma

    return Solver(init, step)
