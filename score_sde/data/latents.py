"""Latents of images, which an autoencoder made once, in files of NumPy."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from score_sde.data.captions import caption_features, check_array, of_array, repeated
from score_sde.data.source import Absent, Data, Example, Mapped, every_kth, labelled_reals
from score_sde.errors import DataError
from score_sde.runtime import npz_file


def latents(
    path: str | os.PathLike,
    *,
    test_fraction: float = 0.001,
    num_classes: int = 1000,
    caption_field: str | None = None,
) -> Data:
    """The arrays latents.npy, float16 or float32 [n, h, w, c], and labels.npy, integers [n], of a
    folder. They are read from the disk when asked for, so they may be larger than the memory.

    test_fraction: every `round(1 / test_fraction)`-th is for the test. num_classes: of the labels.
    caption_field: such as "captions", the name of a third file .npy: strings (dtype U) [n] or
        [n, k], of which blank ones are filling; None for no captions.

    Sampling needs no examples. So a missing folder counts as one of latents [64, 64, 4], with one
    caption if they have some; it raises DataError when it is asked for examples.

    Raises DataError where a file is missing or holds something else; and, when it is read, for an
    example without a caption.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        none = Absent(f"{root} is not a folder")
        features = labelled_reals("latent", (64, 64, 4), num_classes)
        features |= caption_features(int(bool(caption_field)))
        return Data(root.name, none, none, features)
    latent, label = (_array(root / name) for name in ("latents.npy", "labels.npy"))
    if latent.ndim != 4 or latent.dtype not in (np.float16, np.float32):
        raise DataError(f"{root}/latents.npy holds {latent.dtype} {list(latent.shape)}, not floats")
    if label.shape != latent.shape[:1] or label.dtype.kind not in "iu":
        raise DataError(f"{root}/labels.npy holds {label.dtype} {list(label.shape)}, not integers")
    least, most = int(label.min()), int(label.max())
    if least < 0 or most >= num_classes:
        raise DataError(
            f"{root}/labels.npy runs from {least} to {most}; labels are 0 to {num_classes - 1}"
        )

    caption, k = None, 0
    if caption_field is not None:
        caption = _array(root / f"{caption_field}.npy")
        check_array(caption, len(latent), root / f"{caption_field}.npy")
        k = caption.size // len(latent)

    def read(index: int) -> Example:
        example = {"latent": latent[index].astype(np.float32), "label": np.int32(label[index])}
        if caption is not None:
            texts = of_array(caption, index, root / f"{caption_field}.npy")
            example["caption"] = repeated(texts, k)
        return example

    train, test = (Mapped(indices, read) for indices in every_kth(len(latent), test_fraction))
    features = labelled_reals("latent", latent.shape[1:], num_classes) | caption_features(k)
    return Data(root.name, train, test, features)


def _array(file: Path) -> np.ndarray:
    try:
        return npz_file.mapped(file)
    except FileNotFoundError:
        raise DataError(f"{file} does not exist") from None
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(str(error)) from error
