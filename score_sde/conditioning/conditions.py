"""What is done with conditions whatever they are made of: dropped, and put side by side."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from score_sde.types import Cond, Key, expand


def drop(key: Key, cond: Cond, nothing: Cond, rate: float) -> Cond:
    """Each example loses its condition with probability `rate`, and has `nothing` in its place."""
    size = len(next(iter(cond.values())))
    lost = jax.random.bernoulli(key, rate, (size,))
    return {name: jnp.where(expand(lost, cond[name]), nothing[name], cond[name]) for name in cond}


def interleave(*conds: Cond) -> Cond:
    """One batch of several of equal parts and sizes: those of the first example, then those of the
    second, and so on, so that what belongs together lies on one device."""
    return {
        name: jnp.stack([cond[name] for cond in conds], axis=1).reshape(-1, *value.shape[1:])
        for name, value in conds[0].items()
    }
