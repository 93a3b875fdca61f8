"""The loss that no denoiser goes below, and how far above it one is.

For x_0 of a law whose posterior mean is D*, any denoiser D has

    E|x_0 - D|^2 = E|x_0 - D*|^2 + E|D - D*|^2,    E|x_0 - D*|^2 = E|x_0|^2 - E|D*|^2

(Xu et al. 2025, arXiv:2506.13763). The first term is the floor of the loss at that noise level, and
the second is what training can still gain. It is measured by itself, so it is 0 for D = D* and has
none of the spread of the loss. With the objective's law of t and weights the floor of the whole
loss is one number (`whole_floor`): the least that training on these data can reach.

D* of a finite training set (`exact.dequantized`, `exact.Dataset`) remembers every example. So the
floor is that of a network that memorises, which no network should reach. On other examples of the
same kind the loss of D* is far above that of a good network, and their own floor is not known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from score_sde.evaluation.diagnostics import mean_square
from score_sde.processes import SDE
from score_sde.training.objective import WeightedError
from score_sde.types import Denoiser, Key


class LossFloor(NamedTuple):
    """At n noise levels, log_snr, in the unit of the noise error |z - z^|^2, which is
    `(alpha/sigma)^2 |x_0 - D|^2`, a mean over dimensions: the floor, how far above it the denoiser
    is, and their standard errors. The loss is the sum of both."""

    log_snr: Float[Array, " n"]
    floor: Float[Array, " n"]
    floor_error: Float[Array, " n"]
    above: Float[Array, " n"]
    above_error: Float[Array, " n"]


def loss_floor(
    key: Key,
    sde: SDE,
    denoiser: Denoiser,
    truth: Denoiser,
    x: Float[Array, "b ..."],
    times: Float[Array, " n"],
    *,
    mask: Bool[Array, " b"] | None = None,
) -> LossFloor:
    """The floor, and the denoiser above it, from one draw of noise for each x and time.

    truth: D*, of the law that x is drawn from. mask: which x count.
    """
    mean = _mean_of(x, mask)

    def at_time(inputs):
        key, t = inputs
        floor, above = _two_squares(key, sde, denoiser, truth, x, t)
        snr = (sde.alpha(t) / sde.sigma(t)) ** 2
        return *mean(snr * floor), *mean(snr * above)

    times = times.astype(x.dtype)
    found = jax.lax.map(at_time, (jax.random.split(key, len(times)), times))
    return LossFloor(sde.log_snr(times), *found)


class WholeFloor(NamedTuple):
    """The floor of a whole loss, how far above it the denoiser is, and their standard errors, in
    the units of the loss, which is the sum of both."""

    floor: Float[Array, ""]
    floor_error: Float[Array, ""]
    above: Float[Array, ""]
    above_error: Float[Array, ""]


def whole_floor(
    key: Key,
    sde: SDE,
    denoiser: Denoiser,
    truth: Denoiser,
    x: Float[Array, "b ..."],
    loss: WeightedError,
    *,
    draws: int = 1,
    mask: Bool[Array, " b"] | None = None,
) -> WholeFloor:
    """The same of the whole loss, from `draws` draws of t and noise for each x:

        E_t [ weight(t) E|x_0 - D*|^2 ]   and   E_t [ weight(t) E|D - D*|^2 ]

    truth: D*, of the law that x is drawn from. loss: `Objective.weighted`. mask: which x count.
    """

    def one(key):
        key_time, key_noise = jax.random.split(key)
        t = loss.law.sample(key_time, sde, len(x), x.dtype)
        weight = loss.weight(x, t)
        return [weight * square for square in _two_squares(key_noise, sde, denoiser, truth, x, t)]

    mean = _mean_of(x, mask)
    floor, above = (jnp.mean(a, axis=0) for a in jax.lax.map(one, jax.random.split(key, draws)))
    return WholeFloor(*mean(floor), *mean(above))


def _two_squares(
    key: Key, sde: SDE, denoiser: Denoiser, truth: Denoiser, x: Array, t: Array
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """|x_0 - D*|^2 and |D - D*|^2, means over dimensions, with a draw of noise for each x."""
    x_t = sde.noised(x, jax.random.normal(key, x.shape, x.dtype), t)
    best = truth(x_t, t)
    return mean_square(x - best), mean_square(denoiser(x_t, t) - best)


def _mean_of(
    x: Array, mask: Bool[Array, " b"] | None
) -> Callable[[Float[Array, " b"]], tuple[Float[Array, ""], Float[Array, ""]]]:
    """The mean over the x that count, and its standard error."""
    mask = jnp.ones(len(x), bool) if mask is None else jnp.asarray(mask)
    count = jnp.sum(mask).astype(x.dtype)

    def mean(square):
        spread = jnp.std(square, ddof=1, where=mask) / jnp.sqrt(count)
        return jnp.mean(square, where=mask), spread

    return mean
