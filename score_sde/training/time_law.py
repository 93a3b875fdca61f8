"""How training draws t. A law changes the variance of the loss, never its expectation: the
objective divides by the law's density."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from score_sde.processes import SDE, Time, derivative, finite_log_snr
from score_sde.types import Key

__all__ = [
    "grid_points",
    "karras",
    "log_normal",
    "log_snr_uniform",
    "logit_normal",
    "uniform",
]  # what a config can name


class TimeLaw(NamedTuple):
    """A law of t on [t_min, t_max], stated by its quantiles.

    quantile: `(sde, u in [0, 1)) -> t`.
    density: `(sde, t) -> q(t) / uniform density`, unitless; 1 for the uniform law.
    stratified: draws one u in each of n equal cells (a low-discrepancy set, Kingma et al. 2021,
        app. I.1) instead of n independent ones.
    """

    quantile: Callable[[SDE, Time], Time]
    density: Callable[[SDE, Time], Time]
    stratified: bool = False

    def sample(self, key: Key, sde: SDE, n: int, dtype=jnp.float32) -> Float[Array, " n"]:
        """Draws t [n]."""
        if self.stratified:
            u = (jax.random.uniform(key, (), dtype) + jnp.arange(n, dtype=dtype) / n) % 1
        else:
            u = jax.random.uniform(key, (n,), dtype)
        return jnp.clip(self.quantile(sde, u), sde.t_min, sde.t_max)


def uniform(stratified: bool = False) -> TimeLaw:
    """Uniform on [t_min, t_max] (Song et al. 2021, eq. 7)."""
    return TimeLaw(
        lambda sde, u: sde.t_min + u * (sde.t_max - sde.t_min),
        lambda sde, t: jnp.ones_like(t),
        stratified,
    )


def grid_points(num_steps: int = 1000, stratified: bool = False) -> TimeLaw:
    """Uniform on the num_steps times of a discrete process (DDPM, SMLD)."""

    def quantile(sde, u):
        index = jnp.minimum(jnp.floor(u * num_steps), num_steps - 1)
        return sde.t_min + index / (num_steps - 1) * (sde.t_max - sde.t_min)

    return TimeLaw(quantile, lambda sde, t: jnp.ones_like(t), stratified)


def log_snr_uniform(stratified: bool = False) -> TimeLaw:
    """Uniform in log-SNR: the importance law of the likelihood weighting, for which
    `likelihood weight / density` is constant (Song et al. 2021b, arXiv:2101.09258).

    Its functions raise a ValueError for a process whose log-SNR is infinite at an end.
    """

    def quantile(sde, u):
        low, high = _log_snr_range(sde, u)
        return sde.t_of_log_snr(high + u * (low - high))

    def density(sde, t):
        low, high = _log_snr_range(sde, t)
        return -derivative(sde.log_snr, t) * (sde.t_max - sde.t_min) / (high - low)

    return TimeLaw(quantile, density, stratified)


def karras(rho: float = 7.0, stratified: bool = False) -> TimeLaw:
    """Uniform in s^(1/rho), s = sigma/alpha: draws the steps of the grid `karras` of the same rho
    equally often (Karras et al. 2022, arXiv:2206.00364, eq. 5).

    Its functions raise a ValueError for a process whose log-SNR is infinite at an end, or for a rho
    that is not positive.
    """
    if not rho > 0:
        raise ValueError(f"rho must be above 0, not {rho}")

    def root(sde, t):
        return jnp.exp(-sde.log_snr(t) / (2 * rho))

    def ends(sde, like):
        _log_snr_range(sde, like)  # both are finite
        return (root(sde, t) for t in _ends(sde, like))

    def quantile(sde, u):
        low, high = ends(sde, u)
        return sde.t_of_log_snr(-2 * rho * jnp.log(low + u * (high - low)))

    def density(sde, t):
        low, high = ends(sde, t)
        rate = derivative(lambda t: root(sde, t), t)
        return rate * (sde.t_max - sde.t_min) / (high - low)

    return TimeLaw(quantile, density, stratified)


def log_normal(mean: float = -1.2, std: float = 1.2, stratified: bool = False) -> TimeLaw:
    """ln(sigma/alpha) ~ N(mean, std^2), cut off at the ends of the process (Karras et al. 2022).

    Its tails are thin: 1/density has infinite variance, or nearly so on a short range of noise. Use
    it with a weighting that holds the density too (`weighting.edm`), not to estimate another loss.
    """

    def cdf(sde, t):  # of ln(sigma/alpha)
        return norm.cdf((-sde.log_snr(t) / 2 - mean) / std)

    def quantile(sde, u):
        first, last = (cdf(sde, t) for t in _ends(sde, u))
        # Rounding must not reach probability 0 or 1, whose quantile is infinite.
        tiny = jnp.finfo(u.dtype).eps
        p = jnp.clip(first + u * (last - first), tiny, 1 - tiny)
        return sde.t_of_log_snr(-2 * (mean + std * ndtri(p)))

    def density(sde, t):
        first, last = (cdf(sde, end) for end in _ends(sde, t))
        log_sigma = -sde.log_snr(t) / 2
        rate = -derivative(sde.log_snr, t) / 2  # d log_sigma / dt
        pdf = norm.pdf(log_sigma, mean, std)
        # 0 also where alpha or sigma is 0 and the rate is infinite
        pdf_of_t = jnp.where(pdf > 0, pdf * rate, 0.0)
        return pdf_of_t * (sde.t_max - sde.t_min) / (last - first)

    return TimeLaw(quantile, density, stratified)


def logit_normal(mean: float = 0.0, std: float = 1.0, stratified: bool = False) -> TimeLaw:
    """logit(tau) ~ N(mean, std^2), tau the relative time (Esser et al. 2024, arXiv:2403.03206).

    Its tails are so thin that 1/density has infinite variance: use it with a weighting that holds
    the density too (`weighting.sd3`), not to estimate another loss.
    """

    def quantile(sde, u):
        u = jnp.clip(u, jnp.finfo(u.dtype).eps, 1 - jnp.finfo(u.dtype).eps)
        tau = jax.nn.sigmoid(mean + std * ndtri(u))
        return sde.t_min + tau * (sde.t_max - sde.t_min)

    def density(sde, t):
        tau = (t - sde.t_min) / (sde.t_max - sde.t_min)
        pdf = norm.pdf(jnp.log(tau) - jnp.log1p(-tau), mean, std)
        return jnp.where(pdf > 0, pdf / (tau * (1 - tau)), 0.0)  # 0 at both ends

    return TimeLaw(quantile, density, stratified)


def _ends(sde: SDE, like: Array) -> tuple[Array, Array]:
    return jnp.asarray(sde.t_min, like.dtype), jnp.asarray(sde.t_max, like.dtype)


def _log_snr_range(sde: SDE, like: Array) -> tuple[Array, Array]:
    for t in sde.t_max, sde.t_min:
        finite_log_snr(sde, t, "this law of t", "take another law of t, or move that end")
    t_min, t_max = _ends(sde, like)
    return sde.log_snr(t_max), sde.log_snr(t_min)
