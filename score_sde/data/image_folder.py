"""A folder of image files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from score_sde.data.captions import caption_features, check_number, repeated
from score_sde.data.files import SUFFIXES, open_image
from score_sde.data.folder_captions import read_captions
from score_sde.data.labelled_files import files_under, labels_of
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
    caption_field: str | None = None,
    num_captions: int | None = None,
    label_field: str | None = None,
    num_classes: int | None = None,
) -> Data:
    """The png, jpg, jpeg, webp and bmp files under a folder, in the order of their paths.

    The class of an image is the topmost subfolder that it lies in, by sorted name; without
    subfolders every label is 0. Links are followed. Names that begin with a dot are passed over.

    image_size: images are centre-cropped to a square and resized to it (`resize.to_square`).
    channels: 1 (grey) or 3 (RGB).
    test_fraction: every `round(1 / test_fraction)`-th image is for the test.
    memory: decode everything once into memory, where it fits.
    caption_field: where captions are: a field of metadata.jsonl, such as "text", or ".txt" for text
        files beside the images (`folder_captions.read_captions`); None for no captions.
    num_captions: of each example: more are left out, fewer are repeated in turn; None for the
        largest number that an image has.
    label_field: a field of metadata.jsonl, such as "label", whose whole numbers are the classes, in
        the place of subfolders.
    num_classes: how many classes there are; None for those that there are images of.

    A folder that is missing is described all the same, with `num_classes` classes and
    `num_captions` captions, or one where these are None, since sampling needs no more; asked for
    examples, it raises DataError.

    Raises DataError where the folder holds fewer than two images, has images beside class folders,
    holds a link to a folder that it lies in, lacks captions or labels, or has more classes; and,
    when it is read, for a file that is not an 8-bit image.
    """
    root = Path(path).expanduser()
    if channels not in (1, 3):
        raise DataError(f"channels must be 1 or 3, got {channels}")
    if image_size < 1:
        raise DataError(f"image_size must be at least 1, got {image_size}")
    check_number(num_captions)
    shape = (image_size, image_size, channels)
    if not root.is_dir():
        return _absent(root, shape, num_classes or 1, (num_captions or 1) if caption_field else 0)
    files = files_under(root, SUFFIXES, "image")
    labels, classes = labels_of(root, files, label_field, num_classes)
    captions = read_captions(root, files, caption_field) if caption_field else {}
    k = bool(captions) and (num_captions or max(map(len, captions.values())))

    def read(file: Path) -> Example:
        array = to_square(open_image(root / file), image_size, channels)
        caption = {"caption": repeated(captions[file], k)} if captions else {}
        return {"image": array, "label": np.int32(labels[file])} | caption

    def source(indices: list[int]) -> Source:
        lazy = Mapped([files[i] for i in indices], read)
        return in_memory(lazy) if memory else lazy

    train, test = every_kth(len(files), test_fraction)
    features = labelled_images(shape, classes=classes) | caption_features(k)
    return Data(root.name, source(train), source(test), features)


def _absent(root: Path, shape: tuple[int, ...], classes: int, captions: int) -> Data:
    none = Absent(f"{root} is not a folder")
    return Data(
        root.name, none, none, labelled_images(shape, classes=classes) | caption_features(captions)
    )
