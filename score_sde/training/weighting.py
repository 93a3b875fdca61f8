"""What training cares about: how much an error at time t counts.

The errors of all predictions are one number seen in different units. With e the error of
D = E[x_0 | x_t], that of the prediction of `a x_0 + b z` is `(a sigma - b alpha)/sigma e`:

    x_0      e
    noise    (alpha/sigma) e
    v        (alpha^2 + sigma^2)/sigma e        v = alpha z - sigma x_0
    flow     (alpha + sigma)/sigma e            z - x_0

One canonical form: a weighting is the factor of the squared error of v under UNIFORM t,
`L = 1/2 E_{t ~ U} [ weight(t) |v - v^|^2 ]`. (The half and the sum over dimensions are the
reduction "sum" of `denoising`; "mean" is their mean, without the half.) In this form all published
weightings are finite at both ends of a process, where alpha or sigma may be 0; weights of the noise
error are infinite at alpha = 0.
The objective divides by the density of the law that t is really drawn from, and derives the weight
of the network's own error from its parametrization.

In terms of the log-SNR Lambda and of the noise, `L = 1/2 int w(Lambda) |z - z^|^2 dLambda` with
`weight = w(Lambda) (-dLambda/dt) (t_max - t_min) (alpha/(alpha^2 + sigma^2))^2` (Kingma & Gao 2023,
arXiv:2303.00848).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from score_sde.models.parametrization import Parametrization
from score_sde.processes import SDE, Time, derivative
from score_sde.training import time_law

__all__ = [
    "edm",
    "flow",
    "likelihood",
    "min_snr",
    "p2",
    "sd3",
    "sigmoid",
    "simple",
    "truncated_snr",
    "v",
]  # what a config can name

Weighting = Callable[[SDE, Time], Time]
"""`(sde, t) -> weight` of the squared error of v under uniform t."""


def simple() -> Weighting:
    """1 on the noise error (Ho et al. 2020, eq. 14). Like every weighting of the noise error, it is
    0 where alpha is 0: there x_t is the noise."""
    return lambda sde, t: (sde.alpha(t) / _power(sde, t)) ** 2


def likelihood() -> Weighting:
    """-dLambda/dt = g^2/sigma^2 on the noise error, w = 1: the loss bounds the negative
    log-likelihood (Song et al. 2021b, arXiv:2101.09258, eq. 7)."""

    def weight(sde, t):
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        # alpha sigma (-dLambda/dt) / 2
        change = alpha * derivative(sde.sigma, t) - sigma * derivative(sde.alpha, t)
        return 2 * (sde.t_max - sde.t_min) * change * alpha / (sigma * _power(sde, t) ** 2)

    return weight


def min_snr(gamma: float = 5.0) -> Weighting:
    """min(SNR, gamma) on the error of x_0 (Hang et al. 2023, arXiv:2303.09556)."""

    def weight(sde, t):
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        return jnp.minimum(alpha**2, gamma * sigma**2) / _power(sde, t) ** 2

    return weight


def truncated_snr() -> Weighting:
    """max(SNR, 1) on the error of x_0: "truncated SNR" of Salimans & Ho 2022 (arXiv:2202.00512,
    sec. 4), which trains models of x_0 and progressive distillation."""

    def weight(sde, t):
        return (jnp.maximum(sde.alpha(t), sde.sigma(t)) / _power(sde, t)) ** 2

    return weight


def v() -> Weighting:
    """1 on the error of v: "SNR + 1" on that of x_0 in Salimans & Ho 2022 (arXiv:2202.00512, sec.
    4), for variance preserving processes. The loss of the published models of v."""
    return lambda sde, t: jnp.ones_like(t)


def p2(k: float = 1.0, gamma: float = 1.0) -> Weighting:
    """(k + SNR)^-gamma on the noise error (Choi et al. 2022, arXiv:2204.00227, eq. 8)."""

    def weight(sde, t):
        alpha2, sigma2 = sde.alpha(t) ** 2, sde.sigma(t) ** 2
        return simple()(sde, t) * (sigma2 / (k * sigma2 + alpha2)) ** gamma

    return weight


def sigmoid(bias: float = 2.0) -> Weighting:
    """w(Lambda) = sigmoid(bias - Lambda) (Kingma & Gao 2023; Hoogeboom et al. 2024)."""
    return lambda sde, t: jax.nn.sigmoid(bias - sde.log_snr(t)) * likelihood()(sde, t)


def edm(mean: float = -1.2, std: float = 1.2, sigma_data: float = 0.5) -> Weighting:
    """1 on the error of EDM's network where ln(sigma) ~ N(mean, std^2): together with
    `time_law.log_normal` of the same numbers this is the loss of Karras et al. 2022 (eq. 8)."""
    law = time_law.log_normal(mean, std)

    def weight(sde, t):
        alpha2, sigma2 = sde.alpha(t) ** 2, sde.sigma(t) ** 2
        return law.density(sde, t) * (alpha2 + sigma2 / sigma_data**2) / _power(sde, t) ** 2

    return weight


def flow() -> Weighting:
    """1 on the error of the velocity z - x_0 of rectified flow (Lipman et al. 2022)."""
    return lambda sde, t: ((sde.alpha(t) + sde.sigma(t)) / _power(sde, t)) ** 2


def sd3(mean: float = 0.0, std: float = 1.0) -> Weighting:
    """1 on the error of the velocity z - x_0 where t is logit-normal: together with
    `time_law.logit_normal` of the same numbers this is the loss of Esser et al. 2024."""
    law = time_law.logit_normal(mean, std)
    return lambda sde, t: law.density(sde, t) * flow()(sde, t)


def network_weight(
    weighting: Weighting, parametrization: Parametrization, sde: SDE, t: Time
) -> Time:
    """The weight of the squared error of the network's output F, derived from that of v.

    F predicts a x_0 + b z, so the errors are tied by
    |F - F^| = |a sigma - b alpha| / (alpha^2 + sigma^2) |v - v^|.
    """
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    a, b = parametrization.target(alpha, sigma)
    return weighting(sde, t) / ((a * sigma - b * alpha) / _power(sde, t)) ** 2


def denoiser_weight(weighting: Weighting, sde: SDE, t: Time) -> Time:
    """The weight of the squared error of D = E[x_0 | x_t]."""
    return weighting(sde, t) * (_power(sde, t) / sde.sigma(t)) ** 2


def _power(sde: SDE, t: Time) -> Time:
    """alpha^2 + sigma^2."""
    return sde.alpha(t) ** 2 + sde.sigma(t) ** 2
