"""Conditions of any kind: dropping them, and putting several into one batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from score_sde.types import Cond, Key, expand


def drop(key: Key, cond: Cond, nothing: Cond, rate: float) -> Cond:
    """Replaces the parts of `nothing` in the condition of an example with probability `rate`."""
    size = len(next(iter(cond.values())))
    return replace(jax.random.bernoulli(key, rate, (size,)), cond, nothing)


def replace(lost: Bool[Array, " b"], cond: Cond, nothing: Cond) -> Cond:
    """Replaces the parts of `nothing` in the conditions of these examples."""
    return cond | {
        name: jnp.where(expand(lost, cond[name]), part, cond[name])
        for name, part in nothing.items()
    }


def interleave(*conds: Cond) -> Cond:
    """Several conditions of the same parts and examples as one batch: all of the first example,
    then all of the second, and so on. So those of an example lie on one device."""
    return {
        name: jnp.stack([cond[name] for cond in conds], axis=1).reshape(-1, *value.shape[1:])
        for name, value in conds[0].items()
    }
