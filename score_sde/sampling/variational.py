r"""Bounds of the probability of x that is at levels, by the noising process and a decoder.

The model draws x_T from the prior, goes back by the denoiser D to t_0 = t_min, and there draws each
number of x from a softmax over its levels. Nothing is left out at the ends (Ho et al. 2020,
arXiv:2006.11239, sec. 3.3; Kingma et al. 2021, arXiv:2107.00630, eq. 11 to 15). With s the SNR
alpha^2/sigma^2:

    -ln P(x) <= KL(q(x_T | x) || prior)                          `prior_divergence`
                + 1/2 \int E|x - D(x_t)|^2 ds, from s_T to s_0   `diffusion`, `diffusion_of_steps`
                + E[-ln P(x | x_(t_0))]                          `reconstruction`

Noise is written by nu = (x_t - alpha x)/sigma, so that no digits are lost at a large SNR.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.processes import SDE
from score_sde.sampling.quadrature import FINE, Rule, over_log_snr, over_noise
from score_sde.types import Denoiser, Grid, Keys, Levels, each_with, normal, uniform


def ended(process: SDE, levels: Levels, tau: float | None) -> SDE:
    """The process from the time at which half a cell is tau standard deviations of the noise in
    x_t/alpha; the process as it is for None.

    Raises:
      ValueError: that time is not one of the process.
    """
    if tau is None:
        return process
    if not tau > 0:
        raise ValueError(f"tau must be above 0, not {tau}")
    with jax.ensure_compile_time_eval():
        t = float(process.t_of_log_snr(jnp.asarray(2 * math.log(2 * tau / levels.step))))
        most = tau_of(process, levels)
    if not process.t_min <= t < process.t_max:
        raise ValueError(f"tau={tau} is not on {process}: at its t_min, tau is {most:.3g}")
    return dataclasses.replace(process, t_min=t)


def tau_of(process: SDE, levels: Levels) -> float:
    """Half a cell in standard deviations of the noise of x_t/alpha at t_min."""
    with jax.ensure_compile_time_eval():
        return levels.step / 2 * math.exp(process.log_snr(jnp.asarray(process.t_min)) / 2)


def squared_error(
    process: SDE,
    denoiser: Denoiser,
    x: Float[Array, "b ..."],
    t: Float[Array, "*b"],
    nu: Float[Array, "b ..."],
) -> Float[Array, " b"]:
    """|x - D(x_t)|^2 where x_t has the noise nu."""
    return _sum((x - denoiser(process.noised(x, nu, t), t)) ** 2)


def prior_divergence(process: SDE, x: Float[Array, "b ..."]) -> Float[Array, " b"]:
    """KL(q(x_T | x) || N(0, prior_std^2 I)), nats."""
    t = jnp.asarray(process.t_max, x.dtype)
    alpha, sigma = process.alpha(t) / process.prior_std, process.sigma(t) / process.prior_std
    of_noise = sigma**2 - 1 - 2 * jnp.log(sigma)
    return alpha**2 * _sum(x**2) / 2 + x[0].size * of_noise / 2


def reconstruction(
    process: SDE, levels: Levels, x: Float[Array, "b ..."], nu: Float[Array, "b ..."]
) -> Float[Array, " b"]:
    """-ln P(x | x_(t_0)), nats, where x_(t_0) has the noise nu: for each number a softmax over the
    levels l of -(x_t - alpha l)^2/(2 sigma^2)."""
    t = jnp.asarray(process.t_min, x.dtype)
    rho = process.sigma(t) / process.alpha(t)

    def add(total, i):
        level = levels.first + levels.step * i.astype(x.dtype)
        away = (x - level) / rho  # 0 at the level of x, up to rounding
        return jnp.logaddexp(total, -away * (away / 2 + nu)), None

    start = jnp.full_like(x, -jnp.inf)
    return _sum(jax.lax.scan(add, start, jnp.arange(levels.number))[0])


def diffusion(
    key: Keys, process: SDE, denoiser: Denoiser, x: Float[Array, "b ..."], draws: int
) -> Float[Array, " b"]:
    """An unbiased estimate of `1/2 int E|x - D|^2 ds`, nats: one log-SNR in each of as many equal
    parts as there are draws, each an evaluation."""
    least, most = (process.log_snr(jnp.asarray(t, x.dtype)) for t in (process.t_max, process.t_min))

    def at(inputs):
        i, keys = inputs
        key_time, key_noise = each_with(keys, jax.random.split, 2)
        u = (i.astype(x.dtype) + uniform(key_time, x.shape[:1], x.dtype)) / draws
        log_snr = least + (most - least) * u
        nu = normal(key_noise, x.shape, x.dtype)
        error = squared_error(process, denoiser, x, process.t_of_log_snr(log_snr), nu)
        return jnp.exp(log_snr) * error / 2

    found = jax.lax.map(at, (jnp.arange(draws), each_with(key, jax.random.split, draws)))
    return (most - least) * jnp.mean(found, axis=0)


def diffusion_of_steps(
    key: Keys, process: SDE, denoiser: Denoiser, x: Float[Array, "b ..."], times: Grid
) -> Float[Array, " b"]:
    """An unbiased estimate of the term of a model that takes the steps of a grid, nats:
    `sum_i (s_(i+1) - s_i)/2 E|x - D(x_i)|^2`. It is larger than the integral of `diffusion` where
    the error falls with the SNR."""
    times = times.astype(x.dtype)

    def at(inputs):
        t, gain, keys = inputs
        nu = normal(keys, x.shape, x.dtype)
        return gain * squared_error(process, denoiser, x, t, nu) / 2

    gains = jnp.diff(jnp.exp(process.log_snr(times)))
    keys = each_with(key, jax.random.split, len(gains))
    return jnp.sum(jax.lax.map(at, (times[:-1], gains, keys)), axis=0)


def path_weight(
    key: Keys,
    process: SDE,
    levels: Levels,
    denoiser: Denoiser,
    x: Float[Array, "b ..."],
    times: Grid,
) -> Float[Array, " b"]:
    """ln of `p(x, path)/q(path | x)`, nats, of one path along the grid that is drawn from q.

    The mean of its exponential is P(x) of the model that takes the steps of the grid.
    """
    times = times.astype(x.dtype)
    log_snrs = process.log_snr(times)
    key_first, key_steps = each_with(key, jax.random.split, 2)
    nu = normal(key_first, x.shape, x.dtype)
    at_end = process.noised(x, nu, times[0])
    log_q = -_sum(nu**2) / 2 - x[0].size * (
        jnp.log(process.sigma(times[0])) + math.log(2 * math.pi) / 2
    )

    def step(carry, inputs):
        nu, log_weight = carry
        t, log_snr, log_snr_next, keys = inputs
        error = x - denoiser(process.noised(x, nu, t), t)
        keep = jnp.exp(log_snr - log_snr_next)  # of the variance
        n = normal(keys, x.shape, x.dtype)
        # p and q are normal laws of one variance, whose means are `apart` deviations from another
        apart = jnp.sqrt(-jnp.expm1(log_snr - log_snr_next)) * jnp.exp(log_snr_next / 2) * error
        nu = jnp.sqrt(keep) * nu + jnp.sqrt(1 - keep) * n
        return (nu, log_weight - _sum(apart * (apart / 2 + n))), None

    keys = each_with(key_steps, jax.random.split, len(times) - 1)
    first = process.prior_log_prob(at_end) - log_q
    inputs = times[:-1], log_snrs[:-1], log_snrs[1:], keys
    (nu, log_weight), _ = jax.lax.scan(step, (nu, first), inputs)
    return log_weight - reconstruction(process, levels, x, nu)


def by_quadrature(
    process: SDE,
    levels: Levels,
    denoiser: Denoiser,
    x: Float[Array, "b d"],
    rule: Rule = FINE,
) -> Float[Array, " b"]:
    """The bound in continuous time without chance, for x of one or two dimensions.

    Raises:
      ValueError: x has more dimensions.
    """

    def error(x, log_snr, nu):
        t = process.t_of_log_snr(log_snr)
        return jnp.exp(log_snr) * squared_error(process, denoiser, x, t, nu) / 2

    lost = over_noise(lambda x, nu: reconstruction(process, levels, x, nu), x, rule)
    return -prior_divergence(process, x) - over_log_snr(process, error, x, rule) - lost


def log_mean_exp(log_weights: Float[Array, "k b"]) -> Float[Array, " b"]:
    """ln of the mean of k weights. Its expectation is below ln of their expectation and rises with
    k (Burda et al. 2015, arXiv:1509.00519); without the -ln k it is no bound."""
    return jax.nn.logsumexp(log_weights, axis=0) - math.log(len(log_weights))


def _sum(a: Float[Array, "b ..."]) -> Float[Array, " b"]:
    return jnp.sum(a.reshape(len(a), -1), axis=1)
