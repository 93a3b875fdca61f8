"""Latents of images, which an autoencoder made once, in files of NumPy."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from score_sde.data.source import Absent, Data, Example, Mapped, every_kth, labelled_reals
from score_sde.errors import DataError


def latents(
    path: str | os.PathLike, *, test_fraction: float = 0.001, num_classes: int = 1000
) -> Data:
    """The arrays latents.npy, float16 or float32 [n, h, w, c], and labels.npy, integers [n], of a
    folder. They are read from the disk when asked for, so they may be larger than the memory.

    test_fraction: every `round(1 / test_fraction)`-th is for the test. num_classes: of the labels.

    Sampling needs no examples. So a missing folder counts as one of latents [64, 64, 4]; it raises
    DataError when it is asked for examples.

    Raises DataError where a file is missing or holds something else.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        none = Absent(f"{root} is not a folder")
        return Data(root.name, none, none, labelled_reals("latent", (64, 64, 4), num_classes))
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

    def read(index: int) -> Example:
        return {"latent": latent[index].astype(np.float32), "label": np.int32(label[index])}

    train, test = (Mapped(indices, read) for indices in every_kth(len(latent), test_fraction))
    features = labelled_reals("latent", latent.shape[1:], num_classes)
    return Data(root.name, train, test, features)


def _array(file: Path) -> np.ndarray:
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{file} does not exist") from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{file} is damaged or is no .npy file ({error})") from error
