"""A transformer on the points of clouds without their centre."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Real
from scipy.linalg import helmert

from score_sde.nets.dit import DiT
from score_sde.types import Cond


class CentredDiT(DiT):
    """A `DiT` of n points for the x [b, n - 1, c] of `codecs.centred`: it reads B^T x, n points of
    mean 0, and returns B F, F without its mean.

    With positions="none" it commutes with permutations of the points: one by P is the turn
    Q = B P B^T of x, and B P F = Q B F, since B^T B takes the mean away, which P keeps. With
    positions it tells the points apart by their order, such as atoms of different kinds. The fields
    are those of `DiT`, with patch_size=1.
    """

    def __call__(
        self,
        x: Float[Array, "b m c"],
        noise: Real[Array, "b *levels"],
        cond: Cond | None = None,
        train: bool = False,
    ) -> Float[Array, "b m _"]:
        basis = jnp.asarray(helmert(x.shape[1] + 1), x.dtype)
        points = jnp.einsum("mn,bmc->bnc", basis, x, precision="highest")
        out = super().__call__(points, noise, cond, train)
        return jnp.einsum("mn,bnc->bmc", basis, out, precision="highest")
