"""Rows of a table to numbers that a network sees, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.codecs.codec import feature_of
from score_sde.codecs.reals import Reals
from score_sde.types import Column, Feature, Key, real_dtype

__all__ = ["columns"]


def columns(
    features: Mapping[str, Feature], *, part: str = "row", numbers: str = "quantile"
) -> Columns:
    """The codec of rows [c] of a table.

    numbers: how real numbers are scaled. "quantile": to the quantile of the standard normal law at
        the share of training rows below; numbers beyond those of training become the nearest.
        "standard": (raw - mean) / std.

    Raises ValueError for a part that is no row of a table, or another scale.
    """
    feature = feature_of(features, part)
    if not feature.columns or feature.shape != (len(feature.columns),):
        raise ValueError(f"{part} is no row of a table: its data set states no columns")
    if numbers not in ("quantile", "standard"):
        raise ValueError(f"numbers is {numbers!r}: one of quantile, standard")
    told = tuple((column.name, column.categories) for column in feature.columns)
    return Columns(feature, part, medium=f"table(columns={told!r})", numbers=numbers)


@dataclasses.dataclass(frozen=True)
class Columns(Reals):
    """x has a number of about unit variance for each real number of a row, and for a category one
    number for each that there is: 1 for this one, -1 for the others. `decode` takes the largest. It
    has no gradient there; elsewhere it is differentiable. What is shown is the row, float32, with
    the number of each category."""

    numbers: str = "quantile"

    @property
    def shape(self) -> tuple[int, ...]:
        """One for each real number and each category."""
        return (sum(len(column.categories) or 1 for column in self.feature.columns),)

    def middle(self, raw: Float[Array | np.ndarray, "*b c"]) -> Float[Array, "*b d"]:
        """The numbers that the network sees, float32."""
        raw = jnp.asarray(raw).astype(jnp.float32)
        each = [self._encoded(c, raw[..., i]) for i, c in enumerate(self.feature.columns)]
        return jnp.concatenate(each, axis=-1)

    def decode(self, x: Float[Array | np.ndarray, "*b d"]) -> Float[Array, "*b c"]:
        """The row."""
        x = jnp.asarray(x)
        x = x.astype(real_dtype(x))
        widths = [len(column.categories) or 1 for column in self.feature.columns]
        parts = jnp.split(x, np.cumsum(widths)[:-1].tolist(), axis=-1)
        columns = zip(self.feature.columns, parts, strict=True)
        return jnp.stack([self._decoded(column, part) for column, part in columns], axis=-1)

    def dequantize(self, key: Key, raw: Float[Array | np.ndarray, "*b c"]) -> Float[Array, "*b d"]:
        """As `encode`: real numbers have a density already. Raises ValueError for categories, which
        have none."""
        if named := [column.name for column in self.feature.columns if column.categories]:
            raise ValueError(
                f"rows with categories ({', '.join(named)}) have no density: leave these columns "
                "out, or take one as the label (data.label_column)"
            )
        return self.middle(raw)

    def _encoded(self, column: Column, raw: Array) -> Array:
        """[..., 1 or categories]."""
        if count := len(column.categories):
            places = jnp.arange(count, dtype=raw.dtype).reshape((1,) * raw.ndim + (-1,))
            return jnp.where(jnp.round(raw)[..., None] == places, 1, -1).astype(raw.dtype)
        if self.numbers == "standard":
            return ((raw - column.mean) / column.std)[..., None]
        return _interpolated(raw, column.values, column.scores)[..., None]

    def _decoded(self, column: Column, x: Array) -> Array:
        if column.categories:
            return jnp.argmax(x, axis=-1).astype(x.dtype)
        if self.numbers == "standard":
            return column.mean + column.std * x[..., 0]
        return _interpolated(x[..., 0], column.scores, column.values)


def _interpolated(a: Array, at: tuple[float, ...], to: tuple[float, ...]) -> Array:
    """Piecewise linear between the given places; beyond them the nearest."""
    return jnp.interp(a, jnp.asarray(at, a.dtype), jnp.asarray(to, a.dtype))
