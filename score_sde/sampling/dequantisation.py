r"""The probability of x that is at levels as the mass of a density over its cell.

    ln P(x) = ln \int_cell p(y) dy >= E ln 1/K sum_k p(x + u_k)/q(u_k),   u_k ~ q within the cell.

The gap for K = 1 is KL(q(u) || p(u | x)), and it falls as K rises. p is the density of
x_t/alpha at t_min, so that it is the data's own probability that is bounded, and not the density of
something with noise: what the model puts beyond all cells is lost, and counts against it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from score_sde.processes import SDE
from score_sde.sampling.likelihood import log_likelihood
from score_sde.sampling.variational import log_mean_exp, tau_of
from score_sde.types import Denoiser, Keys, Levels, each_with


class Law(NamedTuple):
    """A law q of the noise u of one number. sample: `(key, shape, dtype) -> u`. log_density:
    `u -> ln q(u)`."""

    sample: Callable[..., Array]
    log_density: Callable[[Array], Array]


def uniform(process: SDE, levels: Levels) -> Law:
    """Uniform over the cell (Theis et al. 2016, arXiv:1511.01844)."""
    half = levels.step / 2
    return Law(
        lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -half, half),
        lambda u: jnp.full_like(u, -math.log(levels.step)),
    )


def truncated_normal(process: SDE, levels: Levels) -> Law:
    """The noise of x_t/alpha at t_min, N(0, sigma^2/alpha^2), within the cell (Zheng et al. 2023,
    arXiv:2305.03935, sec. 4.1): of a network that has learnt x at its levels, this is almost what
    it takes for noise, without a dequantiser to train."""
    tau = tau_of(process, levels)
    rho = levels.step / 2 / tau
    log_norm = math.log(rho * math.sqrt(2 * math.pi) * math.erf(tau / math.sqrt(2)))
    return Law(
        lambda key, shape, dtype: rho * jax.random.truncated_normal(key, -tau, tau, shape, dtype),
        lambda u: -((u / rho) ** 2) / 2 - log_norm,
    )


LAWS = {"uniform": uniform, "truncated_normal": truncated_normal}

Density = Callable[[Keys, Array], tuple[Array, Array]]
"""`(keys [b], y [b, ...]) -> ln p(y) [b], evaluations [b]`."""


def density_of_ode(process: SDE, denoiser: Denoiser, **options) -> Density:
    """The density of y = x_t/alpha at t_min by the probability-flow ODE, with the options of
    `log_likelihood`."""

    def density(keys, y):
        alpha = process.alpha(jnp.asarray(process.t_min, y.dtype))
        found = log_likelihood(keys, process, denoiser, alpha * y, **options)
        return found.log_prob + y[0].size * jnp.log(alpha), found.nfe

    return density


def log_mass(
    keys: Keys, density: Density, law: Law, x: Float[Array, "b ..."], samples: int
) -> tuple[Float[Array, " b"], Int[Array, " b"]]:
    """An unbiased estimate of the bound above, nats, and the evaluations.

    keys: a typed one for each example. samples: K.

    Raises:
      ValueError: samples is less than 1.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, not {samples}")

    def one(keys):
        key_noise, key_density = each_with(keys, jax.random.split, 2)
        u = jax.vmap(lambda key: law.sample(key, x.shape[1:], x.dtype))(key_noise)
        log_q = jnp.sum(law.log_density(u).reshape(len(u), -1), axis=1)
        log_prob, nfe = density(key_density, x + u)
        return log_prob - log_q, nfe

    weights, nfe = jax.lax.map(one, each_with(keys, jax.random.split, samples))
    return log_mean_exp(weights), jnp.sum(nfe, axis=0)
