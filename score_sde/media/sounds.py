"""Sounds: WAV files, and PNG files of their spectrograms."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from score_sde.media import wav
from score_sde.media.images import Images
from score_sde.media.pictured import Pictured

SILENCE = -60.0  # decibels, of a power that is drawn black if nothing is louder
RANGE = 60.0  # decibels between white, the loudest of a picture, and black


def sounds(rate: int, window: int = 0, height: int = 64, width: int = 64) -> Sounds:
    """The medium of sounds, with the fields of `Sounds`."""
    return Sounds(rate, window, height, width)


@dataclasses.dataclass(frozen=True)
class Sounds(Pictured):
    """Sounds float [n, channels] in [-1, 1]. Pictures show the power of each time, to the right,
    and frequency, from 0 at the bottom to half the rate; the channels below one another. All sounds
    of a picture have one scale, of 60 decibels.

    rate: numbers a second.
    window: of a spectrum, numbers; 0 for about an eighth of a sound, at most 1024.
    height, width: of the spectrogram of a channel, pixels.
    """

    rate: int
    window: int = 0
    height: int = 64
    width: int = 64

    suffix = ".wav"

    def save(self, path: Path, shown: Float[np.ndarray, "l c"]) -> None:
        """Writes one sound, which says that a model made it (`wav.write_generated`)."""
        wav.write_generated(path, shown, self.rate)

    @property
    def images(self) -> Images:
        """Of spectrograms."""
        return Images(cell=self.height)

    def drawn(self, shown: Float[np.ndarray, "n l c"]) -> UInt8[np.ndarray, "n h w 1"]:
        """The spectrograms of all channels, below one another with a dark line between them."""
        power = spectrogram(np.moveaxis(shown, -1, 1), self._window(shown.shape[1]), self.width)
        rows = np.arange(self.height) * power.shape[-1] // self.height
        level = 10 * np.log10(power[..., rows] + np.finfo(np.float32).tiny)
        unit = np.clip(1 + (level - max(level.max(), SILENCE)) / RANGE, 0, 1)
        drawn = np.round(255 * unit).astype(np.uint8)[..., ::-1]  # high frequencies at the top
        below = np.swapaxes(drawn, -1, -2)  # [n, c, height, time]
        lined = np.pad(below, ((0, 0), (0, 0), (0, 1), (0, 0)))
        return lined.reshape(len(shown), -1, lined.shape[-1])[:, :-1, :, None]

    def _window(self, length: int) -> int:
        return self.window or min(1024, 2 ** max(4, round(math.log2(max(length, 16) / 8))))


def spectrogram(
    sounds: Float[np.ndarray, "*n l"], window: int, times: int
) -> Float[np.ndarray, "*n times frequencies"]:
    """The power of the Fourier transform under Hann's window around evenly spread times. A number
    that is not finite is 0."""
    sounds = np.nan_to_num(sounds, nan=0.0, posinf=0.0, neginf=0.0)
    length = sounds.shape[-1]
    padded = np.pad(sounds, [(0, 0)] * (sounds.ndim - 1) + [(window // 2, window // 2)])
    parts = np.lib.stride_tricks.sliding_window_view(padded, window, axis=-1)
    parts = parts[..., np.arange(times) * length // times, :]
    return np.abs(np.fft.rfft(parts * np.hanning(window + 1)[:-1], axis=-1)) ** 2
