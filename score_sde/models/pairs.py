"""Pairs of denoisers of one process, which guidance combines."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.conditioning.conditions import interleave
from score_sde.models.guidance_weights import Weight, weight_at
from score_sde.models.projected import Change
from score_sde.types import Cond, Denoiser, expand

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


def guide(
    pair: Pair, weight: Weight, rescale: float = 0.0, change: Change | None = None
) -> Denoiser:
    """D_neg + w (D_pos - D_neg): of the pair (conditional, unconditional) classifier-free guidance
    (Ho & Salimans 2022, arXiv:2207.12598, eq. 6, whose w is this one less 1).

    rescale: phi of Lin et al. 2023 (arXiv:2305.08891, eq. 15-16): D is brought this far, from 0 to
        1, towards the standard deviation that D_pos has over the dimensions of an example.
    change: what takes the place of D_pos - D_neg (`projected`).
    """

    def denoise(x_t, t, *s):
        positive, negative = pair(x_t, t, *s)
        w = weight_at(weight, t)
        towards = positive - negative if change is None else change(x_t, t, positive, negative)
        # in this form w = 1 is D_pos to the last bit
        guided = positive + expand((w - 1).astype(x_t.dtype), x_t) * towards
        if not rescale:
            return guided
        wanted, found = (_std(x) for x in (positive, guided))
        ratio = jnp.where((found > 0) & (w != 1), wanted / jnp.where(found > 0, found, 1), 1)
        return guided * expand(1 + rescale * (ratio - 1), guided)

    return denoise


def _std(x: Float[Array, "b ..."]) -> Float[Array, " b"]:
    return jnp.std(x.reshape(len(x), -1), axis=1)
