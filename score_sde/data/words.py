"""Words, each padded to one length."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from score_sde.data.source import Arrays, Data
from score_sde.data.spelling import names_of
from score_sde.errors import DataError
from score_sde.types import Feature

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def words(
    path: str | os.PathLike | None = None,
    *,
    length: int = 12,
    test_fraction: float = 0.1,
    seed: int = 0,
) -> Data:
    """The part "text", int32 [length]: the words of a text in lower case, as often as it has them.
    0 is the padding behind a word, 1..26 are its letters.

    path: a text in UTF-8; by default the documentation within Python, of about 64,000 words (those
        of `help('topics')`; they change a little between versions).
    length: words with more letters are left out.
    test_fraction, seed: so many words, at random places, are for the test.

    Raises DataError where the file cannot be read or has less than 2 words, or test_fraction is not
    in (0, 0.5].
    """
    if not 0 < test_fraction <= 0.5:
        raise DataError(f"test_fraction must be in (0, 0.5], got {test_fraction}")
    found = re.findall(r"(?<!\w)[a-z]+(?!\w)", _text(path).lower())
    kept = [word for word in found if len(word) <= length]
    if len(kept) < 2:
        name = path or "the documentation within Python"
        raise DataError(
            f"{name} has {len(kept)} words of at most {length} letters, and it needs 2: take a "
            "longer text or a larger length"
        )
    rows = np.frombuffer("".join(word.ljust(length, "`") for word in kept).encode(), np.uint8)
    ids = rows.reshape(-1, length).astype(np.int32) - ord("`")  # the sign before "a"
    order = np.random.default_rng(seed).permutation(len(ids))
    last = max(1, round(test_fraction * len(ids)))
    test, train = (
        Arrays(text=ids[part], label=np.zeros(len(part), np.int32))
        for part in (order[:last], order[last:])
    )
    names = names_of(["", *LETTERS])
    text = Feature((length,), len(names), names=names)
    return Data("words", train, test, {"text": text, "label": Feature((), 1)})


def spelled(x: np.ndarray) -> list[str]:
    """The words of rows of tokens [n, length]; "?" where a mask or a letter follows a padding."""
    texts = []
    for row in np.asarray(x):
        word = "".join(("", *LETTERS)[i] if i >= 0 else "?" for i in row)
        padded = (row == 0).nonzero()[0]
        whole = not len(padded) or (row[padded[0] :] == 0).all()
        texts.append(word if whole else f"{word}?")
    return texts


def _text(path: str | os.PathLike | None) -> str:
    if path is None:
        from pydoc_data.topics import topics

        return "\n".join(topics[name] for name in sorted(topics))
    try:
        return Path(path).expanduser().read_bytes().decode()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8: {error}") from error
