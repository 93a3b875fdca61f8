"""Rows of equal length, of the ids of texts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32

from score_sde.errors import ConfigError, DataError


@runtime_checkable
class Padded(Protocol):
    """The length of rows, and the id that fills them."""

    @property
    def length(self) -> int:
        """The tokens of a row."""
        ...

    @property
    def pad(self) -> int:
        """The id that fills a row behind the text."""
        ...


def rows_of(
    texts: Sequence[str],
    ids: list[list[int]],
    tokenizer: Padded,
    before: tuple[int, ...],
    after: tuple[int, ...],
    lost: Callable[[str, int], str],
) -> Int32[np.ndarray, "n length"]:
    """A row of ids for each text.

    before, after: ids around every text. lost: `(text, n) -> str`, the part of it behind its first
        n tokens.
    """
    left = room(tokenizer.length, before, after)
    rows = np.full((len(ids), tokenizer.length), tokenizer.pad, np.int32)
    for row, of_text in zip(rows, ids, strict=True):
        kept = (*before, *of_text[:left], *after)
        row[: len(kept)] = kept
    cut = [i for i, of_text in enumerate(ids) if len(of_text) > left]
    if cut:
        told = [
            f"{_short(texts[i])} loses its last {len(ids[i]) - left} tokens, "
            f"{_short(lost(texts[i], left))}"
            for i in cut[:3]
        ]
        more = [f"and so on for {len(cut) - 3} more"] if len(cut) > 3 else []
        warnings.warn(
            f"{len(cut)} of {len(ids)} texts are longer than {left} tokens and were cut: "
            + "; ".join(told + more),
            stacklevel=3,
        )
    return rows


def room(length: int, before: tuple[int, ...], after: tuple[int, ...]) -> int:
    """The tokens of a row that are left for text."""
    room = length - len(before) - len(after)
    if room < 1:
        raise ConfigError(f"length={length} leaves no room for text: rows begin or end with marks")
    return room


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


def checked(texts: Sequence[Any]) -> Sequence[str]:
    """The texts. Raises a DataError for one that is none."""
    if isinstance(texts, str):
        raise DataError(f"a tokenizer takes a list of texts, not one text: [{_short(texts)}]")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(f"text {i} is no string but a {type(text).__name__}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"text {i} is no Unicode: character {error.start} is half of a pair of surrogates; "
                "read the texts as UTF-8"
            ) from error
    return texts
