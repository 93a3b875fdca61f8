"""What training cares about: the weight of the noise error `|z - z^|^2` at time t.

One canonical form. A weighting is the factor of the noise error under UNIFORM t,
`L = 1/2 E_{t ~ U} [ weight(t) |z - z^|^2 ]`; the objective divides by the density of the law that
t is really drawn from, and derives the weight of the error in any other prediction space from the
parametrization. In terms of the log-SNR Lambda, `L = 1/2 int w(Lambda) |z - z^|^2 dLambda` with
`weight = w(Lambda) (-dLambda/dt) (t_max - t_min)` (Kingma & Gao 2023, arXiv:2303.00848).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from score_sde import time_law
from score_sde.parametrization import Parametrization
from score_sde.sde import SDE, Time, derivative

__all__ = [
    "edm",
    "flow",
    "likelihood",
    "min_snr",
    "p2",
    "sd3",
    "sigmoid",
    "simple",
]  # what a config can name

Weighting = Callable[[SDE, Time], Time]
"""`(sde, t) -> weight` of the noise error under uniform t."""


def simple() -> Weighting:
    """1: the plain noise error (Ho et al. 2020, eq. 14)."""
    return lambda sde, t: jnp.ones_like(t)


def likelihood() -> Weighting:
    """w = 1, that is -dLambda/dt = g^2/sigma^2: the loss bounds the negative log-likelihood
    (Song et al. 2021b, arXiv:2101.09258, eq. 7)."""
    return lambda sde, t: -derivative(sde.log_snr, t) * (sde.t_max - sde.t_min)


def min_snr(gamma: float = 5.0) -> Weighting:
    """min(SNR, gamma) on the data error (Hang et al. 2023, arXiv:2303.09556)."""
    return lambda sde, t: jnp.minimum(1.0, gamma * jnp.exp(-sde.log_snr(t)))


def p2(k: float = 1.0, gamma: float = 1.0) -> Weighting:
    """(k + SNR)^-gamma (Choi et al. 2022, arXiv:2204.00227)."""
    return lambda sde, t: (k + jnp.exp(sde.log_snr(t))) ** -gamma


def sigmoid(bias: float = 2.0) -> Weighting:
    """w(Lambda) = sigmoid(bias - Lambda) (Kingma & Gao 2023; Hoogeboom et al. 2024)."""
    return lambda sde, t: jax.nn.sigmoid(bias - sde.log_snr(t)) * likelihood()(sde, t)


def edm(mean: float = -1.2, std: float = 1.2, sigma_data: float = 0.5) -> Weighting:
    """Unit weight on the EDM network's error where ln(sigma) ~ N(mean, std^2): together with
    `time_law.log_normal` of the same numbers this is the loss of Karras et al. 2022 (eq. 8)."""
    law = time_law.log_normal(mean, std)
    return lambda sde, t: law.density(sde, t) * (1 + jnp.exp(-sde.log_snr(t)) / sigma_data**2)


def flow() -> Weighting:
    """Unit weight on the velocity error of rectified flow (Lipman et al. 2022)."""
    return lambda sde, t: (1 + jnp.exp(-sde.log_snr(t) / 2)) ** 2


def sd3(mean: float = 0.0, std: float = 1.0) -> Weighting:
    """Unit weight on the velocity error where t is logit-normal: together with
    `time_law.logit_normal` of the same numbers this is the loss of Esser et al. 2024."""
    law = time_law.logit_normal(mean, std)
    return lambda sde, t: law.density(sde, t) * flow()(sde, t)


def network_weight(
    weighting: Weighting, parametrization: Parametrization, sde: SDE, t: Time
) -> Time:
    """The weight of the squared error of the network's output F, derived from the noise error's.

    With D = c_skip x + c_out F, the errors are tied by |z - z^| = (alpha/sigma) |c_out| |F - F^|.
    """
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    _, c_out, _ = parametrization.scales(alpha, sigma)
    return weighting(sde, t) * (alpha * c_out / sigma) ** 2
