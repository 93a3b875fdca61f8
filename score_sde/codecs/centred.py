"""Clouds without their centre, for molecules: noise without a centre of mass."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.linalg import helmert

from score_sde.codecs.codec import feature_of
from score_sde.codecs.reals import Reals
from score_sde.types import Feature, real_dtype

__all__ = ["centred"]


def centred(
    features: Mapping[str, Feature],
    *,
    part: str = "points",
    std: float = 1.0,
    medium: str = "points",
) -> Centred:
    """The codec of clouds [n, 3] whose place means nothing, such as molecules.

    std: of the numbers of a cloud without its centre.

    Raises ValueError for another part than at least two points of three real numbers, or a std that
    is not above 0.
    """
    feature = feature_of(features, part)
    if len(feature.shape) != 2 or feature.shape[1] != 3 or feature.shape[0] < 2:
        raise ValueError(f"{part} has the shape {feature.shape}, and centred clouds are [n, 3]")
    return Centred(feature, part, 0.0, std, medium)


@dataclasses.dataclass(frozen=True)
class Centred(Reals):
    """x = B raw / std, [n - 1, 3], with B the orthonormal rows of Helmert's matrix, which span the
    vectors of sum 0. So B^T x is the cloud moved to the origin.

    Independent noise of these (n - 1) 3 numbers is that of n points without the mean of all
    (Hoogeboom et al. 2022, arXiv:2203.17003, sec. 3.1), and a permutation of points turns x by an
    orthogonal matrix. So the noise, the prior and likelihoods have the right degrees of freedom,
    and nothing else knows. A density is that of the subspace of centred clouds, in its own lengths
    (over std). `nets.centred` has a network that sees the points themselves.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """One row less than the part."""
        return (self.feature.shape[0] - 1, 3)

    def middle(self, raw: Float[Array | np.ndarray, "*b n 3"]) -> Float[Array, "*b m 3"]:
        """B raw / std, in float32."""
        reals = jnp.asarray(raw).astype(jnp.float32)
        return jnp.matmul(self._basis(reals), reals, precision="highest") / self.std

    def decode(self, x: Float[Array | np.ndarray, "*b m 3"]) -> Float[Array, "*b n 3"]:
        """std B^T x, whose mean is 0."""
        x = jnp.asarray(x)
        x = x.astype(real_dtype(x))
        return self.std * jnp.matmul(self._basis(x).mT, x, precision="highest")

    def _basis(self, x: Array) -> Float[Array, "*b m n"]:
        """B, with as many axes as x."""
        basis = jnp.asarray(helmert(self.feature.shape[0]), x.dtype)
        return basis.reshape((1,) * (x.ndim - 2) + basis.shape)
