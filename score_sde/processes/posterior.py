"""The law of x_s given x_t and x_0, for s before t, and the variances of a step from t to s."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from score_sde.processes.gaussian import SDE, Time
from score_sde.types import expand


class Posterior(NamedTuple):
    """`q(x_s | x_t, x_0) = N(from_x x_t + from_x0 x_0, exp(log_variance) I)`; each of the shape of
    t (Ho et al. 2020, arXiv:2006.11239, eq. 6-7, for any Gaussian process).

    With a = alpha_t/alpha_s and G^2 = sigma_t^2 - a^2 sigma_s^2, the variance of x_t given x_s:

        from_x = a sigma_s^2/sigma_t^2      from_x0 = alpha_s G^2/sigma_t^2
        variance = G^2 sigma_s^2/sigma_t^2

    log_transition: ln G^2, which is ln beta in a chain.
    """

    from_x: Time
    from_x0: Time
    log_variance: Time
    log_transition: Time

    def mean(self, x_t: Array, x_0: Array) -> Array:
        """E[x_s | x_t, x_0], x [b, ...]."""
        return expand(self.from_x, x_t) * x_t + expand(self.from_x0, x_t) * x_0

    def interpolated(self, v: Array) -> Array:
        """`f ln G^2 + (1 - f) log_variance` with f = (v + 1)/2, v [b, ...]: the log variance of a
        step as a network learns it (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 15)."""
        low, high = expand(self.log_variance, v), expand(self.log_transition, v)
        return low + (v + 1) / 2 * (high - low)


def posterior(sde: SDE, t: Time, s: Time) -> Posterior:
    """The posterior of a step from t to s, times [] or [b] with s < t."""
    log_snr_t, log_snr_s = sde.log_snr(t), sde.log_snr(s)
    log_sigma2_t, log_sigma2_s = 2 * jnp.log(sde.sigma(t)), 2 * jnp.log(sde.sigma(s))
    share = -jnp.expm1(log_snr_t - log_snr_s)  # G^2/sigma_t^2
    ratio = jnp.exp(log_sigma2_s - log_sigma2_t)
    log_transition = log_sigma2_t + jnp.log(share)
    return Posterior(
        from_x=sde.alpha(t) / sde.alpha(s) * ratio,
        from_x0=sde.alpha(s) * share,
        log_variance=log_transition + log_sigma2_s - log_sigma2_t,
        log_transition=log_transition,
    )
