"""Rows of a table: CSV files, and pictures of how often which values are."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from score_sde.media import pictures
from score_sde.runtime.atomic import replacing

__all__ = ["table"]

GAP, TOP, BARS = 8, 20, 24  # pixels between cells and for labels above them; bars of a histogram


def table(
    columns: Sequence[tuple[str, Sequence[str]]], width: int = 120, height: int = 72
) -> Table:
    """The medium of tables, with the fields of `Table`."""
    known = tuple((name, tuple(categories)) for name, categories in columns)
    return Table(known, width, height)


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows float [c], with the numbers of categories.

    columns: the name of each, and its categories; none of a column of real numbers.
    width, height: of the histogram of a column, pixels.
    """

    columns: tuple[tuple[str, tuple[str, ...]], ...]
    width: int = 120
    height: int = 72

    suffix = ".csv"

    def save(self, path: Path, shown: Float[np.ndarray, "*n c"]) -> None:
        """Writes one row, or several, under the names of the columns."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([name for name, _ in self.columns])
        writer.writerows(self._fields(row) for row in shown.reshape(-1, len(self.columns)))
        with replacing(path) as file:
            file.write(text.getvalue().encode())

    def sheet(self, path: Path, shown: Float[np.ndarray, "n c"]) -> None:
        """Draws a histogram of each column, side by side, under its name."""
        names = [name for name, _ in self.columns]
        pictures.write_generated(path, self._histograms(shown[None], names))

    def rows(self, path: Path, shown: Float[np.ndarray, "n k c"], labels: Sequence[str]) -> None:
        """Draws n rows of k lists of the fields of a row of the table, each under its label."""
        from PIL import Image, ImageDraw, ImageFont

        n, k, c = shown.shape
        high, font = 13 * c + GAP, ImageFont.load_default(size=10)
        picture = Image.new("RGB", (k * (self.width + GAP) + GAP, TOP + n * high), "white")
        draw = ImageDraw.Draw(picture)
        for j, label in enumerate(labels):
            left = GAP + j * (self.width + GAP)
            draw.text((left + self.width / 2, TOP / 2), label, "black", font, anchor="mm")
            for i in range(n):
                fields = zip(self.columns, self._fields(shown[i, j]), strict=True)
                lines = "\n".join(f"{name} {field}" for (name, _), field in fields)
                draw.multiline_text((left, TOP + i * high), lines, "black", font)
        pictures.write_generated(path, picture)

    def over_time(
        self, path: Path, sheets: dict[int, Path], count: int, shape: tuple[int, ...]
    ) -> None:
        """Draws sheets of different steps below one another."""
        pictures.over_time(path, sheets, TOP + self.height, GAP)

    def _fields(self, row: Float[np.ndarray, " c"]) -> list[str]:
        """The shortest decimal numbers that are these in float32, and the names of categories."""
        return [
            categories[int(np.clip(round(float(value)), 0, len(categories) - 1))]
            if categories
            else str(np.float32(value))
            for value, (_, categories) in zip(row, self.columns, strict=True)
        ]

    def _histograms(self, shown: Float[np.ndarray, "n m c"], names: Sequence[str]) -> Any:
        from PIL import Image, ImageDraw, ImageFont

        step = self.width + GAP
        size = (len(names) * step + GAP, len(shown) * (TOP + self.height) + GAP)
        picture = Image.new("RGB", size, "white")
        draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=11)
        for j, (name, (_, categories)) in enumerate(zip(names, self.columns, strict=True)):
            left = GAP + j * step
            draw.text((left + self.width / 2, TOP / 2), name, "black", font, anchor="mm")
            for i, rows in enumerate(shown):
                values = rows[:, j][np.isfinite(rows[:, j])]
                bars, ends = len(categories) or BARS, None
                if categories:
                    ends = (-0.5, bars - 0.5)
                counts, _ = np.histogram(values, bars, ends)
                bottom = (i + 1) * (TOP + self.height)
                for b, count in enumerate(counts):
                    high = round(count / max(counts.max(), 1) * (self.height - 1))
                    x = [left + self.width * place / bars for place in (b, b + 1)]
                    if high:
                        draw.rectangle((x[0], bottom - high, x[1] - 1, bottom), "steelblue")
        return picture
