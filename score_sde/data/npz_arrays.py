"""Images in an .npz file of arrays."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from jaxtyping import Int

from score_sde.data.files import read_arrays
from score_sde.data.source import Arrays, Data, every_kth, labelled_images
from score_sde.errors import DataError

_MOST = 2**31 - 1  # classes, whose number is an int32 too
_WANTED = (
    "wanted are `image` (and `label`), or `train_images` and `test_images` (and `train_labels` and "
    "`test_labels`): images uint8 [n, h, w] or [n, h, w, c], labels integers >= 0 [n]"
)


def npz(path: str | os.PathLike, *, test_fraction: float = 0.1, num_values: int = 256) -> Data:
    """The arrays `image`, `label` of a file, or its `{train,test}_images`, `{train,test}_labels`.

    Images are uint8 [n, h, w] or [n, h, w, c]; labels are integers [n] or [n, 1], or absent.

    test_fraction: where the file has one array, every `round(1 / test_fraction)`-th image is for
        the test.
    num_values: the images hold 0..num_values-1.

    Raises DataError where the file is missing, is no .npz, or holds something else.
    """
    file = Path(path).expanduser()
    arrays = read_arrays(file)
    there = ", ".join(f"{k} {v.dtype} {list(v.shape)}" for k, v in arrays.items())
    mismatch = DataError(f"{file} holds {there or 'nothing'}; {_WANTED}")

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
        whole = source("image", "label")
        train, test = (Arrays(**whole[i]) for i in every_kth(len(whole), test_fraction))
    else:
        train, test = source("train_images", "train_labels"), source("test_images", "test_labels")
    shape, other = (source.parts["image"].shape[1:] for source in (train, test))
    if shape != other:
        raise mismatch
    classes = int(max(source.parts["label"].max() for source in (train, test))) + 1
    return Data(file.stem, train, test, labelled_images(shape, num_values, classes))


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
