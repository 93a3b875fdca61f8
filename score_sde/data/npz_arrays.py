"""Images in an .npz file of arrays."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from score_sde.data.captions import caption_features, check_array, of_array, same_number
from score_sde.data.files import described, read_arrays
from score_sde.data.source import Arrays, Data, every_kth, labelled_images
from score_sde.errors import DataError, one_line
from score_sde.types import Feature

_MOST = 2**31 - 1  # classes, whose number is an int32 too
_WANTED = (
    "wanted are `image` (and `label`), or `train_images` and `test_images` (and `train_labels` and "
    "`test_labels`): images uint8 [n, h, w] or [n, h, w, c], labels integers >= 0 [n]"
)


def npz(
    path: str | os.PathLike,
    *,
    test_fraction: float = 0.1,
    num_values: int = 256,
    caption_field: str | None = None,
) -> Data:
    """The arrays `image`, `label` of a file, or its `{train,test}_images`, `{train,test}_labels`.

    Images are uint8 [n, h, w] or [n, h, w, c]; labels are integers [n] or [n, 1], or absent.

    test_fraction: where the file has one array, every `round(1 / test_fraction)`-th image is for
        the test.
    num_values: the images hold 0..num_values-1.
    caption_field: such as "captions", of the array with this name, or of `{train,test}_captions`:
        strings (dtype U) [n] or [n, k], of which blank ones are filling; None for no captions.

    Raises DataError where the file is missing, is no .npz, or holds something else.
    """
    file = Path(path).expanduser()
    arrays = read_arrays(file)
    there = described(arrays)
    mismatch = DataError(f"{file} holds {there}; {_WANTED}")

    def source(image_key: str, label_key: str) -> Arrays:
        if image_key not in arrays:
            raise mismatch
        image = arrays[image_key]
        if image.dtype != np.uint8 or image.ndim not in (3, 4) or not image.size:
            raise mismatch
        image = image.reshape(*image.shape[:3], -1)
        n = len(image)
        label = labels(file, arrays, label_key, n, mismatch)
        if image.max() >= num_values:
            raise DataError(
                f"{file}: {image_key} reaches {image.max()}, but num_values is {num_values}"
            )
        return Arrays(image=image, label=label)

    if "image" in arrays:
        whole = captioned(file, arrays, caption_field, ("",), [source("image", "label")])[0]
        train, test = (Arrays(**whole[i]) for i in every_kth(len(whole), test_fraction))
    else:
        both = [source(f"{split}_images", f"{split}_labels") for split in ("train", "test")]
        train, test = captioned(file, arrays, caption_field, ("train_", "test_"), both)
    shape, other = (source.parts["image"].shape[1:] for source in (train, test))
    if shape != other:
        raise mismatch
    classes = int(max(source.parts["label"].max() for source in (train, test))) + 1
    features = labelled_images(shape, num_values, classes) | captions_of(train)
    return Data(file.stem, train, test, features)


def labels(
    file: Path, arrays: dict[str, np.ndarray], name: str, n: int, mismatch: DataError
) -> Int[np.ndarray, " n"]:
    """The labels of n examples, int32; 0 where the file has none.

    Raises `mismatch` where they are no integers [n] or [n, 1], and DataError where one is no class.
    """
    label = arrays.get(name, np.zeros(n, np.int32))
    if label.dtype.kind not in "iu" or label.shape not in ((n,), (n, 1)):
        raise mismatch
    least, most = int(label.min()), int(label.max())
    if least < 0 or most >= _MOST:
        raise DataError(
            f"{file}: {name} runs from {least} to {most}; labels are 0 to classes - 1, at most "
            f"{_MOST - 1}"
        )
    return label.reshape(-1).astype(np.int32)


def captioned(
    file: Path,
    arrays: dict[str, np.ndarray],
    field: str | None,
    prefixes: Sequence[str],
    splits: Sequence[Arrays],
) -> list[Arrays]:
    """The splits with the captions in the arrays `prefix + field`; as they are where it is None.

    Raises DataError where an array is missing or an example has no caption.
    """
    if field is None:
        return list(splits)
    names = [prefix + field for prefix in prefixes]
    if absent := [name for name in names if name not in arrays]:
        texts = [name for name, array in arrays.items() if array.dtype.kind == "U"]
        held = one_line(", ".join(texts))
        raise DataError(
            f"{file} holds no array {absent[0]!r}; its arrays of strings are: {held or 'none'}"
        )
    texts = []
    for name, split in zip(names, splits, strict=True):
        array, where = arrays[name], f"{file}: {name}"
        check_array(array, len(split), where)
        texts.append([of_array(array, i, where) for i in range(len(array))])
    return [
        Arrays(**split.parts, caption=caption)
        for split, caption in zip(splits, same_number(*texts), strict=True)
    ]


def captions_of(source: Arrays) -> dict[str, Feature]:
    """The features of the captions of a source, if it has some."""
    return caption_features(source.parts["caption"].shape[1]) if "caption" in source.parts else {}
