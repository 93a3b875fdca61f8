"""A folder of sound files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from score_sde.data.captions import caption_features, check_number, repeated
from score_sde.data.folder_captions import read_captions
from score_sde.data.labelled_files import files_under, labels_of
from score_sde.data.sound_files import SUFFIXES, read_sound
from score_sde.data.source import (
    Data,
    Example,
    Mapped,
    Source,
    every_kth,
    in_memory,
    labelled_reals,
)
from score_sde.errors import DataError

__all__ = ["sound_folder"]  # what a config can name


class _Fit(NamedTuple):
    """What all sounds must have. cut: whether longer ones are cut."""

    rate: int
    length: int
    channels: int
    cut: bool

    def of(self, file: Path) -> Float[np.ndarray, "length channels"]:
        """The sound of a file. Raises DataError where it does not fit."""
        sound, rate = read_sound(file)
        n, channels = sound.shape
        if rate != self.rate:
            raise DataError(
                f"{file} has {rate} numbers a second, and others have {self.rate}: bring all to "
                "one rate"
            )
        if channels != self.channels:
            raise DataError(
                f"{file} has {channels} channels, and others have {self.channels}: make them equal"
            )
        if n < self.length or (n > self.length and not self.cut):
            raise DataError(
                f"{file} has {n} numbers a channel, and {self.length} are wanted: set data.length "
                "to the least that a file has"
            )
        return sound[: self.length]


def sound_folder(
    path: str | os.PathLike,
    *,
    rate: int | None = None,
    length: int | None = None,
    test_fraction: float = 0.1,
    memory: bool = False,
    caption_field: str | None = None,
    num_captions: int | None = None,
    label_field: str | None = None,
    num_classes: int | None = None,
) -> Data:
    """float32 [length, channels] in [-1, 1]: the WAV and FLAC files under a folder, in the order of
    their paths, with all their channels.

    Classes, captions and the split are as those of `folder` of images.

    rate: numbers a second, which all files must have; None for that of the first.
    length: of each example, numbers: longer sounds are cut at the end, shorter ones refused; None
        for that of the first, which all must have then.
    memory: decode everything once into memory, where it fits.

    Raises DataError where there is no such folder, or as `folder`; and, when it is read, for a file
    that is no sound, or of another rate, length or number of channels.
    """
    root = Path(path).expanduser()
    check_number(num_captions)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder")
    if length is not None and length < 1:
        raise DataError(f"length must be positive, got {length}")
    files = files_under(root, SUFFIXES, "sound")
    labels, classes = labels_of(root, files, label_field, num_classes)
    captions = read_captions(root, files, caption_field) if caption_field else {}
    k = bool(captions) and (num_captions or max(map(len, captions.values())))
    first, rate_there = read_sound(root / files[0])
    fit = _Fit(rate or rate_there, length or len(first), first.shape[1], length is not None)

    def read(file: Path) -> Example:
        caption = {"caption": repeated(captions[file], k)} if captions else {}
        sound = fit.of(root / file)
        return {"sound": sound, "label": np.int32(labels[file])} | caption

    def source(indices: list[int]) -> Source:
        lazy = Mapped([files[i] for i in indices], read)
        return in_memory(lazy) if memory else lazy

    train, test = every_kth(len(files), test_fraction)
    features = labelled_reals("sound", (fit.length, fit.channels), classes) | caption_features(k)
    return Data(root.name, source(train), source(test), features)
