"""Tokens of whole words, from a list that a config states."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

__all__ = ["words"]  # what a config can name


def words(*, names: Sequence[str], length: int = 16) -> Words:
    """Whole words of this list, in lower case; words that are not in it are one unknown word.

    length: of the tokens; longer text is cut, with a warning.
    """
    return Words(tuple(names), length)


@dataclasses.dataclass(frozen=True)
class Words:
    """The number of each word, then -1. The last number means an unknown word.

    Raises ValueError for a list that is empty or has a word twice, or a length below 1.
    """

    names: tuple[str, ...]
    length: int

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) < len(self.names):
            raise ValueError("names are words, each once, such as ('red', 'circle')")
        if self.length < 1:
            raise ValueError(f"length must be at least 1, not {self.length}")

    pad = -1

    @property
    def digest(self) -> str:
        """SHA-256 of the words and the length."""
        return hashlib.sha256(repr((self.names, self.length)).encode()).hexdigest()

    @property
    def vocabulary(self) -> int:
        """How many different tokens there are."""
        return len(self.names) + 1

    def __call__(self, texts: Sequence[str]) -> Int[np.ndarray, "n length"]:
        """The tokens of each text, int32."""
        numbers = {name: i for i, name in enumerate(self.names)}
        found = np.full((len(texts), self.length), -1, np.int32)
        for row, text in zip(found, texts, strict=True):
            tokens = [numbers.get(w, len(self.names)) for w in re.findall(r"\w+", text.lower())]
            if len(tokens) > self.length:
                warnings.warn(
                    f"{text[:40]!r} has {len(tokens)} words: those after {self.length} are lost",
                    stacklevel=2,
                )
            kept = tokens[: self.length]
            row[: len(kept)] = kept
        return found

    def texts(self, tokens: Int[np.ndarray, "n length"]) -> list[str]:
        """The words of tokens; "?" is an unknown one."""
        names = (*self.names, "?")
        return [" ".join(names[i] for i in row if i >= 0) for row in np.asarray(tokens)]
