"""Text as tokens."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Integer, Num, UInt8

from score_sde.codecs.codec import feature_of
from score_sde.codecs.whole_numbers import WholeNumbers
from score_sde.types import Feature


def tokens(features: Mapping[str, Feature], *, part: str = "text") -> Tokens:
    """The codec of a part of whole numbers, with the fields of `Tokens`."""
    return Tokens(feature_of(features, part), part)


@dataclasses.dataclass(frozen=True)
class Tokens(WholeNumbers):
    """x int [l] is the raw part itself, 0..v-1, for discrete processes.

    Shown are the bytes of each token in UTF-8, uint8 [l, m] with zeros behind; nothing of a mask.
    m is the length of the longest token.

    Raises ValueError if the part is not a row of whole numbers whose values have names
    (`Feature.names`).
    """

    feature: Feature
    part: str = "text"

    medium = "text"

    def __post_init__(self) -> None:
        shape, values, names = self.feature.shape, self.feature.values, self.feature.names
        if values is None or len(shape) != 1 or len(names) != values:
            raise ValueError(
                f"tokens are a row of whole numbers, each value with its text, and {self.part} has "
                f"the shape {shape}, {values} values and {len(names)} texts"
            )

    @property
    def inner(self) -> Tokens:
        """Itself: there is no other."""
        return self

    @functools.cached_property
    def _bytes(self) -> UInt8[np.ndarray, "rows m"]:
        """Those of each value; the last row, of masks, is zeros."""
        texts = [name.encode("latin-1") for name in self.feature.names]
        width = max(1, *map(len, texts))
        rows = [text.ljust(width, b"\0") for text in [*texts, b""]]
        return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, width)

    def quantize(self, reals: Num[Array | np.ndarray, "*b l"]) -> Int[Array, "*b l"]:
        """The nearest token, -1 a mask."""
        assert self.feature.values is not None  # tokens are whole numbers
        nearest = jnp.floor(jnp.asarray(reals).astype(jnp.float32) + 0.5)
        return jnp.clip(nearest, -1, self.feature.values - 1).astype(jnp.int32)

    def show(self, reals: Num[Array | np.ndarray, "*b l"]) -> UInt8[Array, "*b l m"]:
        """The bytes of the nearest tokens."""
        return jnp.asarray(self._bytes)[self.quantize(reals)]

    def show_raw(self, raw: Num[Array | np.ndarray, "*b l"]) -> UInt8[Array, "*b l m"]:
        """The bytes of the tokens."""
        return self.show(raw)

    def raw_of(self, shown: Integer[Array | np.ndarray, "*b l m"]) -> Int[Array, "*b l"]:
        """The tokens of these bytes, -1 where no token has them."""
        shown = jnp.asarray(shown)
        rows = self._bytes.reshape((1,) * (shown.ndim - 1) + self._bytes.shape)
        same = jnp.all(shown[..., None, :] == rows, axis=-1)
        found = jnp.argmax(same, axis=-1).astype(jnp.int32)
        known = same.any(axis=-1) & (found < len(self._bytes) - 1)
        return jnp.where(known, found, -1)
