"""What codecs share whose x is of tokens."""

from __future__ import annotations

import abc
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from score_sde.types import Feature, Key

__all__: list[str] = []  # what a config can name: nothing, for this is no codec


class WholeNumbers(abc.ABC):
    """Raw parts of whole numbers, which are the tokens themselves: x int [l]."""

    part: str
    feature: Feature

    bounds = None
    noise_width = 0.0
    levels = None

    @property
    def tokens(self) -> int | None:
        """How many values a token has."""
        return self.feature.values

    @property
    def digests(self) -> dict[str, str]:
        """None: there are no networks."""
        return {}

    @property
    def shape(self) -> tuple[int, ...]:
        """(l,), as many as a raw part has numbers."""
        return (math.prod(self.feature.shape),)

    def encode(self, key: Key, raw: Num[Array | np.ndarray, "*shape"]) -> Int[Array, "*b l"]:
        """The numbers in a row. No noise is added."""
        return self._row(jnp.asarray(raw).astype(jnp.int32))

    def dequantize(self, key: Key, raw: Num[Array | np.ndarray, "*shape"]) -> Int[Array, "*b l"]:
        """As `encode`: tokens have probabilities."""
        return self.encode(key, raw)

    def middle(self, raw: Num[Array | np.ndarray, "*shape"]) -> Float[Array, "*b l"]:
        """The numbers in a row, as real numbers."""
        return self._row(jnp.asarray(raw).astype(jnp.float32))

    def decode(self, x: Num[Array | np.ndarray, "*b l"]) -> Float[Array, "*shape"]:
        """The raw part as real numbers; -1 of a mask."""
        x = jnp.asarray(x).astype(jnp.float32)
        return x.reshape(*x.shape[:-1], *self.feature.shape)

    @abc.abstractmethod
    def raw_of(self, shown: Num[Array | np.ndarray, "*shape"]) -> Array:
        """The raw part nearest to a shown one."""

    def locate(self, shown: Num[Array | np.ndarray, "*shape"]) -> Float[Array, "*b l"]:
        """The tokens of what is shown, as real numbers."""
        return self.middle(self.raw_of(shown))

    def stored(self, raw: Num[Array | np.ndarray, "*shape"]) -> dict[str, Array]:
        """The raw part itself."""
        return {self.part: jnp.asarray(raw)}

    def bits_per_dim(self, log_prob: Float[Array | np.ndarray, "*b"]) -> Float[Array, "*b"]:
        """Bits of a token, of raw parts with this log-probability (nats)."""
        return jnp.asarray(-log_prob / (math.prod(self.shape) * math.log(2)))

    def _row(self, raw: Array) -> Array:
        return raw.reshape(*raw.shape[: raw.ndim - len(self.feature.shape)], -1)
