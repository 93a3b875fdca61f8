"""Spoken words, by the speech synthesiser espeak-ng."""

from __future__ import annotations

import itertools
import math
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.signal import resample_poly

from score_sde.data.captions import caption_features
from score_sde.data.sound_files import read_sound
from score_sde.data.source import Arrays, Data, every_kth, labelled_reals
from score_sde.errors import DataError

__all__ = ["spoken_words"]  # what a config can name

PROGRAM = "espeak-ng"
LONGEST = 60  # seconds for a word
LETTERS, VOICE = r"[^\W\d_]+", r"[a-zA-Z0-9]+([-+_][a-zA-Z0-9]+)*"


class Spoken(NamedTuple):
    """A word as it is said. pitch: 0 to 99. speed: words a minute."""

    word: str
    voice: str
    pitch: int
    speed: int


def spoken_words(
    *,
    words: Sequence[str] = ("yes", "no", "up", "down", "left", "right", "stop", "go"),
    voices: Sequence[str] = ("en-us", "en-gb"),
    pitches: Sequence[int] = (30, 40, 50, 60, 70),
    speeds: Sequence[int] = (150, 175, 200),
    rate: int = 8000,
    length: int = 8192,
    test_fraction: float = 0.1,
) -> Data:
    """float32 [length, 1] in [-1, 1]: every word in every voice, pitch and speed, followed by
    silence. The label is the number of the word, the caption the word. All are made at once, some
    tens of milliseconds each, and stay in memory.

    words: of letters. voices: names of espeak-ng, such as "en-us" or "de+f2".
    pitches: 0 to 99. speeds: 80 to 450 words a minute.
    rate: numbers a second. length: of a sound; longer words are refused.

    Raises DataError where espeak-ng is not installed, does not know a voice or says nothing; or an
    option is out of range.
    """
    _check(words, voices, pitches, speeds, rate, length)
    program = shutil.which(PROGRAM)
    if program is None:
        raise DataError(
            f"spoken_words needs {PROGRAM}, which is not installed: get it (on Debian `apt-get "
            "install espeak-ng`, on a Mac `brew install espeak-ng`)"
        )
    # so that one in k examples is not always of the same word
    ways = itertools.product(speeds, pitches, voices)
    every = [Spoken(word, v, p, s) for s, p, v in ways for word in words]
    with tempfile.TemporaryDirectory() as folder:
        sounds = [_sound(program, each, Path(folder), rate, length) for each in every]
    train, test = (
        Arrays(
            sound=np.stack([sounds[i] for i in split])[..., None],
            label=np.array([words.index(every[i].word) for i in split], np.int32),
            caption=np.array([[every[i].word] for i in split]),
        )
        for split in every_kth(len(every), test_fraction)
    )
    features = labelled_reals("sound", (length, 1), len(words)) | caption_features(1)
    return Data("spoken_words", train, test, features)


def _sound(
    program: str, said: Spoken, folder: Path, rate: int, length: int
) -> Float[np.ndarray, " length"]:
    """What the program says, at this rate."""
    file = folder / "word.wav"
    file.unlink(missing_ok=True)
    arguments = ["-v", said.voice, "-p", str(said.pitch), "-s", str(said.speed), "-w", str(file)]
    try:
        ended = subprocess.run(
            [program, *arguments, "--", said.word],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LONGEST,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DataError(f"{PROGRAM} does not say {said.word!r}: {error}") from error
    if ended.returncode or not file.exists():
        reason = " ".join(ended.stderr.decode(errors="replace").split())
        raise DataError(f"{PROGRAM} does not say {said.word!r} with {said.voice!r}: {reason}")
    sound, there = read_sound(file)
    divisor = math.gcd(rate, there)
    wave = resample_poly(sound[:, 0].astype(float), rate // divisor, there // divisor)
    if len(wave) > length:
        raise DataError(
            f"{said.word!r} takes {len(wave)} numbers at {rate} a second, and length is {length}: "
            "take a larger length"
        )
    return np.pad(np.clip(wave, -1, 1), (0, length - len(wave))).astype(np.float32)


def _check(words, voices, pitches, speeds, rate, length) -> None:
    for name, texts, pattern in (("words", words, LETTERS), ("voices", voices, VOICE)):
        for text in texts:
            if not re.fullmatch(pattern, text):
                raise DataError(f"{name}: {text!r} is no name of letters, such as 'yes' or 'en-us'")
    for name, numbers, least, most in (("pitches", pitches, 0, 99), ("speeds", speeds, 80, 450)):
        for number in numbers:
            if not least <= number <= most:
                raise DataError(f"{name} are from {least} to {most}, got {number}")
    if not (words and voices and pitches and speeds):
        raise DataError("words, voices, pitches and speeds name at least one each")
    if len(set(words)) < len(words):
        raise DataError("words are all different")
    if rate < 1 or length < 1:
        raise DataError(f"rate and length must be positive, got {rate} and {length}")
