"""Real numbers, such as latents of images, in an .npz file of arrays."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from score_sde.data.files import described, read_arrays
from score_sde.data.npz_arrays import captioned, captions_of, labels
from score_sde.data.source import Arrays, Data, every_kth, labelled_reals
from score_sde.errors import DataError


def npz_reals(
    path: str | os.PathLike,
    *,
    part: str = "latent",
    test_fraction: float = 0.1,
    caption_field: str | None = None,
) -> Data:
    """The array `part` and `label` of a file, or its `{train,test}_{part}` and
    `{train,test}_label`. They stay in memory as they are, float16 too.

    Parts are floats [n, ...]; labels are integers [n] or [n, 1], or absent.

    test_fraction: where the file has one array, every `round(1 / test_fraction)`-th example is for
        the test.
    caption_field: of arrays of strings, as that of `npz`.

    Raises DataError where the file is missing, is no .npz, or holds something else, or numbers that
    are not finite.
    """
    file = Path(path).expanduser()
    arrays = read_arrays(file)
    there = described(arrays)
    mismatch = DataError(
        f"{file} holds {there}; wanted are `{part}` (and `label`), or `train_{part}` "
        f"and `test_{part}` (and `train_label` and `test_label`): floats [n, ...], labels integers "
        ">= 0 [n]"
    )

    def source(key: str, label_key: str) -> Arrays:
        values = arrays.get(key)
        if values is None or values.dtype.kind != "f" or values.ndim < 2 or not values.size:
            raise mismatch
        if not all(np.isfinite(example).all() for example in values):
            raise DataError(f"{file}: {key} has numbers that are not finite")
        label = labels(file, arrays, label_key, len(values), mismatch)
        return Arrays(**{part: values, "label": label})

    if part in arrays:
        whole = captioned(file, arrays, caption_field, ("",), [source(part, "label")])[0]
        train, test = (Arrays(**whole[i]) for i in every_kth(len(whole), test_fraction))
    else:
        both = [source(f"{split}_{part}", f"{split}_label") for split in ("train", "test")]
        train, test = captioned(file, arrays, caption_field, ("train_", "test_"), both)
    shape, other = (split.parts[part].shape[1:] for split in (train, test))
    if shape != other:
        raise mismatch
    classes = int(max(split.parts["label"].max() for split in (train, test))) + 1
    features = labelled_reals(part, shape, classes) | captions_of(train)
    return Data(file.stem, train, test, features)
