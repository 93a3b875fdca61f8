"""Rows of tokens, cut from long texts."""

from __future__ import annotations

import numpy as np

from score_sde.data.source import Mapped
from score_sde.data.spelling import Ids
from score_sde.errors import DataError
from score_sde.types import Feature

MOST_BYTES = 2**31
"""Of a text, which is held in memory."""


def check_rows(length: int, stride: int | None) -> None:
    """Raises DataError for rows that there are not."""
    if length < 1 or (stride is not None and stride < 1):
        raise DataError(f"length and stride must be at least 1, got {length} and {stride}")


def rows(ids: Ids, length: int, stride: int | None = None) -> Mapped:
    """The part "text", int32 [length], of consecutive tokens; the last tokens that fill no row are
    left out.

    stride: tokens between the starts of two rows; `length` if it is None.
    """

    def read(start):
        return {"text": ids[start : start + length], "label": np.zeros((), np.int32)}

    return Mapped(range(0, len(ids) - length + 1, stride or length), read)


def text_features(length: int, names: tuple[str, ...]) -> dict[str, Feature]:
    """The features of such rows. names: the bytes of each value."""
    text = Feature((length,), len(names), names=names)
    return {"text": text, "label": Feature((), 1)}
