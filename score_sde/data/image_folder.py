"""A folder of image files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from score_sde.data.files import SUFFIXES, listed, open_image
from score_sde.data.resize import to_square
from score_sde.data.source import (
    Absent,
    Data,
    Example,
    Mapped,
    Source,
    every_kth,
    in_memory,
    labelled_images,
)
from score_sde.errors import DataError


def folder(
    path: str | os.PathLike,
    *,
    image_size: int,
    channels: int = 3,
    test_fraction: float = 0.1,
    memory: bool = False,
) -> Data:
    """The png, jpg, jpeg, webp and bmp files under a folder, in the order of their paths.

    The class of an image is the topmost subfolder that it lies in, by sorted name; without
    subfolders every label is 0. Links are followed. Names that begin with a dot are passed over.

    image_size: images are centre-cropped to a square and resized to it (`resize.to_square`).
    channels: 1 (grey) or 3 (RGB).
    test_fraction: every `round(1 / test_fraction)`-th image is for the test.
    memory: decode everything once into memory, where it fits.

    A folder that is missing is described all the same, without classes, since sampling needs no
    more; asked for examples, it raises DataError.

    Raises DataError where the folder holds fewer than two images, has images beside class folders,
    or holds a link to a folder that it lies in; and, when it is read, for a file that is not an
    8-bit image.
    """
    root = Path(path).expanduser()
    if channels not in (1, 3):
        raise DataError(f"channels must be 1 or 3, got {channels}")
    if not root.is_dir():
        none = Absent(f"{root} is not a folder")
        return Data(root.name, none, none, labelled_images((image_size, image_size, channels)))
    files = sorted(
        file.relative_to(root) for file in _files(root, ()) if file.suffix.lower() in SUFFIXES
    )
    if not files:
        raise DataError(f"{root} holds no image ({', '.join(SUFFIXES)})")
    classes = sorted({file.parts[0] for file in files if len(file.parts) > 1})
    stray = [file for file in files if len(file.parts) == 1]
    if classes and stray:
        raise DataError(f"{root} has class folders, but {stray[0]} lies beside them")

    def read(file: Path) -> Example:
        array = to_square(open_image(root / file), image_size, channels)
        return {"image": array, "label": np.int32(classes.index(file.parts[0]) if classes else 0)}

    def source(indices: list[int]) -> Source:
        lazy = Mapped([files[i] for i in indices], read)
        return in_memory(lazy) if memory else lazy

    train, test = every_kth(len(files), test_fraction)
    features = labelled_images((image_size, image_size, channels), classes=max(len(classes), 1))
    return Data(root.name, source(train), source(test), features)


def _files(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    """The files under a folder, itself under those above. (`Path.rglob` passes over links.)"""
    target = folder.resolve()
    if target in above:
        raise DataError(f"{folder} is a link to {target}, which it lies in: remove it")
    for path in listed(folder):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _files(path, (*above, target))
        else:
            yield path
