"""Images of whole numbers to the real numbers that a network sees, and back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, Num, UInt8

from score_sde.codecs.codec import feature_of
from score_sde.types import Feature, Key, Levels, real_dtype

# Dequantisation noise is drawn at the midpoints of this many equal cells of a pixel's value. With
# 2^12 the sum v + u is exact in float32, and u keeps 2^-13 away from its ends, several times what
# scaling to x and back can lose: so `quantize` finds v again for every key. The cells are far
# too fine for a density to tell from the continuum.
_CELLS_LOG2 = 12


def pixels(
    features: Mapping[str, Feature],
    *,
    part: str = "image",
    centered: bool = True,
    dequantize: bool = False,
    truncate: bool = False,
) -> Pixels:
    """The codec of the images of a data set, with the fields of `Pixels`."""
    return Pixels(feature_of(features, part), part, centered, dequantize, truncate)


@dataclasses.dataclass(frozen=True)
class Pixels:
    """The map between values v in 0..n-1 and x, in [-1, 1] if `centered`, else in [0, 1].

    noisy: whether `encode` adds uniform noise of one value, so that v is the cell
        [v, v + 1) / n of the unit interval; otherwise it is the point v / (n - 1).
    truncate: whether `show` truncates 255 x to whole numbers, as the code of Song et al. 2021 does:
        images become half a value darker on average. Otherwise it takes the nearest value.

    Raises ValueError for more than 256 values (8 bits), or images that are neither grey nor RGB.
    """

    feature: Feature
    part: str = "image"
    centered: bool = True
    noisy: bool = False
    truncate: bool = False

    medium = "images"
    tokens = None
    axes = ("height", "width")

    def __post_init__(self) -> None:
        shape, values = self.feature.shape, self.feature.values
        if values is None or not 2 <= values <= 256:
            raise ValueError(f"pixels have 2 to 256 values, and {self.part} has {values}")
        if len(shape) != len(self.axes) + 1 or shape[-1] not in (1, 3):
            raise ValueError(
                f"{self.part} has the shape {shape}, not ({', '.join(self.axes)}, channels) with 1 "
                "channel (grey) or 3 (RGB)"
            )

    @property
    def inner(self) -> Pixels:
        """Itself: there is no other."""
        return self

    @property
    def digests(self) -> dict[str, str]:
        """None: there are no networks."""
        return {}

    @property
    def shape(self) -> tuple[int, ...]:
        """(h, w, c), that of the image."""
        return self.feature.shape

    @property
    def values(self) -> int:
        """n: the values are 0..n-1."""
        assert self.feature.values is not None  # pixels are whole numbers
        return self.feature.values

    @property
    def bounds(self) -> tuple[float, float]:
        """The ends of x."""
        return (-1.0 if self.centered else 0.0, 1.0)

    @property
    def noise_width(self) -> float:
        """The width in x of the cell of a value if `noisy`, else 0."""
        low, high = self.bounds
        return (high - low) / self.values if self.noisy else 0.0

    @property
    def levels(self) -> Levels:
        """The x of the values, without noise."""
        low, high = self.bounds
        if self.noisy:
            return Levels(low + self.noise_width / 2, self.noise_width, self.values)
        return Levels(low, (high - low) / (self.values - 1), self.values)

    def encode(self, key: Key, raw: Num[Array | np.ndarray, "*shape"]) -> Float[Array, "*shape"]:
        """v to x, in float32: `dequantize` if `noisy`, else `middle`. After an augmentation v are
        real numbers."""
        return self.dequantize(key, raw) if self.noisy else self.middle(raw)

    def dequantize(
        self, key: Key, raw: Num[Array | np.ndarray, "*shape"]
    ) -> Float[Array, "*shape"]:
        """Uniform dequantisation: (v + u) / n with u ~ U(0, 1), then centred."""
        bits = jax.random.bits(key, raw.shape, jnp.uint16) >> (16 - _CELLS_LOG2)
        u = (bits.astype(jnp.float32) + 0.5) / 2**_CELLS_LOG2
        return self._center((jnp.asarray(raw).astype(jnp.float32) + u) / self.values)

    def middle(self, raw: Num[Array | np.ndarray, "*shape"]) -> Float[Array, "*shape"]:
        """The mean of `encode` over keys."""
        raw = jnp.asarray(raw).astype(jnp.float32)
        n = self.values
        return self._center((raw + 0.5) / n if self.noisy else raw / (n - 1))

    def decode(self, x: Float[Array | np.ndarray, "*shape"]) -> Float[Array, "*shape"]:
        """x to values, as real numbers: the ends of x are -1/2 and n - 1/2 if `noisy`, else 0 and
        n - 1. Nothing is clipped."""
        x = jnp.asarray(x)
        x = x.astype(real_dtype(x))
        unit = (x + 1) / 2 if self.centered else x
        n = self.values
        return n * unit - 0.5 if self.noisy else (n - 1) * unit

    def quantize(self, reals: Float[Array | np.ndarray, "*shape"]) -> UInt8[Array, "*shape"]:
        """The nearest value in 0..n-1; the upper of two, since a cell includes its lower end."""
        return jnp.clip(jnp.floor(reals + 0.5), 0, self.values - 1).astype(jnp.uint8)

    def show(self, reals: Num[Array | np.ndarray, "*shape"]) -> UInt8[Array, "*shape"]:
        """Values stretched to 0..255, as image files hold them."""
        if not self.truncate:
            return self.show_raw(self.quantize(reals))
        n = self.values
        # in this form 256 values without noise are 255 x to the last bit
        shown = 255 / n * (reals + 0.5) if self.noisy else 255 / (n - 1) * reals
        return jnp.clip(shown, 0, 255).astype(jnp.uint8)

    def show_raw(self, raw: Integer[Array | np.ndarray, "*shape"]) -> UInt8[Array, "*shape"]:
        """Values stretched to 0..255: 255 v / (n - 1), rounded."""
        raw = jnp.asarray(raw).astype(jnp.float32)
        return jnp.round(255 * raw / (self.values - 1)).astype(jnp.uint8)

    def raw_of(self, shown: Integer[Array | np.ndarray, "*shape"]) -> UInt8[Array, "*shape"]:
        """The nearest value of a number 0..255."""
        shown = jnp.asarray(shown).astype(jnp.float32)
        return jnp.round((self.values - 1) * shown / 255).astype(jnp.uint8)

    def locate(self, shown: Integer[Array | np.ndarray, "*shape"]) -> Float[Array, "*shape"]:
        """The middle of the x that are shown as these numbers 0..255."""
        if not self.truncate:
            return self.middle(self.raw_of(shown))
        unit = (jnp.asarray(shown).astype(jnp.float32) + 0.5) / 255
        return self._center(jnp.minimum(unit, 1))

    def stored(self, raw: Num[Array | np.ndarray, "*shape"]) -> dict[str, Array]:
        """The raw part itself."""
        return {self.part: jnp.asarray(raw)}

    def bits_per_dim(
        self, log_prob: Float[Array | np.ndarray, "*b"]
    ) -> Float[Array | np.ndarray, "*b"]:
        """Bits per dimension of images whose dequantised x has log-density `log_prob` (nats).

        The volume of a value's cell in x, (2 or 1) / n, turns the density into a probability:
        `-log_prob / (ndim ln 2) + offset`. Averaged over u it bounds the discrete code length from
        above (Theis et al. 2016, eq. 3).
        """
        offset = math.log2(self.values) - (1 if self.centered else 0)
        return -log_prob / (math.prod(self.shape) * math.log(2)) + offset

    def _center(self, unit: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return 2 * unit - 1 if self.centered else unit
