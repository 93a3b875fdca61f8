"""Clouds of points to numbers of about unit variance that a network sees, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.codecs.codec import feature_of
from score_sde.codecs.reals import Reals
from score_sde.types import Feature, real_dtype

__all__ = ["points"]


def points(
    features: Mapping[str, Feature],
    *,
    part: str = "points",
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    medium: str = "points",
) -> Points:
    """The codec of clouds [n, 3 + k]: n points in no order, each x, y, z and k other numbers, such
    as its normal.

    mean, std: one number, or one of each field.

    Raises ValueError for a part that is no cloud of real numbers, other numbers of fields, or a std
    that is not above 0.
    """
    feature = feature_of(features, part)
    if len(feature.shape) != 2 or feature.shape[1] < 3:
        raise ValueError(f"{part} has the shape {feature.shape}, and clouds are [n, 3 + k]")
    k = feature.shape[1]
    shifts, scales = (_of_fields(name, a, k) for name, a in (("mean", mean), ("std", std)))
    return Points(feature, part, 0.0, 1.0, medium, shifts, scales)


def _of_fields(name: str, given: float | Sequence[float], k: int) -> tuple[float, ...]:
    each = (float(given),) * k if isinstance(given, int | float) else tuple(map(float, given))
    if len(each) != k:
        raise ValueError(f"{name} has {len(each)} numbers, and a point has {k}")
    if name == "std" and min(each) <= 0:
        raise ValueError(f"std must be above 0, not {given}")
    return each


@dataclasses.dataclass(frozen=True)
class Points(Reals):
    """x = (raw - mean) / std, field by field. What is shown are the raw numbers, in float32."""

    shifts: tuple[float, ...] = ()
    scales: tuple[float, ...] = ()

    def middle(self, raw: Float[Array | np.ndarray, "*shape"]) -> Float[Array, "*shape"]:
        """(raw - mean) / std, in float32."""
        reals = jnp.asarray(raw).astype(jnp.float32)
        return (reals - _like(self.shifts, reals)) / _like(self.scales, reals)

    def decode(self, x: Float[Array | np.ndarray, "*shape"]) -> Float[Array, "*shape"]:
        """mean + std x."""
        x = jnp.asarray(x)
        x = x.astype(real_dtype(x))
        return _like(self.shifts, x) + _like(self.scales, x) * x


def _like(fields: tuple[float, ...], x: Array) -> Array:
    """Numbers of fields, [k], with the axes of x [..., k]."""
    return jnp.asarray(fields, x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
