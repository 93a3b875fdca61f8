"""WAV files of 16 bits that say that a model made them."""

from __future__ import annotations

import io
import struct
import wave
from pathlib import Path

import numpy as np
from jaxtyping import Float

from score_sde.errors import DataError
from score_sde.media import pictures
from score_sde.runtime.atomic import replacing

__all__: list[str] = []  # what a config can name: nothing, for this is no medium

CHUNK = b"_PMX"  # of an XMP packet in a RIFF file (XMP Specification, part 3)


def write_generated(path: Path, sound: Float[np.ndarray, "n c"], rate: int) -> None:
    """Writes a sound in [-1, 1] as a WAV file of whole numbers, round(32768 sound). Its XMP packet,
    in the chunk "_PMX", holds the digital source type trainedAlgorithmicMedia of the IPTC. Programs
    that save the sound again may leave it out."""
    numbers = np.clip(np.round(np.nan_to_num(sound) * 32768), -32768, 32767).astype("<i2")
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(sound.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(numbers.tobytes())
    packet = pictures.XMP.encode()
    packet += b" " * (len(packet) % 2)  # chunks have an even size
    riff = content.getvalue() + CHUNK + struct.pack("<I", len(packet)) + packet
    with replacing(path) as file:
        file.write(riff[:4] + struct.pack("<I", len(riff) - 8) + riff[8:])


def says_generated(path: Path) -> bool:
    """Whether a file is a WAV file that says that a model made it, as `write_generated` does.

    Raises:
      DataError: the file cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        return False
    place = 12
    while place + 8 <= len(content):
        kind, (size,) = content[place : place + 4], struct.unpack("<I", content[place + 4 :][:4])
        if kind == CHUNK:
            return pictures.SOURCE.encode() in content[place + 8 : place + 8 + size]
        place += 8 + size + size % 2
    return False
