"""Rows of a table as numbers, and what their columns are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.special import ndtri

from score_sde.data.source import Arrays, Data
from score_sde.errors import DataError
from score_sde.types import Column, Feature

__all__: list[str] = []  # nothing that a config can name

KNOTS = 201  # quantiles that a column remembers


def numeric(name: str, numbers: Float[np.ndarray, " n"]) -> Column:
    """The column of these real numbers, those of training.

    Raises DataError where they are all alike.
    """
    n = len(numbers)
    shares = np.linspace(0.5 / n, 1 - 0.5 / n, min(n, KNOTS))
    found = np.quantile(numbers, shares, method="hazen")
    # equal quantiles, of a number that many rows have, become one at the middle of their shares
    values, first, counts = np.unique(found, return_index=True, return_counts=True)
    if len(values) < 2:
        raise DataError(f"column {name!r} has the number {values[0]} in every row: leave it out")
    middle = (shares[first] + shares[first + counts - 1]) / 2
    return Column(
        name,
        values=tuple(values.tolist()),
        scores=tuple(ndtri(middle).tolist()),
        mean=float(np.mean(numbers)),
        std=float(np.std(numbers)),
    )


def table(
    name: str,
    columns: Sequence[Column],
    train: Float[np.ndarray, "n c"],
    test: Float[np.ndarray, "m c"],
    labels: tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]] | None = None,
    classes: int = 1,
) -> Data:
    """The data set of rows; the number of a category stands for it."""
    labels = labels or (np.zeros(len(train), np.int32), np.zeros(len(test), np.int32))
    first, second = (
        Arrays(row=rows.astype(np.float32), label=label.astype(np.int32))
        for rows, label in zip((train, test), labels, strict=True)
    )
    row = Feature((len(columns),), columns=tuple(columns))
    return Data(name, first, second, {"row": row, "label": Feature((), classes)})
