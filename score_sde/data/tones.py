"""A world of tones, whose pitch, timbre and envelope can be named and read back from a sound."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from score_sde.data.captions import caption_features
from score_sde.data.draws import Draws
from score_sde.data.source import Data, Example, Mapped, Source, labelled_reals
from score_sde.errors import DataError

__all__ = ["tones"]  # what a config can name

NOTES = ("A3", "Bb3", "B3", "C4", "Db4", "D4", "Eb4", "E4", "F4", "Gb4", "G4", "Ab4")
LOWEST = 220.0  # Hz, of the first note; the others follow in equal temperament
TIMBRES = {  # the amplitudes of the harmonics 1, 2, 3, 4
    "pure": (1.0, 0.0, 0.0, 0.0),
    "hollow": (1.0, 0.0, 0.6, 0.0),
    "bright": (1.0, 0.8, 0.6, 0.5),
}
ENVELOPES = {"steady": 0.0, "fading": -3.0, "swelling": 3.0}  # ln of the gain at the end over that
# at the start
PHRASINGS = ("a {timbre} tone at {note}, {envelope}", "{note}: a {envelope} {timbre} tone")
LOUDNESS = 0.12  # the root of the mean square; the largest peak is below 1
TRAIN, TEST, PROMPTS = range(3)  # each has random numbers of its own


class Tone(NamedTuple):
    """What can be named."""

    note: str
    timbre: str
    envelope: str


EVERY = tuple(Tone(*each) for each in itertools.product(NOTES, TIMBRES, ENVELOPES))


def frequency(note: str) -> float:
    """Of a note of NOTES, Hz."""
    return LOWEST * 2 ** (NOTES.index(note) / 12)


def tones(
    *, rate: int = 4000, length: int = 1024, train: int = 20_000, test: int = 1_000, seed: int = 0
) -> Data:
    """float32 [length, 1] in [-1, 1]: one tone from the start to the end, with two captions:

        g e^{s u} sum_k a_k sin(2 pi k f i / rate + p_k),   u = i / length

    f is the frequency of one of 12 notes; a_k are the amplitudes of a timbre, and s the slope of an
    envelope. Phases are uniform. g makes the root of the mean square 0.12 within a tenth. All are
    independent. The label is the number of the note. A sound depends on its number and the seed
    alone, on every machine.

    rate: numbers a second. length: of a sound.

    Raises DataError where the rate is at most twice the highest harmonic, a sound is shorter than
    ten periods of the lowest note, or a number of sounds is below 1.
    """
    highest = max(map(len, TIMBRES.values())) * frequency(NOTES[-1])
    if rate <= 2 * highest:
        raise DataError(f"rate must be above {2 * highest:.0f} a second, got {rate}")
    if length < 10 * rate / LOWEST:
        raise DataError(f"length must be at least {math.ceil(10 * rate / LOWEST)}, got {length}")
    if min(train, test) < 1:
        raise DataError(f"train and test must be at least 1, got {train} and {test}")

    def source(split: int, size: int) -> Source:
        def read(index: int) -> Example:
            draws = Draws((seed, split, index), 6)
            tone = draws.choice(EVERY)
            return {
                "sound": sound(tone, draws, rate, length),
                "label": np.int32(NOTES.index(tone.note)),
                "caption": np.array(captions(tone)),
            }

        return Mapped(range(size), read)

    features = labelled_reals("sound", (length, 1), classes=len(NOTES))
    features |= caption_features(len(PHRASINGS))
    return Data("tones", source(TRAIN, train), source(TEST, test), features)


def sound(tone: Tone, draws: Draws, rate: int, length: int) -> Float[np.ndarray, "length 1"]:
    """The sound of a tone. draws: of its phases and its loudness."""
    u = np.arange(length) / length
    cycles = frequency(tone.note) / rate * np.arange(length)
    wave = np.zeros(length)
    for k, amplitude in enumerate(TIMBRES[tone.timbre], 1):
        wave += amplitude * np.sin(2 * np.pi * k * cycles + np.pi * draws.wobble())
    wave *= np.exp(ENVELOPES[tone.envelope] * u)
    loudness = LOUDNESS * (1 + 0.1 * draws.wobble())
    return (wave * loudness / np.sqrt(np.mean(wave**2))).astype(np.float32)[:, None]


def captions(tone: Tone) -> list[str]:
    """Its name in every phrasing."""
    return [phrasing.format(**tone._asdict()) for phrasing in PHRASINGS]


def prompts(n: int, seed: int = 0) -> list[Tone]:
    """n tones to ask for."""
    return [Draws((seed, PROMPTS, i), 1).choice(EVERY) for i in range(n)]


def _vocabulary(every: Sequence[Tone]) -> tuple[str, ...]:
    said = " ".join(text for tone in every for text in captions(tone))
    return tuple(sorted(set(re.findall(r"\w+", said.lower()))))


VOCABULARY = _vocabulary(EVERY)
"""All words that captions have."""
