"""The evidence lower bound of tokens, in nats."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from score_sde.processes import MASK, Discrete
from score_sde.processes.rates import rate_entropy
from score_sde.types import Denoiser, Keys, each_with, keys_of, uniform


def elbo(
    key: Keys,
    process: Discrete,
    denoiser: Denoiser,
    x: Int[Array, "b l"],
    *,
    draws: int = 1,
    importance: bool = False,
) -> Float[Array, " b"]:
    """An unbiased estimate of a lower bound of ln p(x), nats, of tokens x at t = 0.

    Of masks: a draw is one path. It hides the tokens in a random order, and gives the sum over
    tokens of ln D at the moment at which each is revealed. Its mean is

        - int dt (-alpha')/(1 - alpha) E sum_(masked i) -ln D_i(x_i)

    (Sahoo et al. 2024, arXiv:2406.07524, eq. 10; by orders, Ou et al. 2024, arXiv:2406.03736). With
    the exact D every single path gives ln p(x).

    Of other processes: a draw is as many times as there are tokens, one in each equal part of
    [t_min, t_max], and the relative entropy of the rates there (`rate_entropy`); with the exact D
    its mean is ln p(x).

    key: one, or a typed one for each example.
    draws: each costs as many `evaluations` as x has tokens.
    importance: ln of the mean of the paths' probabilities in the place of the mean of their
        logarithms, a tighter bound (Burda et al. 2015, arXiv:1509.00519); of masks alone.

    Raises:
      ValueError: draws is less than 1, or importance with a process without masks.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, not {draws}")
    if importance and not process.absorbing:
        raise ValueError(f"importance is for paths of masks, which {process} has not")
    draw = _of_path if process.absorbing else _of_times

    def one(keys):
        return draw(keys, process, denoiser, x)

    keys = jax.vmap(lambda key: jax.random.split(key, draws), out_axes=1)(keys_of(key, len(x)))
    found = jax.lax.map(one, keys)
    if importance:
        return jax.nn.logsumexp(found, axis=0) - jnp.log(draws)
    return jnp.mean(found, axis=0)


def evaluations(process: Discrete, length: int, draws: int) -> int:
    """How often `elbo` calls the denoiser for each example: once a token, and once more at the last
    time where there are no masks."""
    return draws * (length + (not process.absorbing))


def _of_path(keys: Keys, process: Discrete, denoiser: Denoiser, x: Array) -> Array:
    """sum_i ln D_i(x_i) on one path: token i is a mask while the noise is above levels[:, i]."""
    dtype = _real()
    levels = uniform(keys, x.shape, dtype)
    ends = jnp.asarray([process.t_min, process.t_max], dtype)
    least, most = process.noise(ends)
    levels = jnp.maximum(levels, least)  # what is a mask at t_min is revealed there

    def revealed(i):
        level = levels[:, i]
        x_t = jnp.where(levels <= level[:, None], jnp.asarray(MASK, x.dtype), x)
        x_0 = denoiser(x_t, process.t_of_noise(level))
        log_prob = jnp.log(_of_value(x_0, x)[:, i])
        return jnp.where(level < most, log_prob, -jnp.inf)  # the prior is masks

    return jnp.sum(jax.lax.map(revealed, jnp.arange(x.shape[1])), axis=0)


def _of_times(keys: Keys, process: Discrete, denoiser: Denoiser, x: Array) -> Array:
    """Minus the relative entropy of the rates, at stratified times; and of the ends."""
    dtype, cells = _real(), x.shape[1]
    width = (process.t_max - process.t_min) / cells
    ends = jnp.asarray([process.t_min, process.t_max], dtype)

    def at(inputs):
        i, keys = inputs
        key_time, key_noise = each_with(keys, jax.random.split, 2)
        u = uniform(key_time, x.shape[:1], dtype)
        t = process.t_min + width * (i.astype(dtype) + u)
        x_t = process.perturb(key_noise, x, t)
        return width * jnp.sum(rate_entropy(process, x, x_t, t, denoiser(x_t, t)), axis=1)

    key_times, key_end = each_with(keys, jax.random.split, 2)
    inputs = jnp.arange(cells), each_with(key_times, jax.random.split, cells)
    inside = jnp.sum(jax.lax.map(at, inputs), axis=0)
    x_t = process.perturb(key_end, x, ends[0])
    first = jnp.sum(jnp.log(_of_value(denoiser(x_t, ends[0]), x)), axis=1)
    return first - inside - x.shape[1] * process.prior_entropy(dtype)


def _of_value(x_0: Float[Array, "b l v"], x: Int[Array, "b l"]) -> Float[Array, "b l"]:
    return jnp.take_along_axis(x_0, x[..., None].astype(jnp.int32), axis=-1)[..., 0]


def _real():
    """float64 where x64 is on, else float32."""
    return jnp.zeros((), float).dtype
