"""Methods that step the coefficients of A's singular value decomposition by their own noise.

Both bring a solver of their own, with one evaluation and no derivative per step. With the estimate
x_0 = E[x_0 | x_t], the part that y does not know takes the step `linear x_t + weight x_0 + v z` of
DDIM. The step of the known coefficients c = V^T x depends on the errors noise/s of y.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array

from score_sde.inverse.method import Method
from score_sde.inverse.observation import Known, Observation, known
from score_sde.processes import SDE
from score_sde.solvers import exponential
from score_sde.solvers.exponential import (
    Interpolation,
    NoiseLevel,
    Step,
    Stochasticity,
    at_start,
    noise_level,
)
from score_sde.types import Solver

__all__ = ["ddnm", "ddrm"]

Coefficients = Callable[[Known, Step, NoiseLevel, Array, Array], tuple[Array, Array]]
"""`(known, step, end, V^T x_s without noise, V^T x_0)` -> the mean and the standard deviation of
the known part of V^T x_s."""


def ddnm(sde: SDE, observation: Observation, eta: float = 1.0) -> Method:
    """DDNM and, with noise, DDNM+ (Wang et al. 2022, "Zero-shot image restoration using denoising
    diffusion null-space model", sec. 3, arXiv:2212.00490): the known coefficients of the estimate
    become those of y,

        x_0 <- x_0 + V l V^T (A+ y - x_0),        v'^2 = v^2 - (weight l noise/s)^2

    with the largest l <= 1 for which the errors of y fit into the noise v of the step.

    eta: that of DDIM; 1 is the paper's ancestral sampling, and a noisy y needs eta > 0. Linear A.
    It is biased: within the step, y does not change the unknown part of the estimate.

    Raises:
      ValueError: A has no SVD, or eta is not in [0, 1].
    """
    _check(eta=eta)

    def coefficients(seen, now, end, c, c_0):
        weight = now.weights[0]
        error = weight * seen.std
        fits = now.noise >= error
        trust = jnp.where(fits, 1, now.noise / jnp.where(fits, 1, error))
        variance = now.noise**2 - (trust * error) ** 2
        return c + weight * trust * (seen.mean - c_0), jnp.sqrt(jnp.maximum(variance, 0))

    seen = known(observation, "ddnm")
    return _own(sde, seen, exponential.eta(eta), coefficients)


def ddrm(sde: SDE, observation: Observation, eta: float = 0.85, eta_b: float = 1.0) -> Method:
    """DDRM (Kawar et al. 2022, "Denoising diffusion restoration models", sec. 3.2,
    arXiv:2201.11793). With rho = sigma_s/alpha_s, c_0 = V^T x_0 and b = V^T A+ y, the known part of
    V^T x_s/alpha_s is drawn from

        N(c_0 + sqrt(1 - eta^2) rho (b - c_0)/(noise/s), eta^2 rho^2)        where rho < noise/s
        N((1 - eta_b) c_0 + eta_b b, rho^2 - eta_b^2 (noise/s)^2)            elsewhere

    where s is the singular value of the coefficient. The rest takes DDIM's step with the part eta^2
    of its noise drawn afresh. The defaults are the paper's. The paper starts the known coefficients
    from y; here all start from the prior. Linear A. It is biased: c_0 does not depend
    on what y tells of other coefficients.

    eta: the part of the noise that is drawn afresh, for coefficients that y does not know, or knows
        less well than the step's noise; 0 keeps all of it.
    eta_b: how much the coefficients that y knows better than that follow y; 1 takes its value.

    Raises:
      ValueError: A has no SVD, or eta or eta_b is not in [0, 1].
    """
    _check(eta=eta, eta_b=eta_b)

    def coefficients(seen, now, end, c, c_0):
        rho = end.sigma / end.alpha
        low = rho < seen.std
        away = (seen.mean - c_0) / jnp.where(low, seen.std, 1)
        below = c_0 + jnp.sqrt(1 - jnp.asarray(eta**2, rho.dtype)) * rho * away
        above = (1 - eta_b) * c_0 + eta_b * seen.mean
        variance = jnp.where(low, (eta * rho) ** 2, rho**2 - (eta_b * seen.std) ** 2)
        mean, std = jnp.where(low, below, above), jnp.sqrt(jnp.maximum(variance, 0))
        return end.alpha * mean, end.alpha * std

    seen = known(observation, "ddrm")
    return _own(sde, seen, exponential.fresh(eta), coefficients)


def _check(**parts: float) -> None:
    for name, value in parts.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be from 0 to 1, not {value}")


def _own(sde: SDE, seen: Known, g: Stochasticity | None, coefficients: Coefficients) -> Method:
    def step(noise, denoiser, x, t, s, state):
        now, end = ddim_step(sde, t, s, g)
        x_0 = denoiser(x, t)
        rest = now.linear * x + now.weights[0] * x_0
        mean, std = coefficients(seen, now, end, seen.svd.right(rest), seen.svd.right(x_0))
        z = noise(t, s, x.shape)
        return seen.put(rest + now.noise * z, mean + std * seen.svd.right(z)), state

    return Method(solver=lambda solver: Solver(lambda x, times: (), step))


def ddim_step(sde: SDE, t: Array, s: Array, noise: Stochasticity | None) -> tuple[Step, NoiseLevel]:
    """The coefficients of DDIM's step from t to s, and the noise level of s."""
    start, end = noise_level(sde, t), noise_level(sde, s)
    g = None if noise is None else noise(start.lam, end.lam)
    return exponential.step(sde, Interpolation(), start, end, at_start(start), g), end
