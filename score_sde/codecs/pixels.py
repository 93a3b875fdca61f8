"""Between integer images and the real numbers that a network sees."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from score_sde.types import Key, real_dtype

# Dequantisation noise is drawn at the midpoints of this many equal cells of a level. With 2^12 the
# sum v + u is exact in float32, and u keeps 2^-13 of a level away from its ends, which is several
# times what scaling to x and back can lose: so `decode` finds v again whatever the key. The cells
# are far too fine for a density to tell from the continuum.
_CELLS_LOG2 = 12


@dataclasses.dataclass(frozen=True)
class Pixels:
    """The map between levels 0..levels-1 and x, in [-1, 1] if `centered`, else in [0, 1].

    Raises ValueError unless 2 <= levels <= 256, for images are uint8.
    """

    levels: int = 256
    centered: bool = True

    def __post_init__(self) -> None:
        if not 2 <= self.levels <= 256:
            raise ValueError(f"levels must be in 2..256, got {self.levels}")

    def encode(self, image: UInt8[Array | np.ndarray, "*shape"]) -> Float32[Array, "*shape"]:
        """Without noise: v / (levels - 1), then centred. The end levels fall on the ends."""
        return self._center(jnp.asarray(image).astype(jnp.float32) / (self.levels - 1))

    def dequantize(
        self, key: Key, image: UInt8[Array | np.ndarray, "*shape"]
    ) -> Float32[Array, "*shape"]:
        """Uniform dequantisation: (v + u) / levels with u ~ U(0, 1), then centred.

        What a likelihood in bits per dimension needs. `decode(x, dequantized=True)` gives the image
        back exactly.
        """
        bits = jax.random.bits(key, image.shape, jnp.uint16) >> (16 - _CELLS_LOG2)
        u = (bits.astype(jnp.float32) + 0.5) / 2**_CELLS_LOG2
        return self._center((jnp.asarray(image).astype(jnp.float32) + u) / self.levels)

    def decode(
        self, x: Float[Array | np.ndarray, "*shape"], dequantized: bool = False
    ) -> UInt8[Array, "*shape"]:
        """The nearest level, clipped to 0..levels-1; the inverse of `encode` or of `dequantize`.

        dequantized: whether x lives where `dequantize` puts it, so that a level is a cell
            [v, v + 1) / levels and not a point v / (levels - 1).
        """
        x = jnp.asarray(x)
        x = x.astype(real_dtype(x))
        unit = (x + 1) / 2 if self.centered else x
        level = (
            jnp.floor(self.levels * unit) if dequantized else jnp.round((self.levels - 1) * unit)
        )
        return jnp.clip(level, 0, self.levels - 1).astype(jnp.uint8)

    def truncate(self, x: Float[Array | np.ndarray, "*shape"]) -> UInt8[Array, "*shape"]:
        """255 x in [0, 1], cut to whole numbers 0..255, as the code of Song et al. 2021 did; half a
        level darker than `decode` on average."""
        x = jnp.asarray(x)
        x = x.astype(real_dtype(x))
        unit = (x + 1) / 2 if self.centered else x
        return jnp.clip(255 * unit, 0, 255).astype(jnp.uint8)

    def untruncate(self, image: UInt8[Array | np.ndarray, "*shape"]) -> Float32[Array, "*shape"]:
        """The middle of what `truncate` takes to a number, (v + 1/2) / 255 in [0, 1]."""
        unit = (jnp.asarray(image).astype(jnp.float32) + 0.5) / 255
        return self._center(jnp.minimum(unit, 1))

    def to_uint8(self, image: UInt8[Array | np.ndarray, "*shape"]) -> UInt8[Array, "*shape"]:
        """Levels 0..levels-1 stretched to 0..255, for viewing and for image files."""
        image = jnp.asarray(image).astype(jnp.float32)
        return jnp.round(255 * image / (self.levels - 1)).astype(jnp.uint8)

    def from_uint8(self, image: UInt8[Array | np.ndarray, "*shape"]) -> UInt8[Array, "*shape"]:
        """The nearest level of 0..255: the inverse of `to_uint8`."""
        image = jnp.asarray(image).astype(jnp.float32)
        return jnp.round((self.levels - 1) * image / 255).astype(jnp.uint8)

    def middle(self, image: UInt8[Array | np.ndarray, "*shape"]) -> Float32[Array, "*shape"]:
        """Where a dequantised level lies on average: (v + 1/2) / levels, then centred."""
        return self._center((jnp.asarray(image).astype(jnp.float32) + 0.5) / self.levels)

    def bits_per_dim(self, log_prob: Float[Array, "*b"], ndim: int) -> Float[Array, "*b"]:
        """Bits per dimension of images whose dequantised x has log-density `log_prob` (nats).

        The volume of a level's cell in x, (2 or 1) / levels, turns the density into a probability:
        `-log_prob / (ndim ln 2) + offset`. Averaged over u it bounds the discrete code length from
        above (Theis et al. 2016, eq. 3).
        """
        offset = math.log2(self.levels) - (1 if self.centered else 0)
        return -log_prob / (ndim * math.log(2)) + offset

    def _center(self, unit: Float32[Array, "*shape"]) -> Float32[Array, "*shape"]:
        return 2 * unit - 1 if self.centered else unit
