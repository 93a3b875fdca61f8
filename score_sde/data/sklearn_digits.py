"""Scikit-learn's handwritten digits: real images that come with a package, so need no download."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import tempfile
from pathlib import Path

from score_sde.data.source import Data
from score_sde.data.tfds_images import resolve, tfds
from score_sde.errors import DataError


def digits(*, data_dir: str | os.PathLike | None = None) -> Data:
    """1,500 train and 297 test images, 8x8x1 with 17 values, in 10 classes; held in memory.

    Prepared on first use (about two seconds) as a TFDS data set of our own, `sklearn_digits`.

    data_dir: where it is prepared; by default `$TFDS_DATA_DIR`, else `~/.cache/score_sde`.

    Raises DataError where that folder cannot be written or scikit-learn is missing.
    """
    root = resolve(data_dir)
    try:
        _prepare(root)
    except OSError as error:
        raise DataError(
            f"digits cannot be prepared in {root} ({error.strerror}): set data_dir or TFDS_DATA_DIR"
        ) from error
    except ImportError as error:
        raise DataError(f"digits needs scikit-learn ({error}): pip install scikit-learn") from error
    data = tfds("sklearn_digits:1.0.0", data_dir=root, memory=True)
    image = data.features["image"]._replace(values=17)
    return dataclasses.replace(data, name="digits", features={**data.features, "image": image})


def _prepare(root: Path) -> None:
    """Prepares the data set unless it is there, safely beside other processes that do the same.

    Each prepares in a folder of its own and renames it, so the data set appears whole or not at
    all, and the second process finds it done. (TFDS too prepares in a folder and renames it, but
    names the folder by Python's global random state, which processes with one seed share.)
    """
    target = root / "sklearn_digits" / "1.0.0"
    if target.exists():
        return
    from score_sde.data.digits_builder import SklearnDigits

    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=root, prefix=".prepare-") as own,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        SklearnDigits(data_dir=own).download_and_prepare(file_format="array_record")
        try:
            (Path(own) / "sklearn_digits" / "1.0.0").rename(target)
        except OSError:
            if not target.exists():
                raise
