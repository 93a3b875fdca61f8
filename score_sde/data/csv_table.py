"""A table in a .csv file."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from score_sde.data.source import Data, every_kth
from score_sde.data.table import numeric, table
from score_sde.errors import DataError, one_line
from score_sde.types import Column

__all__ = ["csv_table"]

MOST = 100  # categories of a column


def csv_table(
    path: str | os.PathLike,
    *,
    columns: Sequence[str] = (),
    categories: Sequence[str] = (),
    label_column: str | None = None,
    delimiter: str = ",",
    test_fraction: float = 0.1,
) -> Data:
    """The rows of a .csv file in UTF-8 whose first line has the names of the columns.

    A column in which each field is a number is numeric; another has categories, by sorted name.
    Quantiles, means and deviations are those of the training rows. Names of categories are those
    of all rows.

    columns: which of them, in this order; () for all.
    categories: columns whose numbers are names of categories, such as codes.
    label_column: whose categories are the labels, a condition, and no part of the row.
    test_fraction: every `round(1 / test_fraction)`-th row is for the test.

    Raises DataError, of one line, where the file is missing or no such table, a row has other
    fields than the first, a field is empty or not finite, or a column has one value or more than
    100 categories.
    """
    file = Path(path).expanduser()
    names, rows = _read(file, delimiter)
    chosen = list(columns) or [name for name in names if name != label_column]
    for name in (*chosen, *categories, *([label_column] if label_column else [])):
        if name not in names:
            raise DataError(f"{file} has no column {name!r}, only {one_line(', '.join(names))}")
    train, test = every_kth(len(rows), test_fraction)
    made, numbers = [], []
    for name in chosen:
        fields = [row[names.index(name)] for row in rows]
        column, found = _column(file, name, fields, train, name in categories)
        made.append(column)
        numbers.append(found)
    whole = np.stack(numbers, axis=1)
    labels, classes = None, 1
    if label_column is not None:
        fields = [row[names.index(label_column)] for row in rows]
        column, found = _column(file, label_column, fields, train, True)
        found = found.astype(np.int32)
        labels, classes = (found[train], found[test]), len(column.categories)
    return table(file.stem, made, whole[train], whole[test], labels, classes)


def _read(file: Path, delimiter: str) -> tuple[list[str], list[list[str]]]:
    """The names of the columns, and the fields of each row."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
        names, *rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    except FileNotFoundError as error:
        raise DataError(f"{file} does not exist") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{file} is empty, or is no text in UTF-8") from error
    except (csv.Error, TypeError) as error:
        raise DataError(f"{file} is no table: {error}") from error
    rows = [row for row in rows if row]  # blank lines
    if len(set(names)) < len(names) or not all(names):
        raise DataError(f"{file} has columns without a name, or two of one name: {one_line(names)}")
    for i, row in enumerate(rows):
        if len(row) != len(names):
            raise DataError(
                f"{file}: row {i + 1} has {len(row)} fields, and there are {len(names)}"
            )
    if len(rows) < 4:
        raise DataError(f"{file} has {len(rows)} rows, and a table needs at least 4")
    return names, rows


def _column(
    file: Path, name: str, fields: list[str], train: list[int], categories: bool
) -> tuple[Column, np.ndarray]:
    """A column and its numbers in all rows."""
    shown = one_line(name)
    for i, field in enumerate(fields):
        if not field.strip():
            raise DataError(f"{file}: row {i + 1} has no {shown!r}: fill it, or leave it out")
    numbers = None if categories else _numbers(fields)
    try:
        if numbers is not None:
            found = np.asarray(numbers)
            with np.errstate(over="ignore"):  # the next line finds what is too large
                single = found.astype(np.float32)
            if not np.isfinite(single).all():
                raise DataError(f"column {shown!r} has numbers that are not finite in float32")
            if len(np.unique(single)) < len(np.unique(found)):
                raise DataError(
                    f"column {shown!r} has numbers that are equal in float32: subtract an offset"
                )
            return numeric(name, found[train]), found
        known = sorted(set(fields))
        if not 2 <= len(known) <= MOST:
            raise DataError(
                f"column {shown!r} has {len(known)} categories, and 2 to {MOST} can be learnt: "
                "leave it out (data.columns)"
            )
    except DataError as error:
        raise DataError(f"{file}: {error}") from None
    return Column(name, tuple(known)), np.asarray([known.index(f) for f in fields], float)


def _numbers(fields: list[str]) -> list[float] | None:
    if any("_" in field for field in fields):  # which Python reads as nothing
        return None
    try:
        return [float(field) for field in fields]
    except ValueError:
        return None
