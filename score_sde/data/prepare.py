"""Downloads and prepares a TFDS data set once, for `tfds` or `tfds_text` to read.

    python -m score_sde.data.prepare --dataset cifar10 [--data_dir DIR]

Needs TensorFlow where images are stored encoded (`pip install 'score_sde[prepare]'`); reading the
prepared data set does not.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from score_sde.data.tfds_images import find, prepared, resolve
from score_sde.errors import DataError


def download(dataset: str, data_dir: Path) -> None:
    """Prepares a data set as array_record files, whole or not at all.

    Raises DataError for an unknown name, a package that is missing, or a data set that lies there
    already in another format.
    """
    try:
        find(dataset, data_dir).download_and_prepare(file_format="array_record")
    except ImportError as error:
        cause: BaseException = error
        while cause.__cause__:  # TFDS puts the whole example into the outer messages
            cause = cause.__cause__
        raise DataError(
            f"preparing {dataset} needs a package that is not installed ({cause}): "
            "run `pip install 'score_sde[prepare]'`"
        ) from error
    prepared(dataset, data_dir)


def main(args: Sequence[str] | None = None) -> None:
    """The command line; exits with one line where something is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m score_sde.data.prepare",
        description="Prepare a TFDS data set so that it can be read without TensorFlow.",
    )
    parser.add_argument("--dataset", required=True, help="its TFDS name, such as cifar10")
    parser.add_argument("--data_dir", help="default: $TFDS_DATA_DIR, else ~/.cache/score_sde")
    options = parser.parse_args(args)
    try:
        download(options.dataset, resolve(options.data_dir))
    except DataError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
