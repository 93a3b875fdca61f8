"""Flow maps in closed form: where the probability-flow ODE of a known law leads.

- N(mu, C): in the eigenbasis of C, with m = alpha^2 l + sigma^2 the variance of x_t there,
  `x_s = alpha_s mu + sqrt(m_s/m_t) (x_t - alpha_t mu)`.
- Any law in one dimension: the ODE keeps the order of points, so `F_s(x_s) = F_t(x_t)` with F the
  distribution function of x_t.
- Two Gaussians under classifier-free guidance: the ODE is linear (`guided_pair`).

Each is a `FlowMap`, and `processes.flow` turns it into x_s.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float

from score_sde.processes.gaussian import SDE, Time
from score_sde.processes.jumps import jump_value
from score_sde.types import Denoiser, FlowMap

_NEAR = 1e-5  # in log-SNR: where a jump is so short that its D follows from the denoiser alone
_HALVINGS = 70  # of an interval, to below float64's rounding
_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(64)


def gaussian(sde: SDE, mean: Float[Array, " d"], cov: Float[Array, "d d"]) -> FlowMap:
    """The flow map of N(mean, cov):

        D = mu + l (alpha_s + r alpha_t) / (m_t (r + sqrt(m_s/m_t))) (x_t - alpha_t mu)

    along each eigenvector, r = sigma_s/sigma_t. No digits are lost at s = t.
    """
    eigenvalues, basis = jnp.linalg.eigh(cov)

    def one(x, t, s):
        (a_t, b_t), (a_s, b_s) = ((sde.alpha(u), sde.sigma(u)) for u in (t, s))
        m_t, m_s = a_t**2 * eigenvalues + b_t**2, a_s**2 * eigenvalues + b_s**2
        r = b_s / b_t
        gain = eigenvalues * (a_s + r * a_t) / (m_t * (r + jnp.sqrt(m_s / m_t)))
        return mean + basis @ (gain * (basis.T @ (x - a_t * mean)))

    return _of_examples(one)


def in_one_dimension(
    sde: SDE,
    weights: Float[Array, " k"],
    means: Float[Array, "k d"],
    covs: Float[Array, "k d d"],
    denoiser: Denoiser,
) -> FlowMap:
    """The flow map of a mixture of Gaussians of numbers, whose denoiser this is.

    F_s is inverted by halving an interval: the flow of each component alone gives its ends. First
    derivatives are exact, those of higher order are not.

    Raises:
      ValueError: d is not 1.
    """
    if means.shape[1] != 1:
        raise ValueError(f"the flow map of a mixture is known in 1 dimension, not {means.shape[1]}")
    means, variances = means[:, 0], covs[:, 0, 0]

    def components(t):
        return sde.alpha(t) * means, jnp.sqrt(sde.alpha(t) ** 2 * variances + sde.sigma(t) ** 2)

    def log_tail(x, t, sign):
        """ln F_t(x) for sign 1, ln(1 - F_t(x)) for sign -1."""
        mean, std = components(t)
        return jax.nn.logsumexp(jnp.log(weights) + log_ndtr(sign * (x - mean) / std))

    def one(x, t, s):
        (mean_t, std_t), (mean_s, std_s) = components(t), components(s)
        sign = jnp.where(log_tail(x, t, 1.0) < math.log(0.5), 1.0, -1.0).astype(x.dtype)

        def excess(y, x, t, s):  # rises with y
            return sign * (log_tail(y, s, sign) - log_tail(x, t, sign))

        def halve(_, ends):
            low, high = ends
            middle = (low + high) / 2
            below = excess(middle, x, t, s) < 0
            return jnp.where(below, middle, low), jnp.where(below, high, middle)

        of_components = mean_s + std_s / std_t * (x - mean_t)
        ends = lax.stop_gradient((jnp.min(of_components), jnp.max(of_components)))
        near = lax.stop_gradient(sum(lax.fori_loop(0, _HALVINGS, halve, ends)) / 2)
        slope = lax.stop_gradient(jax.grad(excess)(near, x, t, s))
        return near - excess(near, x, t, s) / slope  # Newton's step, which has the derivatives

    def of_numbers(x, t, s):
        return _of_examples(lambda x, t, s: one(x[0], t, s)[None])(x, t, s)

    return _from_flow(sde, denoiser, of_numbers)


def guided_pair(
    sde: SDE,
    means: tuple[float | Array, float | Array],
    variances: tuple[float, float],
    weight: float,
    denoiser: Denoiser,
) -> FlowMap:
    """The flow map of classifier-free guidance, D_0 + w (D_1 - D_0), the denoisers those of
    N(mean_i, variance_i I), i = 0 without and 1 with the condition.

    In y = x/alpha and rho = sigma/alpha the ODE is `dy/drho = rho sum_i w_i (y - mean_i)/v_i` with
    v_i = variance_i + rho^2, w_0 = 1 - w, w_1 = w. With `Phi = prod_i v_i^(w_i/2)`

        y_s/Phi_s = y_t/Phi_t + int_{rho_s}^{rho_t} rho sum_i (w_i mean_i/v_i) / Phi drho

    by Gauss-Legendre quadrature in ln rho.

    denoiser: the guided one.
    """
    shares = (1 - weight, weight)

    def phi(rho):
        logs = (
            share / 2 * jnp.log(variance + rho**2)
            for share, variance in zip(shares, variances, strict=True)
        )
        return jnp.exp(sum(logs))

    def pull(rho):
        parts = zip(shares, means, variances, strict=True)
        return rho * sum(w * mean / (variance + rho**2) for w, mean, variance in parts) / phi(rho)

    def one(x, t, s):
        low, high = (-sde.log_snr(u) / 2 for u in (s, t))  # ln rho
        logs = low + (high - low) * (jnp.asarray(_POINTS, x.dtype) + 1) / 2
        values = jax.vmap(lambda log: pull(jnp.exp(log)) * jnp.exp(log) * jnp.ones_like(x))(logs)
        weights = jnp.asarray(_WEIGHTS, x.dtype) * (high - low) / 2
        start = x / (sde.alpha(t) * phi(jnp.exp(high)))
        return sde.alpha(s) * phi(jnp.exp(low)) * (start + weights @ values)

    return _from_flow(sde, denoiser, _of_examples(one))


def _from_flow(sde: SDE, denoiser: Denoiser, flow: Callable[[Array, Time, Time], Array]) -> FlowMap:
    """The FlowMap of `(x_t, t, s) -> x_s`. A very short jump has the D of the middle of it, by the
    denoiser's derivative along the flow: the digits of x_s would not do."""

    def flow_map(x_t, t, s=None):
        if s is None:
            return denoiser(x_t, t)
        t, s = (jnp.broadcast_to(u, x_t.shape[:1]) for u in (t, s))
        near = jnp.abs(sde.log_snr(s) - sde.log_snr(t)) < _NEAR
        away = jnp.where(near, jnp.where(t > sde.t_min, sde.t_min, sde.t_max), s)
        far = jump_value(sde, x_t, t, away, flow(x_t, t, away))

        direction = sde.velocity(x_t, t, denoiser(x_t, t))
        here, change = jax.jvp(denoiser, (x_t, t), (direction, jnp.ones_like(t)))
        middle = here + jnp.where(near, s - t, 0)[:, None] / 2 * change
        return jnp.where(near[:, None], middle, far)

    return flow_map


def _of_examples(one: Callable[[Array, Array, Array], Array]) -> FlowMap:
    """Of x [b, d], from `(x [d], t [], s []) -> D [d]`."""

    @jax.default_matmul_precision("highest")
    def flow_map(x_t, t, s=None):
        t, s = (
            jnp.broadcast_to(jnp.asarray(u, x_t.dtype), x_t.shape[:1])
            for u in (t, t if s is None else s)
        )
        return jax.vmap(one)(x_t, t, s)

    return flow_map
