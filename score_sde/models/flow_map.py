"""Flow maps in the words of the papers: what is predicted, and how it is turned into D and back.

With y = x/(alpha + sigma) and tau = sigma/(alpha + sigma) a step of DDIM is a straight line,

    y_s = y_t - (tau_t - tau_s) U,    U = E - D,    E = (x_t - alpha D)/sigma

on every Gaussian process. On the rectified flow y = x and tau = t, and U is the mean velocity of
Geng et al. 2025 (arXiv:2505.13447, eq. 3). All functions here are of one FlowMap D(x_t, t, s).
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array

from score_sde.models.model import Model
from score_sde.processes import SDE, Time, flow, jump_value
from score_sde.types import Cond, FlowMap, Key, PyTree, expand

OfTwoTimes = Callable[..., Array]
"""`(x_t [b, ...], t, s) -> [b, ...]`, times [] or [b]."""


def tau(sde: SDE, t: Time) -> Time:
    """sigma/(alpha + sigma), the time of the rectified flow with the same noise."""
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    return sigma / (alpha + sigma)


def t_of_tau(sde: SDE, tau: Time) -> Time:
    """The inverse of `tau`."""
    return sde.t_of_log_snr(2 * (jnp.log1p(-tau) - jnp.log(tau)))


def slope(
    model: Model, params: PyTree, cond: Cond | None = None, key: Key | None = None
) -> OfTwoTimes:
    """U of a network, with no digits lost where sigma is small; with a key, dropout is on.

    The network's output is F = a D + b E, the numbers a and b those of its parametrization, so
    `U = ((a + b) x_t - (alpha + sigma) F) / (a sigma - b alpha)`.
    """

    def of_network(x_t, t, *s):
        alpha, sigma = model.sde.alpha(t), model.sde.sigma(t)
        a, b = model.parametrization.target(alpha, sigma)
        scale = a * sigma - b * alpha
        output = model.network(params, x_t, t, cond, key, *s)[..., : x_t.shape[-1]]
        of_x, of_output = (a + b) / scale, (alpha + sigma) / scale
        return expand(of_x, x_t) * x_t - expand(of_output, x_t) * output

    return of_network


def mean_velocity(sde: SDE, flow_map: FlowMap) -> OfTwoTimes:
    """(x_t - x_s)/(t - s), the mean of dx/dt over the flow from t to s, for s not t."""
    end = flow(sde, flow_map)
    return lambda x_t, t, s: (x_t - end(x_t, t, s)) / expand(jnp.asarray(t - s), x_t)


def of_mean_velocity(sde: SDE, velocity: OfTwoTimes) -> FlowMap:
    """The FlowMap of a mean velocity, for s not t."""

    def value(x_t, t, s):
        x_s = x_t - expand(jnp.asarray(t - s), x_t) * velocity(x_t, t, s)
        return jump_value(sde, x_t, t, s, x_s)

    return value


def consistency(sde: SDE, flow_map: FlowMap) -> Callable[[Array, Time], Array]:
    """`(x_t, t) -> x` at t_min: the consistency function (Song et al. 2023, arXiv:2303.01469)."""
    end = flow(sde, flow_map)
    return lambda x_t, t: end(x_t, t, jnp.full_like(t, sde.t_min))


def of_consistency(sde: SDE, function: Callable[[Array, Time], Array]) -> FlowMap:
    """The D of a consistency function's jump to t_min, whatever s, for t not t_min."""

    def value(x_t, t, s=None):
        return jump_value(sde, x_t, t, jnp.full_like(t, sde.t_min), function(x_t, t))

    return value


def trig_flow(sde: SDE, flow_map: FlowMap, sigma_data: float) -> OfTwoTimes:
    """F of TrigFlow (Lu & Song 2024, arXiv:2410.11081, eq. 6): with the angle phi, tan phi =
    sigma/(alpha sigma_data), and x = x_t sigma_data/sqrt(alpha^2 sigma_data^2 + sigma^2),

        D = cos(phi) x - sin(phi) sigma_data F

    so F is minus the output of a network of the parametrization `edm(sigma_data)`, on any process.
    """

    def value(x_t, t, s):
        alpha, sigma = sde.alpha(t) * sigma_data, sde.sigma(t)
        norm = jnp.hypot(alpha, sigma)
        cos, sin, scale = alpha / norm, sigma / norm, sigma_data / norm
        x = expand(scale, x_t) * x_t
        return (expand(cos, x) * x - flow_map(x_t, t, s)) / (expand(sin, x) * sigma_data)

    return value


def angle(sde: SDE, t: Time, sigma_data: float) -> Time:
    """phi of TrigFlow, tan phi = sigma/(alpha sigma_data): 0 for data, pi/2 for noise."""
    return jnp.arctan2(sde.sigma(t), sde.alpha(t) * sigma_data)


def trig_slope(
    model: Model,
    params: PyTree,
    sigma_data: float,
    cond: Cond | None = None,
    key: Key | None = None,
) -> OfTwoTimes:
    """F of TrigFlow (`trig_flow`) of a network, with no digits lost where sigma is small; with a
    key, dropout is on.

    The network's output is a D + b E, with D = cos x - sin sigma_data F and sigma_data E = sin x +
    cos sigma_data F. So F is minus the output itself for the parametrization `edm(sigma_data)`.
    """

    def of_network(x_t, t, *s):
        alpha, sigma = model.sde.alpha(t), model.sde.sigma(t)
        norm = jnp.hypot(alpha * sigma_data, sigma)
        cos, sin = alpha * sigma_data / norm, sigma / norm
        a, b = model.parametrization.target(alpha, sigma)
        scale = a * sin * sigma_data - b * cos
        output = model.network(params, x_t, t, cond, key, *s)[..., : x_t.shape[-1]]
        of_x = (a * cos * sigma_data + b * sin) / (norm * scale)
        return expand(of_x, x_t) * x_t - expand(1 / scale, x_t) * output

    return of_network
