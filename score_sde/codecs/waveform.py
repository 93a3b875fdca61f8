"""Sounds as waves: numbers in [-1, 1] to those of about unit variance that a network sees."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.codecs.codec import feature_of
from score_sde.codecs.reals import Reals
from score_sde.types import Feature

__all__ = ["waveform"]  # what a config can name


def waveform(
    features: Mapping[str, Feature], *, rate: int, part: str = "sound", std: float = 0.2
) -> Waveform:
    """The codec of sounds [n, channels] of `rate` numbers a second: x = sound / std."""
    return Waveform(feature_of(features, part), part, 0.0, std, sounds_of(rate))


@dataclasses.dataclass(frozen=True)
class Waveform(Reals):
    """`Reals` with values in [-1, 1]: what is shown is clipped to them. All channels are kept.

    Raises ValueError for a part that is not [n, channels].
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sound(self.part, self.feature)

    @property
    def bounds(self) -> tuple[float, float]:
        """-1 and 1 in the units of x."""
        return (-1 / self.std, 1 / self.std)

    def show(self, reals: Float[Array | np.ndarray, "*shape"]) -> Float[Array, "*shape"]:
        """The sound, clipped to [-1, 1], in float32."""
        return jnp.clip(self.quantize(reals), -1, 1)


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
