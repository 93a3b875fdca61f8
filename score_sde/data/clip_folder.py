"""A folder of clips: animated pictures, arrays and video files."""

from __future__ import annotations

import importlib
import io
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from score_sde.data.captions import caption_features, check_number, repeated
from score_sde.data.files import check_pixels, described, read_arrays
from score_sde.data.folder_captions import read_captions
from score_sde.data.labelled_files import files_under, labels_of
from score_sde.data.resize import to_square
from score_sde.data.source import Absent, Data, Example, Mapped, Source, every_kth, in_memory
from score_sde.errors import DataError, foreign
from score_sde.types import Feature

__all__ = ["clip_folder"]  # what a config can name

PICTURES = (".gif", ".png", ".apng", ".webp")
MOVIES = (".mp4", ".mov", ".mkv", ".webm", ".avi")
SUFFIXES = (*PICTURES, ".npz", *MOVIES)


def clip_folder(
    path: str | os.PathLike,
    *,
    frames: int,
    image_size: int,
    channels: int = 3,
    longer: bool = False,
    test_fraction: float = 0.1,
    memory: bool = False,
    caption_field: str | None = None,
    num_captions: int | None = None,
    num_classes: int | None = None,
) -> Data:
    """The clips under a folder, in the order of their paths: animated gif, png, apng and webp; npz
    with an array `video`, uint8 [frames, h, w] or [frames, h, w, c]; and, with the extra `video`,
    mp4, mov, mkv, webm and avi. One file is one clip.

    Classes are subfolders, as those of `folder`, and links are followed as there.

    frames: of every clip. longer: take the first ones of files that have more.
    image_size: frames are centre-cropped to a square and resized to it (`resize.to_square`).
    channels: 1 (grey) or 3 (RGB). test_fraction, memory, caption_field, num_captions: as those of
        `folder`. num_classes: how many there are; None for the number of subfolders.

    A folder that is missing is described all the same, as `folder` does.

    Raises DataError where the folder holds fewer than two clips or clips beside class folders, or
    lacks captions, or has more classes; and, when it is read, for a file that is no such clip or of
    another length.
    """
    root = Path(path).expanduser()
    if channels not in (1, 3):
        raise DataError(f"channels must be 1 or 3, got {channels}")
    if frames < 1:
        raise DataError(f"frames must be at least 1, got {frames}")
    check_number(num_captions)
    clip = Feature((frames, image_size, image_size, channels), 256)
    if not root.is_dir():
        none = Absent(f"{root} is not a folder")
        k = (num_captions or 1) if caption_field else 0
        return Data(root.name, none, none, _features(clip, num_classes or 1, k))
    files = files_under(root, SUFFIXES, "clip")
    labels, classes = labels_of(root, files, None, num_classes)
    captions = read_captions(root, files, caption_field) if caption_field else {}
    k = bool(captions) and (num_captions or max(map(len, captions.values())))

    def read(file: Path) -> Example:
        video = read_clip(root / file, frames, image_size, channels, longer)
        caption = {"caption": repeated(captions[file], k)} if captions else {}
        return {"video": video, "label": np.int32(labels[file]), **caption}

    def source(indices: list[int]) -> Source:
        lazy = Mapped([files[i] for i in indices], read)
        return in_memory(lazy) if memory else lazy

    train, test = map(source, every_kth(len(files), test_fraction))
    features = _features(clip, classes, k)
    return Data(root.name, train, test, features)


def _features(clip: Feature, classes: int, captions: int) -> dict[str, Feature]:
    return {"video": clip, "label": Feature((), classes), **caption_features(captions)}


def read_clip(
    file: Path, frames: int, size: int, channels: int = 3, longer: bool = False
) -> UInt8[np.ndarray, "frames size size channels"]:
    """The frames of a file, as `clip_folder` takes them.

    Raises DataError for a file that is no clip, is damaged, or has another number of frames.
    """
    with foreign(f"{file} cannot be read as a clip"):
        # not all of a file that never ends, and no two large frames at once
        images = itertools.islice(_images(file), frames if longer else frames + 1)
        found = [to_square(image, size, channels) for image in images]
    if len(found) < frames:
        raise DataError(
            f"{file} has {len(found)} frames, and clips have {frames}: remove it, or set "
            "data.frames to the fewest that a file has, with data.longer=True"
        )
    if len(found) > frames:
        raise DataError(
            f"{file} has more than {frames} frames: data.longer=True takes the first ones"
        )
    return np.stack(found)


def _images(file: Path) -> Iterator[Any]:
    """The frames of a file, one after the other, as PIL images."""
    from PIL import Image, ImageSequence

    suffix = file.suffix.lower()
    if suffix in PICTURES:
        # Pillow allocates the length that a chunk claims; from a buffer it reads what is there
        with Image.open(io.BytesIO(file.read_bytes())) as picture:
            for frame in ImageSequence.Iterator(picture):
                check_pixels(file, frame)  # a frame may be larger than those before
                yield frame.convert("RGB")
        return
    for array in _array(file) if suffix == ".npz" else _movie(file):
        yield Image.fromarray(array)


def _array(file: Path) -> UInt8[np.ndarray, "f h w *c"]:
    """The array `video` of an .npz file; grey frames have no channels."""
    arrays = read_arrays(file)
    video = arrays.get("video")
    if video is None or video.dtype != np.uint8 or video.ndim not in (3, 4) or not video.size:
        raise DataError(
            f"{file} holds {described(arrays)}; wanted is `video`, uint8 [frames, h, w] or "
            "[frames, h, w, c]"
        )
    return video[..., 0] if video.ndim == 4 and video.shape[-1] == 1 else video


def _movie(file: Path) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    try:
        reader: Any = importlib.import_module("imageio.v3")
        importlib.import_module("av")
    except ImportError as error:
        raise DataError(
            f"{file} needs imageio and av, which are not installed: run "
            "`pip install 'score_sde[video]'`"
        ) from error
    return reader.imiter(file, plugin="pyav", format="rgb24")
