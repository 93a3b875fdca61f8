"""Sounds as waves: numbers in [-1, 1] to those of about unit variance that a network sees."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.codecs.codec import feature_of
from score_sde.codecs.reals import Reals
from score_sde.types import Feature

__all__ = ["waveform"]  # what a config can name


def waveform(
    features: Mapping[str, Feature],
    *,
    rate: int,
    part: str = "sound",
    std: float = 0.2,
    cosines: bool = False,
) -> Waveform:
    """The codec of sounds [n, channels] of `rate` numbers a second, with the fields of `Waveform`:
    x = sound / std, or the amplitudes of its cosines."""
    make = Cosines if cosines else Waveform
    return make(feature_of(features, part), part, 0.0, std, sounds_of(rate))


@dataclasses.dataclass(frozen=True)
class Waveform(Reals):
    """`Reals` with values in [-1, 1]: what is shown is clipped to them. All channels are kept.

    Raises ValueError for a part that is not [n, channels].
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sound(self.part, self.feature)

    @property
    def bounds(self) -> tuple[float, float] | None:
        """-1 and 1 in the units of x."""
        return (-1 / self.std, 1 / self.std)

    def show(self, reals: Float[Array | np.ndarray, "*shape"]) -> Float[Array, "*shape"]:
        """The sound, clipped to [-1, 1], in float32."""
        return jnp.clip(self.quantize(reals), -1, 1)


class Cosines(Waveform):
    """x are the amplitudes of n cosines, from the slowest to the fastest: the orthonormal discrete
    cosine transform of the sound along time (type II), over std. A tone is a few numbers side by
    side. Distances, normal noise and log-densities are those of the wave."""

    @property
    def bounds(self) -> None:
        """None: a cosine may be larger than the wave."""

    def middle(self, raw: Float[Array | np.ndarray, "*b n c"]) -> Float[Array, "*b n c"]:
        """The transform over std, in float32."""
        return jax.scipy.fft.dct(super().middle(raw), axis=-2, norm="ortho")

    def decode(self, x: Float[Array | np.ndarray, "*b n c"]) -> Float[Array, "*b n c"]:
        """The sound."""
        return jax.scipy.fft.idct(super().decode(x), axis=-2, norm="ortho")


def sounds_of(rate: int) -> str:
    """The medium of sounds of this rate.

    Raises:
      ValueError: the rate is below 1.
    """
    if rate < 1:
        raise ValueError(f"rate must be at least 1 number a second, not {rate}")
    return f"sounds(rate={rate})"


def check_sound(part: str, feature: Feature) -> None:
    """Raises a ValueError for a part that is not [n, channels]."""
    if len(feature.shape) != 2:
        raise ValueError(f"a sound is [n, channels], and {part} has the shape {feature.shape}")
