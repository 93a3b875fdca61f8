"""Exponential integrators of the reverse process in data prediction, with any stochasticity.

With h = ln(s_t / s_s) the step in ln(alpha/sigma), s = sigma/alpha, and a share `eta^2` of the
ancestral noise, the linear part is solved exactly:

    n^2 = eta^2 (1 - e^{-2h})
    x_s = sigma_s/sigma_t sqrt(1 - n^2) x_t + alpha_s (1 - e^{-h} sqrt(1 - n^2)) D + sigma_s n z

where D extrapolates the denoiser's values over the step. eta 0 is the probability-flow ODE, eta 1
the reverse SDE.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from score_sde.sde import SDE
from score_sde.types import Solver

__all__ = ["ancestral", "ddim", "dpmpp"]


def ddim(sde: SDE, eta: float = 0.0) -> Solver:
    """DDIM (Song, Meng & Ermon 2021, arXiv:2010.02502, eq. 12 and 16): order 1.

    One evaluation a step; deterministic at eta 0, ancestral sampling at eta 1. The plain choice
    for many steps; `dpmpp` wants fewer.
    """
    return _exponential(sde, eta, order=1)


def ancestral(sde: SDE) -> Solver:
    """Ancestral sampling of DDPM with the posterior's variance (Ho et al. 2020, eq. 6-7), and of
    SMLD (Song et al. 2021, eq. 4): `ddim` with eta 1.

    One evaluation a step, stochastic, weak order 1. For hundreds of steps.
    """
    return ddim(sde, eta=1.0)


def dpmpp(sde: SDE, order: int = 2, eta: float = 0.0) -> Solver:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, alg. 2); eta 1 is its SDE form.

    One evaluation a step, order 2 (the first step has order 1). The choice for 10 to 50 steps.

    Raises:
      ValueError: order is not 1 or 2.
    """
    if order not in (1, 2):
        raise ValueError(f"dpmpp has order 1 or 2, not {order}")
    return _exponential(sde, eta, order)


def _exponential(sde: SDE, eta: float, order: int) -> Solver:
    def init(x, times):
        return jnp.zeros_like(x), jnp.full((), jnp.inf, times.dtype)

    def step(key, denoiser, x, t, s, state):
        previous, previous_h = state
        data = denoiser(x, t)
        h = (sde.log_snr(s) - sde.log_snr(t)) / 2
        noise2 = -(eta**2) * jnp.expm1(-2 * h)
        log_keep = jnp.log1p(-noise2) / 2
        # An infinite previous step (there is none yet) makes the extrapolation vanish.
        slope = jnp.where(jnp.isinf(previous_h), 0, h / previous_h / 2) if order == 2 else 0.0
        extrapolated = data + slope * (data - previous)
        x = (
            sde.sigma(s) / sde.sigma(t) * jnp.exp(log_keep) * x
            - sde.alpha(s) * jnp.expm1(log_keep - h) * extrapolated
        )
        if eta:
            x = x + sde.sigma(s) * jnp.sqrt(noise2) * jax.random.normal(key, x.shape, x.dtype)
        return x, (data, h)

    return Solver(init, step)
