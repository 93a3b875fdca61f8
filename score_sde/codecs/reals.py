"""Real numbers to those of about unit variance that a network sees, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.codecs.codec import feature_of
from score_sde.types import Feature, Key, real_dtype


def reals(
    features: Mapping[str, Feature],
    *,
    part: str = "signal",
    mean: float = 0.0,
    std: float = 1.0,
    medium: str = "curves",
) -> Reals:
    """The codec of a part of real numbers, with the fields of `Reals`."""
    return Reals(feature_of(features, part), part, mean, std, medium)


@dataclasses.dataclass(frozen=True)
class Reals:
    """x = (raw - mean) / std. What is shown are the raw numbers, in float32.

    Raises ValueError for whole numbers, or a std that is not above 0.
    """

    feature: Feature
    part: str = "signal"
    mean: float = 0.0
    std: float = 1.0
    medium: str = "curves"

    bounds = None
    noise_width = 0.0
    levels = None
    tokens = None

    def __post_init__(self) -> None:
        if self.feature.values is not None:
            raise ValueError(
                f"{self.part} has {self.feature.values} values, and reals are real numbers"
            )
        if self.std <= 0:
            raise ValueError(f"std must be above 0, not {self.std}")

    @property
    def inner(self) -> Reals:
        """Itself: there is no other."""
        return self

    @property
    def digests(self) -> dict[str, str]:
        """None: there are no networks."""
        return {}

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the part."""
        return self.feature.shape

    # The results of a subclass may have another shape than the raw numbers.

    def encode(self, key: Key, raw: Float[Array | np.ndarray, "..."]) -> Float[Array, "..."]:
        """The scaled numbers, in float32; no noise."""
        return self.middle(raw)

    def dequantize(self, key: Key, raw: Float[Array | np.ndarray, "..."]) -> Float[Array, "..."]:
        """As `encode`: real numbers have a density already."""
        return self.middle(raw)

    def middle(self, raw: Float[Array | np.ndarray, "..."]) -> Float[Array, "..."]:
        """(raw - mean) / std, in float32."""
        return (jnp.asarray(raw).astype(jnp.float32) - self.mean) / self.std

    def decode(self, x: Float[Array | np.ndarray, "..."]) -> Float[Array, "..."]:
        """mean + std x."""
        x = jnp.asarray(x)
        return self.mean + self.std * x.astype(real_dtype(x))

    def quantize(self, reals: Float[Array | np.ndarray, "*shape"]) -> Float[Array, "*shape"]:
        """The same numbers, in float32."""
        return jnp.asarray(reals).astype(jnp.float32)

    def show(self, reals: Float[Array | np.ndarray, "*shape"]) -> Float[Array, "*shape"]:
        """The same numbers, in float32."""
        return self.quantize(reals)

    def show_raw(self, raw: Float[Array | np.ndarray, "*shape"]) -> Float[Array, "*shape"]:
        """The same numbers, in float32."""
        return self.quantize(raw)

    def raw_of(self, shown: Float[Array | np.ndarray, "*shape"]) -> Float[Array, "*shape"]:
        """The same numbers, in float32."""
        return self.quantize(shown)

    def locate(self, shown: Float[Array | np.ndarray, "..."]) -> Float[Array, "..."]:
        """As `middle`."""
        return self.middle(shown)

    def stored(self, raw: Float[Array | np.ndarray, "*shape"]) -> dict[str, Array]:
        """The raw part itself."""
        return {self.part: jnp.asarray(raw)}

    def bits_per_dim(self, log_prob: Float[Array | np.ndarray, "*b"]) -> None:
        """There are none."""
