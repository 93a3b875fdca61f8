"""Rows of tokens of text files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from score_sde.data.source import Data, Mapped
from score_sde.errors import DataError
from score_sde.types import Feature

__all__ = ["text_file"]  # what a config can name

MOST_BYTES = 2**31  # of the files, which are held in memory


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

    tokens: "bytes", 256 values; "characters", those that there are, in the order of Unicode; or a
        file tokenizer.json of the library `tokenizers`.
    stride: tokens between the starts of two training rows; `length` if it is None. Test rows do not
        overlap.

    Raises DataError where the file is missing, empty, no text in UTF-8 (bytes may be anything), or
    too short for a training row and a test row.
    """
    content = _content(Path(path).expanduser())
    spelled = _SPELLINGS[tokens](content) if tokens in _SPELLINGS else _by_file(tokens, content)
    ids, rows = spelled.ids, len(spelled.ids) // length
    if length < 1 or rows < 2:
        raise DataError(
            f"{path} has {len(ids)} tokens, too few for a training row and a test row of {length}: "
            "take a longer text or a smaller length"
        )
    if not 0 < test_fraction <= 0.5:
        raise DataError(f"test_fraction must be in (0, 0.5], got {test_fraction}")
    end = (rows - max(1, round(test_fraction * rows))) * length
    train = range(0, end - length + 1, stride or length)
    test = range(end, rows * length, length)

    def read(start):
        return {"text": ids[start : start + length], "label": np.zeros((), np.int32)}

    text = Feature((length,), len(spelled.names), names=spelled.names)
    features = {"text": text, "label": Feature((), 1)}
    return Data(Path(path).stem, Mapped(train, read), Mapped(test, read), features)


class Spelled(NamedTuple):
    """The tokens of a text, int32 [n], and the bytes of each value (`Feature.names`)."""

    ids: np.ndarray
    names: tuple[str, ...]


def by_bytes(content: bytes) -> Spelled:
    """A token a byte."""
    names = tuple(bytes([i]).decode("latin-1") for i in range(256))
    return Spelled(np.frombuffer(content, np.uint8).astype(np.int32), names)


def by_characters(content: bytes) -> Spelled:
    """A token a character, of those that the text has.

    Raises DataError unless it is UTF-8.
    """
    code = np.array([*map(ord, _decoded(content))], np.int64)
    alphabet, ids = np.unique(code, return_inverse=True)
    return Spelled(ids.astype(np.int32), names_of([chr(c) for c in alphabet]))


_SPELLINGS = {"bytes": by_bytes, "characters": by_characters}


def names_of(texts: Sequence[str]) -> tuple[str, ...]:
    """The bytes of each text, as `Feature.names` has them."""
    return tuple(text.encode().decode("latin-1") for text in texts)


def _by_file(tokens: str, content: bytes) -> Spelled:
    from tokenizers import Tokenizer

    try:
        backend: Any = Tokenizer.from_file(tokens)
    except Exception as error:  # the library raises Exception itself
        raise DataError(
            f"tokens={tokens!r} is neither of {', '.join(_SPELLINGS)}, nor a tokenizer.json "
            f"({error})"
        ) from error
    ids = backend.encode(_decoded(content), add_special_tokens=False).ids
    texts = [
        backend.decode([i], skip_special_tokens=False) for i in range(backend.get_vocab_size())
    ]
    return Spelled(np.array(ids, np.int32), names_of(texts))


def _decoded(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"the text is not UTF-8 ({error}): take tokens='bytes'") from error


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
