"""A solver whose samples have weights, for laws that no process has as its marginals.

The letters of the equations are those of `score_sde.solvers`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from score_sde.processes import SDE, Tilt, Tilted, finite_log_snr
from score_sde.solvers.particles import (
    effective_size,
    fair,
    log_mean,
    of_groups,
    systematic,
    take,
)
from score_sde.types import Noise, Solver

__all__ = ["feynman_kac"]


class Weighted(NamedTuple):
    """The state, with p particles for each of o samples.

    done, left: steps. log_weights: since the particles were last dealt anew. log_z: the estimate of
    ln Z without those, so that `log_z` adds them. line: the sum of all log-weights along the line
    of a particle, whether it was dealt anew or not. nfe: evaluations of a particle.
    """

    done: Int[Array, ""]
    left: Int[Array, ""]
    log_weights: Float[Array, "o p"]
    log_z: Float[Array, " o"]
    line: Float[Array, "o p"]
    nfe: Int[Array, ""]


class _Kernel(NamedTuple):
    """A step whose D_i are held: its log-weight [b], and the normal law N(mean, std^2) of x_s. The
    gradient of V moves the mean by `gain` of it."""

    log_weight: Array
    mean: Array
    gain: Array
    std: Array


def feynman_kac(
    sde: SDE,
    particles: int = 8,
    threshold: float = 0.5,
    pull: float = 1.0,
    data_std: float = 0.0,
    deal: bool = True,
) -> Solver:
    """Draws from `e^V prod_i p_i^beta_i / Z`, which the guidance names, by particles with weights
    (Skreta et al. 2025, "Feynman-Kac correctors", arXiv:2503.02819; Singhal et al. 2025, "FK
    steering", arXiv:2501.06848; Wu et al. 2023, arXiv:2306.17775).

    x [o p, ...] holds p particles for each of o samples; those of a sample are neighbours. With
    each D_i held over the step from t to s, p_i,s(x_s)/p_i,t(x_t) is a ratio of normal densities
    about alpha D_i, so the best proposal and its weight have closed forms (`_kernel`). Where the
    powers sum to 1 it is ancestral sampling with D = sum_i beta_i D_i, and, with V,

        ln w = -(SNR_s - SNR_t)/2 sum_i beta_i |D_i - D|^2 + V(x_s, s) - V(x_t, t) + ln(q_0/q)

    q_0 the proposal, q the one that is moved by the gradient of V. For the powers w, 1 - w the sum
    is -w (w - 1) |D_1 - D_0|^2. In the limit of many steps ln w is that of Skreta et al.,
    `g^2/2 (|S|^2 - sum_i beta_i |s_i|^2) + (B - 1) div f` in reverse time, S = sum_i beta_i s_i.

    V telescopes, so that what V is before the end changes the variance of the weights alone. At the
    end it is V(x, t_min), of which the evaluation is one more. Weights are kept as logarithms, and
    nothing is clamped. `log_z(state)` estimates ln Z; e^ of it has the mean Z, but for the steps.

    particles: p. threshold: particles are dealt anew, systematically, where their effective number
        is below this share of p. pull: how much of the gradient of V the proposal follows; 0 takes
        no gradient. data_std: each p_i is taken for N(m, data_std^2 I), m following from x_t and
        D_i: 0 for data at points, the variance "small" of `ancestral`; for such data every step is
        exact. deal: at the end the particles are dealt anew, so that each has the weight 1;
        if not, `log_weights` of the state are theirs.

    Weak order 1, one evaluation of each particle a step. x begins at the prior, whatever B is.

    Raises:
      ValueError: there are no particles, threshold is no share, the noise at t_min is 0, or, at the
        start, the batch is no multiple of the particles.
    """
    if particles < 1:
        raise ValueError(f"particles must be at least 1, not {particles}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is a share of the particles, from 0 to 1, not {threshold}")
    finite_log_snr(sde, sde.t_min, "feynman_kac", "raise sampling.t_min above 0")

    def init(x, times):
        if len(x) % particles:
            raise ValueError(f"{len(x)} is no multiple of {particles} particles: start with one")
        zeros = jnp.zeros((len(x) // particles, particles), x.dtype)
        none = jnp.int32(0)
        return Weighted(none, jnp.int32(len(times) - 1), zeros, zeros[:, 0], zeros, none)

    step = _step(sde, particles, threshold, pull, data_std, deal)
    return Solver(init, step, lambda state: state.nfe, asks="tilt", particles=particles)


def log_z(state: Weighted) -> Float[Array, " o"]:
    """The estimate of ln Z by the particles of each sample, nats."""
    return state.log_z + log_mean(state.log_weights)


def _step(sde: SDE, p: int, threshold: float, pull: float, data_std: float, deal: bool) -> Callable:
    def step(noise, denoiser, x, t, s, state):
        x, tilt, more = _start(sde, denoiser, x, t, s, state)
        kernel = _kernel(sde, tilt, x, t, s, data_std)
        value = jnp.zeros_like(more) if tilt.value is None else tilt.value
        state = _add(state, more + kernel.log_weight + value)
        arrays = (kernel.mean, _shift(tilt, kernel, pull), value)
        few = effective_size(state.log_weights) < threshold * p
        state, arrays = jax.lax.cond(
            jnp.any(few),
            lambda: _dealt(noise.fold(1).at(t, s), few, state, arrays),
            lambda: (state, arrays),
        )
        mean, shift, value = arrays
        z = noise(t, s, x.shape)
        x = mean + shift + kernel.std * z
        # ln q_0(x_s) - ln q(x_s): two normal densities, `shift` apart
        away = shift / kernel.std
        ratio = -jnp.sum((away * (z + away / 2)).reshape(len(x), -1), axis=1)
        state = _add(state, ratio - value)
        state = state._replace(done=state.done + 1, left=state.left - 1, nfe=state.nfe + 1)

        def end():
            found = state
            if tilt.value is not None:
                found = _add(state, denoiser(x, s, s).value)._replace(nfe=state.nfe + 1)
            if not deal:
                return x, found
            everyone = jnp.full(len(found.log_z), True)
            found, (last,) = _dealt(noise.fold(2).at(t, s), everyone, found, (x,), turned=True)
            return last, found

        return jax.lax.cond(state.left == 0, end, lambda: (x, state))

    return step


def _start(
    sde: SDE, denoiser: Tilted, x: Array, t: Array, s: Array, state: Weighted
) -> tuple[Array, Tilt, Array]:
    """x, the tilt there and, before the first step, ln of what prod_i p_i^beta_i is more than the
    density of x: the prior N(0, S^2) to the power B is N(0, S^2/B) but for a factor."""
    tilt, more = denoiser(x, t, s), jnp.zeros(len(x), x.dtype)
    if tilt.total == 1:
        return x, tilt, more
    if not tilt.total > 0:
        raise ValueError(f"the powers of a law must have a sum above 0, not {tilt.total}")
    # the sum is known before anything is computed, so the call above costs nothing
    first = state.done == 0
    x = jnp.where(first, x / math.sqrt(tilt.total), x)
    log_norm = (tilt.total - 1) * math.log(2 * math.pi * sde.prior_std**2) + math.log(tilt.total)
    more = more - jnp.where(first, x[0].size / 2 * log_norm, 0.0).astype(x.dtype)
    return x, denoiser(x, t, s), more


def _kernel(sde: SDE, tilt: Tilt, x: Array, t: Array, s: Array, data_std: float) -> _Kernel:
    """With N_i,t = N(alpha_t m_i, v_t I) for p_i,t, v_t = sigma_t^2 + (alpha_t data_std)^2, where
    D_i is the denoiser's value, and F(x_t | x_s) the forward kernel, the proposal is q_0 ~ F prod_i
    N_i,s^beta_i, and the weight is the integral of that over x_s, over prod_i N_i,t^beta_i at x_t.
    With h = 1 - (alpha_t/alpha_s)^2 v_s/v_t and m = sum_i beta_i m_i/B,

        precision of q_0 = ((1 - h)/h + B)/v_s
        ln w = -h alpha_s^2/v_s sum_i beta_i |m_i - m|^2/2 + (B - 1) h |x_t - alpha_t m|^2/(2 q v_t)
               + d/2 ((B - 1) ln(v_t/v_s) - ln(1 + (B - 1) h)),   q = h + (1 - h)/B
    """
    total, d = tilt.total, x[0].size
    alpha_t, alpha_s, variance = sde.alpha(t), sde.alpha(s), sde.sigma(t) ** 2
    v_t = variance + (alpha_t * data_std) ** 2
    v_s = sde.sigma(s) ** 2 + (alpha_s * data_std) ** 2
    h = -jnp.expm1(sde.log_snr(t) - sde.log_snr(s)) * variance / v_t
    m = tilt.mean + alpha_t * data_std**2 / variance * (alpha_t * tilt.mean - x)
    precision = (1 - h) / h + total  # times v_s
    mean = (alpha_t / alpha_s * v_s / v_t / h * x + total * alpha_s * m) / precision
    log_weight = jnp.zeros(len(x), x.dtype)
    if tilt.spread is not None:
        log_weight = -h * alpha_s**2 / v_s / 2 * (v_t / variance) ** 2 * tilt.spread
    if total != 1:
        square = jnp.sum(((x - alpha_t * m) ** 2).reshape(len(x), -1), axis=1)
        q = h + (1 - h) / total
        whole = (total - 1) * jnp.log(v_t / v_s) - jnp.log1p((total - 1) * h)
        log_weight += (total - 1) * h / (2 * q * v_t) * square + d / 2 * whole
    # V's gradient moves alpha_t m by v_t/B of it, so that the score is that of pi_t
    gain = jnp.where(alpha_t > 0, v_t * alpha_s / jnp.where(alpha_t > 0, alpha_t, 1), 0)
    return _Kernel(log_weight, mean, gain / precision, jnp.sqrt(v_s / precision))


def _shift(tilt: Tilt, kernel: _Kernel, pull: float) -> Array:
    """How far the gradient of V moves the proposal."""
    if tilt.gradient is None or (isinstance(pull, int | float) and pull == 0):
        return jnp.zeros_like(kernel.mean)
    return pull * kernel.gain * tilt.gradient


def _add(state: Weighted, more: Array) -> Weighted:
    more = more.reshape(state.line.shape)
    return state._replace(log_weights=state.log_weights + more, line=state.line + more)


def _dealt(
    noise: Noise, few: Array, state: Weighted, arrays: tuple[Array, ...], turned: bool = False
) -> tuple[Weighted, tuple[Array, ...]]:
    """The arrays [o p, ...] with the particles of the groups in which few count dealt anew."""
    groups, p = state.log_weights.shape
    key = of_groups(noise.key, p)
    places = systematic(key, state.log_weights)
    if turned:
        places = fair(of_groups(noise.fold(1).key, p), places)
    own = jnp.arange(p, dtype=jnp.int32)[None]
    places = jnp.where(few[:, None], places, own)
    state = state._replace(
        log_weights=jnp.where(few[:, None], 0, state.log_weights),
        log_z=state.log_z + jnp.where(few, log_mean(state.log_weights), 0),
        line=take(places, state.line.reshape(-1)).reshape(groups, p),
    )
    return state, tuple(take(places, a) for a in arrays)
