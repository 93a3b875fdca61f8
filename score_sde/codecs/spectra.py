"""Short-time Fourier transforms, mel filters, and a sound of a given spectrogram.

Frames are as librosa's: centred at multiples of `hop`, with Hann's periodic window and silence
before and after the sound.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

__all__: list[str] = []  # what a config can name: nothing, for this is no codec

_KNEE, _STEP = 1000.0, 200 / 3  # Hz: where Slaney's scale turns to logarithms, and a mel below
_GROWTH = math.log(6.4) / 27  # of ln f for each mel above
_SMALLEST = 1e-8  # a magnitude beside which a phase has no meaning


class Frames(NamedTuple):
    """How a sound of `length` numbers is cut. window: numbers of a frame, even. hop: from the
    middle of a frame to the next."""

    length: int
    window: int
    hop: int

    @property
    def count(self) -> int:
        """Of frames."""
        return 1 + self.length // self.hop

    @property
    def hann(self) -> Float[np.ndarray, " window"]:
        """The periodic window, sin^2(pi i / window)."""
        return np.sin(np.pi * np.arange(self.window) / self.window) ** 2

    @property
    def places(self) -> np.ndarray:
        """Of the numbers of each frame in the padded sound, [count, window]."""
        return self.hop * np.arange(self.count)[:, None] + np.arange(self.window)


def transform(sound: Float[Array, "*b n"], frames: Frames) -> Complex[Array, "*b count bins"]:
    """The Fourier transform of every frame."""
    half = frames.window // 2
    padded = jnp.pad(sound, [(0, 0)] * (sound.ndim - 1) + [(half, half)])
    hann = _as(frames.hann, sound.dtype, sound.ndim + 1)
    return jnp.fft.rfft(hann * padded[..., frames.places], axis=-1)


def inverse(spectra: Complex[Array, "*b count bins"], frames: Frames) -> Float[Array, "*b n"]:
    """The sound whose transform is nearest to these spectra in the mean square (Griffin & Lim 1984,
    eq. 6): the sum of windowed frames over that of squared windows."""
    parts = jnp.fft.irfft(spectra, n=frames.window, axis=-1)
    hann = _as(frames.hann, parts.dtype, parts.ndim)
    size = (frames.count - 1) * frames.hop + frames.window
    whole = (
        jnp.zeros((*parts.shape[:-2], size), parts.dtype).at[..., frames.places].add(hann * parts)
    )
    weight = np.zeros(size)
    np.add.at(weight, frames.places, np.broadcast_to(frames.hann**2, frames.places.shape))
    half = frames.window // 2
    inside = slice(half, half + frames.length)
    missing = max(half + frames.length - size, 0)
    inner = whole[..., inside] / _as(np.maximum(weight[inside], 1e-8), parts.dtype, parts.ndim - 1)
    return jnp.pad(inner, [(0, 0)] * (inner.ndim - 1) + [(0, missing)])


def griffin_lim(
    magnitude: Float[Array, "*b count bins"],
    frames: Frames,
    iterations: int,
    momentum: float = 0.99,
) -> Float[Array, "*b n"]:
    """A sound whose transform has about these magnitudes, by turns projected on the transforms of
    sounds and on these magnitudes, with momentum (Perraudin et al. 2013, "A fast Griffin-Lim
    algorithm"; momentum 0 is Griffin & Lim 1984). The first phases are random, of a fixed key, so
    that equal magnitudes give equal sounds. Differentiable."""
    shape, dtype = magnitude.shape[-2:], magnitude.dtype
    turn = jax.random.uniform(jax.random.key(0), shape, dtype)
    angle = (2 * np.pi * turn).reshape((1,) * (magnitude.ndim - 2) + shape)
    start = jax.lax.complex(magnitude * jnp.cos(angle), magnitude * jnp.sin(angle))

    def step(carry, _):
        spectra, before = carry
        found = transform(inverse(spectra, frames), frames)
        ahead = found + _times(momentum, found - before)
        size = jnp.maximum(jnp.abs(ahead), _SMALLEST)
        return (_times(magnitude / size, ahead), found), None

    (spectra, _), _ = jax.lax.scan(step, (start, jnp.zeros_like(start)), None, length=iterations)
    return inverse(spectra, frames)


def _slaney_mel(hz: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    above = np.log(np.maximum(hz, _KNEE) / _KNEE) / _GROWTH
    return np.where(hz < _KNEE, hz / _STEP, _KNEE / _STEP + above)


def _slaney_hz(mel: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    above = np.maximum(mel - _KNEE / _STEP, 0)
    return np.where(above > 0, _KNEE * np.exp(_GROWTH * above), mel * _STEP)


def _htk_mel(hz: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    return np.asarray(2595 * np.log10(1 + hz / 700))


def _htk_hz(mel: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    return np.asarray(700 * (10 ** (mel / 2595) - 1))


_Scale = Callable[[np.ndarray], np.ndarray]
SCALES: dict[str, tuple[_Scale, _Scale]] = {
    "slaney": (_slaney_mel, _slaney_hz),
    "htk": (_htk_mel, _htk_hz),
}
"""From Hz to mels and back. "slaney" is linear below 1,000 Hz and logarithmic above (Slaney 1998,
"Auditory Toolbox"); "htk" is `2595 log10(1 + f / 700)` (the HTK Book)."""


def mel_filters(
    rate: int, window: int, mels: int, low: float, high: float, scale: str, norm: str
) -> Float[np.ndarray, "bins mels"]:
    """Triangles whose corners are evenly spread in mels from `low` to `high`, Hz.

    scale: of SCALES. norm: "slaney", each of area 1 over Hz; "none", each of height 1.

    Raises:
      ValueError: no such scale or norm; numbers out of range; or a filter that no frequency of the
        transform lies in.
    """
    if scale not in SCALES:
        raise ValueError(f"there is no scale {scale!r}: one of {', '.join(SCALES)}")
    if norm not in ("slaney", "none"):
        raise ValueError(f"there is no norm {norm!r}: one of slaney, none")
    if not 0 <= low < high <= rate / 2:
        raise ValueError(f"frequencies go from 0 to {rate / 2:g} Hz, and not from {low} to {high}")
    to_mel, to_hz = SCALES[scale]
    ends = to_mel(np.array([low, high]))
    corners = to_hz(np.linspace(ends[0], ends[1], mels + 2))
    places = np.fft.rfftfreq(window, 1 / rate)[:, None]
    left, middle, right = corners[:-2], corners[1:-1], corners[2:]
    up, down = (places - left) / (middle - left), (right - places) / (right - middle)
    filters = np.maximum(0, np.minimum(up, down))
    if empty := int(np.sum(~filters.any(axis=0))):
        raise ValueError(
            f"{empty} of {mels} filters hold no frequency of a window of {window} numbers: take "
            "fewer mels or a larger window"
        )
    return filters * (2 / (right - left)) if norm == "slaney" else filters


def _times(a: Array | float, spectra: Complex[Array, "..."]) -> Complex[Array, "..."]:
    return jax.lax.complex(a * spectra.real, a * spectra.imag)


def _as(numbers: np.ndarray, dtype, ndim: int) -> Array:
    """These numbers with so many axes, the first of length 1."""
    return jnp.asarray(numbers, dtype).reshape((1,) * (ndim - numbers.ndim) + numbers.shape)
