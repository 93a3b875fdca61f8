"""Sounds as mel spectrograms, and back by the algorithm of Griffin and Lim."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.codecs.codec import feature_of
from score_sde.codecs.spectra import Frames, griffin_lim, mel_filters, transform
from score_sde.codecs.waveform import check_sound, sounds_of
from score_sde.types import Feature, Key, real_dtype

__all__ = ["mel"]  # what a config can name

_NNLS_STEPS = 30  # of multiplicative updates


def mel(
    features: Mapping[str, Feature],
    *,
    rate: int,
    part: str = "sound",
    window: int = 1024,
    hop: int = 256,
    mels: int = 80,
    low: float = 0.0,
    high: float | None = None,
    scale: str = "slaney",
    norm: str = "slaney",
    power: float = 1.0,
    floor: float = 1e-5,
    mean: float = -5.0,
    std: float = 2.5,
    iterations: int = 32,
) -> Mel:
    """The codec of sounds [n, channels] of `rate` numbers a second, with the fields of `Mel`.

    The defaults are those of most vocoders: ln max(m, 1e-5) of magnitudes, which such work has at a
    rate of 22,050 with high=8000. That of HTK is scale="htk", norm="none", power=2.0.

    high: Hz; None for half the rate.
    """
    return Mel(
        feature=feature_of(features, part),
        part=part,
        rate=rate,
        window=window,
        hop=hop,
        mels=mels,
        low=low,
        high=rate / 2 if high is None else high,
        scale=scale,
        norm=norm,
        power=power,
        floor=floor,
        mean=mean,
        std=std,
        iterations=iterations,
    )


@dataclasses.dataclass(frozen=True)
class Mel:
    """x = (ln max(m, floor) - mean) / std [frames, mels, channels], with m = |S|^power F, S the
    short-time Fourier transform of the sound and F the mel filters (`codecs.spectra`).

    It loses phases, and detail within a filter. `decode` takes the magnitudes >= 0 that fit m best,
    and a sound of them by `iterations` of Griffin and Lim's algorithm. What is shown are sounds.

    window, hop: of the transform, numbers. mels: filters, from `low` to `high` Hz.
    scale, norm: "slaney" or "htk"; "slaney" or "none" (`spectra.mel_filters`).

    Raises ValueError for a part that is no sound [n, channels], or numbers out of range.
    """

    feature: Feature
    part: str
    rate: int
    window: int
    hop: int
    mels: int
    low: float
    high: float
    scale: str
    norm: str
    power: float
    floor: float
    mean: float
    std: float
    iterations: int

    bounds = None
    noise_width = 0.0
    levels = None
    tokens = None

    def __post_init__(self) -> None:
        check_sound(self.part, self.feature)
        if self.feature.values is not None:
            raise ValueError(f"{self.part} has {self.feature.values} values, and a sound is real")
        if self.window < 4 or self.window % 2 or not 1 <= self.hop <= self.window // 2:
            raise ValueError(
                f"window must be even and hop at most half of it, not {self.window} and {self.hop}"
            )
        for name in ("mels", "power", "floor", "std", "iterations"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        self._filters  # noqa: B018 (raises for what is wrong)

    @property
    def inner(self) -> Mel:
        """Itself: there is no other."""
        return self

    @property
    def digests(self) -> dict[str, str]:
        """None: there are no networks."""
        return {}

    @property
    def medium(self) -> str:
        """Sounds of the rate."""
        return sounds_of(self.rate)

    @property
    def shape(self) -> tuple[int, ...]:
        """(frames, mels, channels)."""
        return (self._frames.count, self.mels, self.feature.shape[1])

    def encode(self, key: Key, raw: Float[Array | np.ndarray, "*b n c"]) -> Float[Array, "..."]:
        """The scaled spectrogram, in float32; no noise."""
        return self.middle(raw)

    def dequantize(self, key: Key, raw: Float[Array | np.ndarray, "*b n c"]) -> Float[Array, "..."]:
        """As `encode`: real numbers have a density already. It is one of spectrograms, not of
        sounds."""
        return self.middle(raw)

    def middle(self, raw: Float[Array | np.ndarray, "*b n c"]) -> Float[Array, "*b f m c"]:
        """(ln max(m, floor) - mean) / std, computed in float64 if the sound is, in float32."""
        raw = jnp.asarray(raw)
        sound = jnp.moveaxis(raw.astype(real_dtype(raw)), -1, -2)
        power = jnp.abs(transform(sound, self._frames)) ** self.power
        found = jnp.matmul(power, jnp.asarray(self._filters, power.dtype), precision="highest")
        x = (jnp.log(jnp.maximum(found, self.floor)) - self.mean) / self.std
        return jnp.moveaxis(x, -3, -1).astype(jnp.float32)

    def decode(self, x: Float[Array | np.ndarray, "*b f m c"]) -> Float[Array, "*b n c"]:
        """A sound with about this spectrogram; differentiable."""
        x = jnp.asarray(x)
        found = jnp.exp(self.mean + self.std * jnp.moveaxis(x.astype(real_dtype(x)), -1, -3))
        power = self._unfiltered(found)
        heard = power > 0  # a root has no derivative at 0
        magnitude = jnp.where(heard, jnp.where(heard, power, 1) ** (1 / self.power), 0)
        sound = griffin_lim(magnitude, self._frames, self.iterations)
        return jnp.moveaxis(sound, -2, -1)

    def quantize(self, reals: Float[Array | np.ndarray, "*shape"]) -> Float[Array, "*shape"]:
        """The same numbers, in float32."""
        return jnp.asarray(reals).astype(jnp.float32)

    def show(self, reals: Float[Array | np.ndarray, "*shape"]) -> Float[Array, "*shape"]:
        """The sound, clipped to [-1, 1], in float32."""
        return jnp.clip(self.quantize(reals), -1, 1)

    def show_raw(self, raw: Float[Array | np.ndarray, "*shape"]) -> Float[Array, "*shape"]:
        """As `show`."""
        return self.show(raw)

    def raw_of(self, shown: Float[Array | np.ndarray, "*shape"]) -> Float[Array, "*shape"]:
        """The same numbers, in float32."""
        return self.quantize(shown)

    def locate(self, shown: Float[Array | np.ndarray, "*shape"]) -> Float[Array, "..."]:
        """As `middle`."""
        return self.middle(shown)

    def stored(self, raw: Float[Array | np.ndarray, "*shape"]) -> dict[str, Array]:
        """The sound itself."""
        return {self.part: jnp.asarray(raw)}

    def bits_per_dim(self, log_prob: Float[Array | np.ndarray, "*b"]) -> None:
        """There are none."""

    @property
    def _frames(self) -> Frames:
        return Frames(self.feature.shape[0], self.window, self.hop)

    @functools.cached_property
    def _filters(self) -> Float[np.ndarray, "bins mels"]:
        return mel_filters(
            self.rate, self.window, self.mels, self.low, self.high, self.scale, self.norm
        )

    def _unfiltered(self, found: Float[Array, "*b mels"]) -> Float[Array, "*b bins"]:
        """The powers p >= 0 with p F nearest to `found`, by multiplicative updates from a constant
        (Lee & Seung 2001, "Algorithms for non-negative matrix factorization", theorem 1)."""
        filters = jnp.asarray(self._filters, found.dtype)

        def times(a, b):
            return jnp.matmul(a, b, precision="highest")

        wanted = times(found, filters.T)

        def update(p, _):
            fit = times(times(p, filters), filters.T)
            seen = fit > 0  # by some filter
            return p * jnp.where(seen, wanted / jnp.where(seen, fit, 1), 0), None

        return jax.lax.scan(update, jnp.ones_like(wanted), None, length=_NNLS_STEPS)[0]
