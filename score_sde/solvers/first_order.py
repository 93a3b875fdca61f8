"""Multistep methods of order 1: one evaluation a step, nothing remembered.

The letters of the equations are those of `score_sde.solvers`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array

from score_sde.processes import SDE, jump, posterior
from score_sde.solvers import exponential
from score_sde.solvers.exponential import Interpolation
from score_sde.solvers.multistep import coefficients_on_grid, linear_multistep, multistep
from score_sde.types import PyTree, Solver

__all__ = ["ancestral", "ddim", "euler_ancestral", "flow_map"]


def ddim(sde: SDE, eta: float | Array = 0.0) -> Solver:
    """DDIM (Song, Meng & Ermon 2021, arXiv:2010.02502, eq. 12 and 16):

        x_s = alpha_s D + sqrt(sigma_s^2 - std^2) eps + std z
        std = eta sigma_s sqrt(1 - rho_s^2/rho_t^2)

    Order 1, one evaluation a step; deterministic at eta 0, ancestral sampling at eta 1. The plain
    choice for many steps; `dpmpp` needs fewer.
    """
    return multistep(sde, order=1, noise=exponential.eta(eta))


def ancestral(sde: SDE, variance: str = "small") -> Solver:
    """Ancestral sampling (Ho et al. 2020, arXiv:2006.11239, alg. 2): the mean of
    q(x_s | x_t, x_0 = D), and noise of one of the two variances of their sec. 3.2, or of a learned
    one.

    With a = alpha_t / alpha_s and G^2 = sigma_t^2 - a^2 sigma_s^2, the variance of x_t given x_s
    (beta_t of a DDPM):

        x_s = a sigma_s^2/sigma_t^2 x_t + alpha_s G^2/sigma_t^2 D + std z
        "small": std^2 = G^2 sigma_s^2/sigma_t^2, the variance of the posterior: `ddim` with eta 1.
            Right for data at a point; ancestral sampling of SMLD (Song et al. 2021, eq. 4).
        "large": std^2 = G^2. Right for data of N(0, I); Ho et al. and the VP models of Song et al.
            2021 sample with it.
        "learned": std^2 is what the network says of each number, in between (Nichol & Dhariwal
            2021, arXiv:2102.09672): ADM and its like, trained by the objective `hybrid`. Or what
            any denoiser implies, with one of `models.covariance` in `sampling.variance`.

    diffusers calls them fixed_small, fixed_large and learned_range. Weak order 1, one evaluation a
    step, stochastic. For hundreds of steps.

    Raises:
      ValueError: another variance.
    """
    if variance not in ("small", "large", "learned"):
        raise ValueError(f"unknown variance {variance!r}: one of small, large, learned")
    if variance == "small":
        return ddim(sde, eta=1.0)
    if variance == "learned":
        return Solver(lambda x, times: (), _step_of_moments(sde), asks="moments")

    def coefficients(times):
        one = jnp.ones(len(times) - 1, int)
        mean = coefficients_on_grid(sde, Interpolation(), times, exponential.eta(1.0), one, None, 1)
        log_snr = sde.log_snr(times)
        std = sde.sigma(times[:-1]) * jnp.sqrt(-jnp.expm1(log_snr[:-1] - log_snr[1:]))
        return mean._replace(noise=std)

    return linear_multistep(sde, "x0", coefficients, stochastic=True)


def _step_of_moments(sde: SDE) -> Callable[..., tuple[Array, PyTree]]:
    """The step of `ancestral` with the variance that a Moments states."""

    def step(noise, denoiser, x, t, s, state):
        x_0, log_variance = jnp.split(denoiser(x, t, s), 2, axis=-1)
        std = jnp.exp(log_variance / 2)
        return posterior(sde, t, s).mean(x, x_0) + std * noise(t, s, x.shape), state

    return step


def euler_ancestral(sde: SDE, eta: float | Array = 1.0) -> Solver:
    """ "Euler a" of k-diffusion: an Euler step of dx~ = eps drho below rho_s, then noise up to it.

        x~_s = x~_t + (rho_down - rho_t) eps + rho_up z
        rho_up = eta rho_s sqrt(1 - rho_s^2/rho_t^2)      rho_down^2 = rho_s^2 - rho_up^2

    This is `ddim` with the same eta, to the last digit, for every process. Weak order 1, one
    evaluation a step, stochastic. It has this name for those who look for it.
    """
    return ddim(sde, eta=eta)


def flow_map(sde: SDE, gamma: float | Array = 1.0) -> Solver:
    """Jumps along a FlowMap, each below the next noise level, and noise up to it:

        x_u = the flow from x_t at t to u, rho_u^2 = (1 - gamma^2) rho_s^2, u not below t_min
        x_s = alpha_s (x_u/alpha_u + sqrt(rho_s^2 - rho_u^2) z),    rho = sigma/alpha

    gamma 1 is multistep consistency sampling (Song et al. 2023, arXiv:2303.01469, alg. 1), gamma 0
    has no noise, and between them is the sampling of Kim et al. 2024 (arXiv:2310.02279, alg. 2).
    With an exact flow map all are exact, on any grid and from one step on. One evaluation a step.
    A consistency model knows the flow to t_min alone, so it needs gamma 1.

    Raises:
      ValueError: gamma is not in [0, 1].
    """
    exponential.check_range("gamma", gamma, 1.0)
    without_noise = isinstance(gamma, int | float) and gamma == 0

    def step(noise, denoiser, x, t, s, state):
        if without_noise:
            return jump(sde, x, t, s, denoiser(x, t, s)), state
        log_snr, most = sde.log_snr(s), sde.log_snr(jnp.asarray(sde.t_min, s.dtype))
        below = jnp.minimum(log_snr - jnp.log1p(-(jnp.asarray(gamma, s.dtype) ** 2)), most)
        u = jnp.clip(sde.t_of_log_snr(below), sde.t_min, sde.t_max)
        x_u = jump(sde, x, t, u, denoiser(x, t, u))
        std = sde.sigma(s) * jnp.sqrt(-jnp.expm1(jnp.minimum(log_snr - below, 0)))
        return sde.alpha(s) / sde.alpha(u) * x_u + std * noise(t, s, x.shape), state

    return Solver(lambda x, times: (), step, asks="flow_map")
