"""Small images as tokens: a number of an image is a token."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer, Num, UInt8

from score_sde.codecs.codec import feature_of
from score_sde.codecs.pixels import Pixels
from score_sde.types import Feature, Key


def image_tokens(features: Mapping[str, Feature], *, part: str = "image") -> ImageTokens:
    """The codec of the images of a data set, with the fields of `ImageTokens`."""
    return ImageTokens(Pixels(feature_of(features, part), part))


@dataclasses.dataclass(frozen=True)
class ImageTokens:
    """x int [h w c], the values 0..n-1 of an image row by row, for discrete processes.

    inner: what shows the images.
    """

    inner: Pixels

    bounds = None
    noise_width = 0.0
    medium = "images"

    @property
    def part(self) -> str:
        """That of the images."""
        return self.inner.part

    @property
    def feature(self) -> Feature:
        """That of the images."""
        return self.inner.feature

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
        """(h w c,)."""
        return (math.prod(self.feature.shape),)

    def encode(self, key: Key, raw: Num[Array | np.ndarray, "*b h w c"]) -> Int[Array, "*b l"]:
        """The values, row by row. No noise is added."""
        return self._flat(jnp.asarray(raw).astype(jnp.int32))

    def dequantize(self, key: Key, raw: Num[Array | np.ndarray, "*b h w c"]) -> Int[Array, "*b l"]:
        """As `encode`: tokens have probabilities."""
        return self.encode(key, raw)

    def middle(self, raw: Num[Array | np.ndarray, "*b h w c"]) -> Float[Array, "*b l"]:
        """The values, as real numbers."""
        return self._flat(jnp.asarray(raw).astype(jnp.float32))

    def decode(self, x: Num[Array | np.ndarray, "*b l"]) -> Float[Array, "*b h w c"]:
        """The values as an image of real numbers; -1 of a mask."""
        x = jnp.asarray(x).astype(jnp.float32)
        return x.reshape(*x.shape[:-1], *self.feature.shape)

    def quantize(self, reals: Float[Array | np.ndarray, "*b h w c"]) -> UInt8[Array, "*b h w c"]:
        """The nearest value; 0 of a mask."""
        return self.inner.quantize(reals)

    def show(self, reals: Num[Array | np.ndarray, "*b h w c"]) -> UInt8[Array, "*b h w c"]:
        """Values stretched to 0..255."""
        return self.inner.show_raw(self.quantize(reals))

    def show_raw(self, raw: Integer[Array | np.ndarray, "*b h w c"]) -> UInt8[Array, "*b h w c"]:
        """Values stretched to 0..255."""
        return self.inner.show_raw(raw)

    def raw_of(self, shown: Integer[Array | np.ndarray, "*b h w c"]) -> UInt8[Array, "*b h w c"]:
        """The nearest value of a number 0..255."""
        return self.inner.raw_of(shown)

    def locate(self, shown: Integer[Array | np.ndarray, "*b h w c"]) -> Float[Array, "*b l"]:
        """The values of a shown image."""
        return self.middle(self.raw_of(shown))

    def stored(self, raw: Num[Array | np.ndarray, "*b h w c"]) -> dict[str, Array]:
        """The raw part itself."""
        return {self.part: jnp.asarray(raw)}

    def bits_per_dim(self, log_prob: Float[Array | np.ndarray, "*b"]) -> Float[Array, "*b"]:
        """Bits of a value, of images with this log-probability (nats)."""
        return jnp.asarray(-log_prob / (math.prod(self.shape) * math.log(2)))

    def _flat(self, raw: Array) -> Array:
        return raw.reshape(*raw.shape[: raw.ndim - len(self.feature.shape)], -1)
