"""Sound files that a user names."""

from __future__ import annotations

import importlib
import struct
import wave
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from score_sde.errors import DataError, foreign

__all__: list[str] = []  # what a config can name: nothing, for this is no data set

SUFFIXES = (".wav", ".flac")
_PART = 2**16  # numbers a channel


def read_sound(file: Path) -> tuple[Float[np.ndarray, "n channels"], int]:
    """A sound in [-1, 1], float32, and its rate, numbers a second. WAV files of whole numbers are
    read by Python itself, others and FLAC by soundfile.

    Raises:
      DataError: the file is missing, no such sound, cut off or empty; or soundfile is needed and
        not installed.
    """
    try:
        with file.open("rb") as opened:
            head = opened.read(12)
        size = file.stat().st_size
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    riff = head[:4] == b"RIFF" and head[8:] == b"WAVE"
    if riff and (there := struct.unpack("<I", head[4:8])[0] + 8) > size:
        raise DataError(
            f"{file} is cut off: it says that it has {there:,} bytes, and has {size:,}: make it "
            "anew"
        )
    with foreign(f"{file} cannot be read as a sound"):
        sound, rate = (_whole_numbers(file) if riff else None) or _by_soundfile(file)
    if not sound.size:
        raise DataError(f"{file} holds no sound")
    if not np.isfinite(sound).all():
        raise DataError(f"{file} has numbers that are not finite")
    return sound, rate


def _whole_numbers(file: Path) -> tuple[Float[np.ndarray, "n channels"], int] | None:
    """That of a WAV file of whole numbers of 8 to 32 bits; None of another."""
    try:
        with wave.open(str(file), "rb") as opened:
            channels, width, rate, count = opened.getparams()[:4]
            content = opened.readframes(count)
    except wave.Error:
        return None
    if len(content) != count * channels * width:
        raise DataError(
            f"{file} is cut off: it says that it has {count:,} numbers a channel, and has "
            f"{len(content) // (channels * width):,}: make it anew"
        )
    parts = np.frombuffer(content, np.uint8).reshape(-1, width)
    if width == 1:  # these are 0..255
        numbers = parts[:, 0].astype(np.int32) - 128
    else:  # little-endian, shifted to the upper bytes of 32 bits
        wide = np.zeros((len(parts), 4), np.uint8)
        wide[:, 4 - width :] = parts
        numbers = wide.view("<i4")[:, 0] >> (32 - 8 * width)
    sound = (numbers / 2.0 ** (8 * width - 1)).astype(np.float32)
    return sound.reshape(-1, channels), rate


def _by_soundfile(file: Path) -> tuple[Float[np.ndarray, "n channels"], int]:
    try:
        soundfile: Any = importlib.import_module("soundfile")
    except (ImportError, OSError) as error:  # the latter: it finds no libsndfile
        raise DataError(
            f"{file} is no WAV file of whole numbers, and soundfile, which reads others, is not "
            "installed: run `pip install 'score_sde[sound]'`"
        ) from error
    with soundfile.SoundFile(str(file)) as opened:
        count, rate = opened.frames, opened.samplerate
        parts = [np.zeros((0, opened.channels), np.float32)]
        # in parts: the head of a file may claim any number
        while len(part := opened.read(_PART, dtype="float32", always_2d=True)):
            parts.append(part)
        sound = np.concatenate(parts)
    if len(sound) != count:
        raise DataError(
            f"{file} is cut off: it says that it has {count:,} numbers a channel, and has "
            f"{len(sound):,}: make it anew"
        )
    return sound, int(rate)
