"""Curves: PNG files of lines over the number of a sample."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from score_sde.media import pictures

GAP, TOP = 4, 20  # pixels between cells, and for labels above them
COLOURS = ("black", "firebrick", "steelblue", "darkorange")  # of the lines of a cell, in turn


def curves(width: int = 96, height: int = 48) -> Curves:
    """The medium of curves, with the fields of `Curves`."""
    return Curves(width, height)


@dataclasses.dataclass(frozen=True)
class Curves:
    """Real signals float [l]. All curves of a picture have one scale, from the least number to the
    greatest.

    width, height: of the cell of a curve, pixels.
    """

    width: int = 96
    height: int = 48

    suffix = ".png"

    def save(self, path: Path, shown: Float[np.ndarray, "l"]) -> None:
        """Draws one curve."""
        self.sheet(path, shown[None])

    def sheet(self, path: Path, shown: Float[np.ndarray, "n l"]) -> None:
        """Draws a nearly square grid."""
        columns = _columns(len(shown))
        places = [(i // columns, i % columns) for i in range(len(shown))]
        pictures.write_generated(path, self._picture(shown, places))

    def rows(self, path: Path, shown: Float[np.ndarray, "n k l"], labels: Sequence[str]) -> None:
        """Draws n rows of k curves, each column under its label."""
        from PIL import ImageDraw, ImageFont

        n, k = shown.shape[:2]
        places = [(i, j) for i in range(n) for j in range(k)]
        picture = self._picture(shown.reshape(n * k, *shown.shape[2:]), places, top=TOP)
        draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=11)
        for j, label in enumerate(labels):
            middle = (GAP + j * (self.width + GAP) + self.width / 2, TOP / 2)
            draw.text(middle, label, "black", font, anchor="mm")
        pictures.write_generated(path, picture)

    def over_time(
        self, path: Path, sheets: dict[int, Path], count: int, shape: tuple[int, ...]
    ) -> None:
        """Draws the first rows of sheets at different steps below one another."""
        pictures.over_time(path, sheets, self.height + GAP, GAP)

    def _lines(self, shown: Float[np.ndarray, "n l"]) -> Float[np.ndarray, "n l 1"]:
        """The lines of each cell."""
        return shown[..., None]

    def _picture(
        self, shown: Float[np.ndarray, "n ..."], places: list[tuple[int, int]], top: int = 0
    ) -> Any:
        from PIL import Image, ImageDraw

        rows, columns = (1 + max(numbers) for numbers in zip(*places, strict=True))
        cell_h, cell_w = self.height + GAP, self.width + GAP
        picture = Image.new("RGB", (columns * cell_w + GAP, top + rows * cell_h + GAP), "white")
        draw = ImageDraw.Draw(picture)
        finite = shown[np.isfinite(shown)]
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
        unit = (np.nan_to_num(shown, nan=low, posinf=high, neginf=low) - low) / (high - low or 1)
        across = np.linspace(0, self.width - 1, shown.shape[1])
        for lines, (i, j) in zip(self._lines(unit), places, strict=True):
            x, y = GAP + j * cell_w, top + GAP + i * cell_h
            draw.rectangle((x, y, x + self.width - 1, y + self.height - 1), "whitesmoke")
            for curve, colour in zip(lines.T, itertools.cycle(COLOURS)):
                down = (1 - curve) * (self.height - 1)
                points = np.stack([x + across, y + down], axis=1).round().astype(int)
                draw.line([tuple(point) for point in points.tolist()], colour)
        return picture


def _columns(n: int) -> int:
    return math.ceil(math.sqrt(n))
