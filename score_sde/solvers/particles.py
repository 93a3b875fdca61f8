"""Particles with weights: p of them in each of o groups, those of a group neighbours in a batch."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from score_sde.types import Keys, uniform


def effective_size(log_weights: Float[Array, "o p"]) -> Float[Array, " o"]:
    """1/sum w^2 of the normed weights: how many particles count."""
    return 1 / jnp.sum(jax.nn.softmax(log_weights, axis=1) ** 2, axis=1)


def systematic(key: Keys, log_weights: Float[Array, "o p"]) -> Int[Array, "o p"]:
    """For each group the places of p particles, in which a particle of normed weight w
    appears p w times, rounded up or down.

    The places are where the p teeth of a comb, with one random offset, fall among the cumulative
    weights. With a key for each group, the places of a group depend on its own key alone.
    """
    groups, p = log_weights.shape
    sums = jnp.cumsum(jax.nn.softmax(log_weights, axis=1), axis=1)
    offset = uniform(key, (groups, 1), sums.dtype)
    comb = (jnp.arange(p, dtype=sums.dtype)[None] + offset) / p
    # sums may end a rounding below 1, and the last tooth must not fall beyond
    return jax.vmap(jnp.searchsorted)(sums / sums[:, -1:], comb).astype(jnp.int32)


def take(places: Int[Array, "o p"], a: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
    """The entries of a [o * p, ...] at places that are counted within each group."""
    groups, p = places.shape
    return a[(places + p * jnp.arange(groups, dtype=places.dtype)[:, None]).reshape(-1)]


def fair(key: Keys, places: Int[Array, "o p"]) -> Int[Array, "o p"]:
    """The same places, turned round by a random number of them. Each place by itself is then a draw
    by the weights. The first of `systematic` is not: it comes from the first of the sums."""
    groups, p = places.shape
    turn = uniform(key, (groups, 1), jnp.float32) * p
    order = jnp.arange(p, dtype=jnp.int32)[None] + jnp.minimum(turn.astype(jnp.int32), p - 1)
    return jnp.take_along_axis(places, order % p, axis=1)


def log_mean(log_weights: Float[Array, "o p"]) -> Float[Array, " o"]:
    """ln of the mean weight of each group."""
    return jax.nn.logsumexp(log_weights, axis=1) - math.log(log_weights.shape[1])


def of_groups(key: Keys, p: int) -> Keys:
    """A key for each group, that of its first particle, where each particle has one."""
    each = jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.ndim
    return key[::p] if each else key
