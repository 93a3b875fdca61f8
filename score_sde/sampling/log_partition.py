r"""ln Z of a law that is known up to that, between two bounds.

With gamma(x_0) = Z p(x_0), the steps p(x_s | x_t) of a sampler and the noising q(x_t | x_s),

    w = ln gamma(x_0) - ln p_T(x_T) + sum_i [ ln q(x_t | x_s) - ln p(x_s | x_t) ]

On paths of the sampler E[e^w] = Z, so E[w] <= ln Z; on noised samples of p, E[w] >= ln Z. Both hold
for any denoiser, whatever the steps, and both are ln Z where its paths are the noised samples. x_0
is here x at the last time of the grid, and gamma is taken as its density.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from score_sde.processes import SDE
from score_sde.solvers.kernels import Kernels, kernels
from score_sde.types import Denoiser, Grid, Key


class Weighted(NamedTuple):
    """x [b, ...] at the last time of the grid, and the log-weight w of its path, nats."""

    x: Float[Array, "b ..."]
    log_weight: Float[Array, " b"]


class WeightMean(NamedTuple):
    """A mean and its standard error."""

    value: float
    standard_error: float


def of_sampler(
    key: Key,
    sde: SDE,
    denoiser: Denoiser,
    log_density: Callable[[Array], Array],
    times: Grid,
    shape: tuple[int, ...],
) -> Weighted:
    """Paths of `ddim(eta=1)`, shape [b, ...]: the mean of w is below ln Z (the ELBO), and the log
    of the mean of e^w estimates it."""
    key_start, key_path = jax.random.split(key)
    x = sde.prior_sample(key_start, shape, times.dtype)
    steps = kernels(sde, times)

    def one(carry, inputs):
        x, w = carry
        key, step = inputs
        z = jax.random.normal(key, x.shape, x.dtype)
        after = step.linear * x + step.weight * denoiser(x, step.start) + step.noise * z
        return (after, w + _log_ratio(sde, step, x, after, z)), None

    keys = jax.random.split(key_path, len(times) - 1)
    (end, w), _ = lax.scan(one, (x, -sde.prior_log_prob(x)), (keys, steps))
    return Weighted(end, w + log_density(end))


def of_samples(
    key: Key,
    sde: SDE,
    denoiser: Denoiser,
    log_density: Callable[[Array], Array],
    times: Grid,
    x: Float[Array, "b ..."],
) -> Weighted:
    """Noised samples x of the law: the mean of w is above ln Z (the EUBO)."""
    steps = kernels(sde, times)

    def one(carry, inputs):
        x, w = carry
        key, step = inputs
        std = _noising_std(sde, step)
        factor = sde.alpha(step.start) / sde.alpha(step.end)
        before = factor * x + std * jax.random.normal(key, x.shape, x.dtype)
        mean = step.linear * before + step.weight * denoiser(before, step.start)
        return (before, w + _log_ratio(sde, step, before, x, (x - mean) / step.noise)), None

    keys = jax.random.split(key, len(times) - 1)
    start = x, log_density(x)
    (x_end, w), _ = lax.scan(one, start, (keys, steps), reverse=True)
    return Weighted(x, w - sde.prior_log_prob(x_end))


def mean(log_weight: Float[Array | np.ndarray, " b"]) -> WeightMean:
    """Of w: a bound."""
    w = np.asarray(log_weight, float)
    return WeightMean(float(w.mean()), float(w.std(ddof=1) / np.sqrt(len(w))))


def log_mean(log_weight: Float[Array | np.ndarray, " b"]) -> WeightMean:
    """ln of the mean of e^w, of paths of the sampler; the error is that of the mean, relative to
    it, and holds where the weights vary little."""
    w = np.asarray(log_weight, float)
    share = np.exp(w - w.max())
    error = share.std(ddof=1) / np.sqrt(len(w)) / share.mean()
    return WeightMean(float(w.max() + np.log(share.mean())), float(error))


def _log_ratio(sde: SDE, step: Kernels, before: Array, after: Array, z: Array) -> Array:
    """ln q(before | after) - ln p(after | before), where z is the noise of the step."""
    std = _noising_std(sde, step)
    factor = sde.alpha(step.start) / sde.alpha(step.end)
    forward = ((before - factor * after) / std).reshape(len(z), -1)
    squares = jnp.sum(z.reshape(len(z), -1) ** 2 - forward**2, axis=1) / 2
    return squares + forward.shape[1] * jnp.log(step.noise / std)


def _noising_std(sde: SDE, step: Kernels) -> Array:
    """G of x_t = (alpha_t/alpha_s) x_s + G z."""
    change = sde.log_snr(step.start) - sde.log_snr(step.end)
    return sde.sigma(step.start) * jnp.sqrt(-jnp.expm1(change))
