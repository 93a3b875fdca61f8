"""Reads the pitch, the timbre and the envelope of a tone back from its sound."""

from __future__ import annotations

import functools
import math

import numpy as np
from jaxtyping import Complex, Float

from score_sde.data.tones import ENVELOPES, NOTES, TIMBRES, Tone, frequency

LOW, HIGH = 200.0, 450.0  # Hz, where a pitch is looked for: NOTES, with a margin
HARMONICS = max(map(len, TIMBRES.values()))
STEP = 5.0  # cents between the pitches that are tried
PARTS = 8  # of a sound, whose loudness gives the envelope
CLEAR = 0.5  # share of the energy in the harmonics of a tone: 1, or 0.75 if it fades
FAR = 0.3  # the distance from the amplitudes of a timbre, as a share, beyond which there is none
WILD = 0.3  # of ln of the loudness from a straight line, beyond which there is no envelope


def read_pitch(sound: Float[np.ndarray, "length c"], rate: int) -> float:
    """The pitch of a sound from LOW to HIGH, Hz: the greatest of

        P(f) = sum_k 2^{1 - k} |X(k f)|^2

    X is the Fourier transform of the sound under Hann's window. The weights decide between a pitch
    and the one an octave below, whose even harmonics are the same. A parabola through ln P at the
    best of the pitches that are tried and its neighbours gives the maximum.
    """
    pitches, waves = _waves(len(sound), rate)
    power = np.abs(np.einsum("fkn,nc->fkc", waves, sound.astype(float))) ** 2
    found = np.log(power.sum(axis=-1) @ 0.5 ** np.arange(HARMONICS) + np.finfo(float).tiny)
    best = min(max(int(np.argmax(found)), 1), len(found) - 2)
    before, here, after = found[best - 1 : best + 2]
    bend = before - 2 * here + after
    shift = 0.0 if bend >= 0 else float(np.clip((before - after) / (2 * bend), -1, 1))
    return float(pitches[best] * 2 ** (shift * STEP / 1200))


def cents(found: float, wanted: float) -> float:
    """The distance between two pitches, 1200 log2(found / wanted)."""
    return 1200 * math.log2(found / wanted)


def read_tone(sound: Float[np.ndarray, "length c"], rate: int) -> tuple[Tone, float]:
    """The nearest note, the timbre and the envelope of a sound, "none" where it has none of those
    that can be named; and its pitch, Hz."""
    pitch = read_pitch(sound, rate)
    note = min(NOTES, key=lambda name: abs(cents(pitch, frequency(name))))
    return Tone(note, _timbre(sound, rate, pitch), _envelope(sound)), pitch


def _timbre(sound: Float[np.ndarray, "length c"], rate: int, pitch: float) -> str:
    """By the amplitudes of the harmonics of this pitch, scaled to a norm of 1."""
    harmonics = pitch * np.arange(1, HARMONICS + 1)
    spectrum = np.einsum("kn,nc->kc", _transform(len(sound), rate, harmonics), sound.astype(float))
    found = np.sqrt(np.sum(np.abs(spectrum) ** 2, axis=-1))
    window = _hann(len(sound))
    energy = np.sum(window[:, None] * sound.astype(float) ** 2) * np.sum(window) / 2
    if not np.sum(found**2) > CLEAR * energy:
        return "none"
    found /= np.linalg.norm(found)
    away = {
        name: float(np.linalg.norm(found - np.array(a) / np.linalg.norm(a)))
        for name, a in TIMBRES.items()
    }
    best = min(away, key=lambda name: away[name])
    return best if away[best] < FAR else "none"


def _envelope(sound: Float[np.ndarray, "length c"]) -> str:
    """By a straight line through ln of the loudness of the parts of a sound."""
    parts = np.array_split(np.sum(sound.astype(float) ** 2, axis=-1), PARTS)
    loudness = np.log([np.mean(part) + np.finfo(float).tiny for part in parts]) / 2
    u = (np.arange(PARTS) + 0.5) / PARTS
    slope, level = np.polyfit(u, loudness, 1)
    if np.sqrt(np.mean((loudness - level - slope * u) ** 2)) > WILD:
        return "none"
    best = min(ENVELOPES, key=lambda name: abs(ENVELOPES[name] - slope))
    return best if abs(ENVELOPES[best] - slope) < 1 else "none"


@functools.lru_cache(maxsize=4)
def _waves(
    length: int, rate: int
) -> tuple[Float[np.ndarray, " f"], Complex[np.ndarray, "f k length"]]:
    """The pitches that are tried, and what transforms at their harmonics."""
    count = math.ceil(cents(HIGH, LOW) / STEP)
    pitches = LOW * 2 ** (STEP / 1200 * np.arange(count + 1))
    harmonics = pitches[:, None] * np.arange(1, HARMONICS + 1)
    return pitches, _transform(length, rate, harmonics)


def _transform(
    length: int, rate: int, frequencies: Float[np.ndarray, "*f"]
) -> Complex[np.ndarray, "*f length"]:
    """What gives the Fourier transform under Hann's window at these frequencies, Hz; 0 at those
    above half the rate."""
    phase = frequencies[..., None] * np.arange(length) / rate
    waves = _hann(length) * np.exp(-2j * np.pi * phase)
    return np.where(frequencies[..., None] < rate / 2, waves, 0)


def _hann(length: int) -> Float[np.ndarray, " length"]:
    return np.hanning(length + 2)[1:-1]
