"""Pairs of denoisers of one process, which guidance combines."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array

from score_sde.conditioning.conditions import interleave
from score_sde.types import Cond, Denoiser

OfCond = Callable[[Cond], Denoiser]
"""The denoiser of a condition."""

Pair = Callable[..., tuple[Array, ...]]
"""`(x_t [b, ...], t [] or [b]) -> (D_pos, D_neg)`. Of flow maps it takes both times, `(x_t, t, s)`,
and so does what is made of it: their jumps are combined, each at the weight of t."""


def in_one_batch(of_cond: OfCond, *conds: Cond) -> Callable[..., tuple[Array, ...]]:
    """One denoiser under several conditions of the same parts, by one call of so many times the
    batch; of two it is a pair."""
    denoiser, n = of_cond(interleave(*conds)), len(conds)

    def each(x_t, *times):
        repeated = jnp.repeat(x_t, n, axis=0)  # in the order of `interleave`
        all_of = denoiser(repeated, *(jnp.repeat(t, n, 0) if t.ndim else t for t in times))
        return tuple(jnp.moveaxis(all_of.reshape(-1, n, *all_of.shape[1:]), 1, 0))

    return each


def of_two(denoiser: Denoiser, other: Denoiser) -> Pair:
    """Two denoisers of one process, such as a network and a smaller or less trained one (Karras et
    al. 2024, arXiv:2406.02507)."""
    return lambda x_t, *times: (denoiser(x_t, *times), other(x_t, *times))
