"""Rows of tokens of text files."""

from __future__ import annotations

import os
from pathlib import Path

from score_sde.data.source import Data
from score_sde.data.spelling import spelled
from score_sde.data.text_rows import MOST_BYTES, check_rows, rows, text_features
from score_sde.errors import DataError

__all__ = ["text_file"]  # what a config can name


def text_file(
    path: str | os.PathLike,
    *,
    length: int = 256,
    tokens: str = "bytes",
    test_fraction: float = 0.1,
    stride: int | None = None,
) -> Data:
    """The part "text", int32 [length], of a file, or of all .txt files of a folder one after the
    other. Its end is for the test; the last tokens that fill no row are left out.

    tokens: "bytes", "characters" or a file tokenizer.json, as `spelling.spelled` has them.
    stride: tokens between the starts of two training rows; `length` if it is None. Test rows do not
        overlap.

    Raises DataError where the file is missing, empty, no text in UTF-8 (bytes may be anything), or
    too short for a training row and a test row.
    """
    check_rows(length, stride)
    content = _content(Path(path).expanduser())
    (ids,), names = spelled(tokens, [content])
    n = len(ids) // length
    if n < 2:
        raise DataError(
            f"{path} has {len(ids)} tokens, too few for a training row and a test row of {length}: "
            "take a longer text or a smaller length"
        )
    if not 0 < test_fraction <= 0.5:
        raise DataError(f"test_fraction must be in (0, 0.5], got {test_fraction}")
    end = (n - max(1, round(test_fraction * n))) * length
    train, test = rows(ids[:end], length, stride), rows(ids[end:], length)
    return Data(Path(path).stem, train, test, text_features(length, names))


def _content(path: Path) -> bytes:
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    try:
        size = sum(file.stat().st_size for file in files)
        if size > MOST_BYTES:
            raise DataError(f"{path} has {size:,} bytes, more than {MOST_BYTES:,}: cut it")
        content = b"".join(file.read_bytes() for file in files)
    except OSError as error:
        raise DataError(f"{error.filename or path} cannot be read: {error.strerror}") from error
    if not content:
        raise DataError(f"{path} holds no text: it needs a text file, or a folder of .txt files")
    return content
