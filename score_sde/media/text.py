"""Text: .txt files, and pictures of lines."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from score_sde.media import pictures
from score_sde.runtime.atomic import replacing

GAP, LINE = 8, 15  # pixels around a cell, and of a line
LETTER = 7.0  # pixels, about the width of a letter
END = "\N{PILCROW SIGN} "  # of a line, in pictures


def text(width: int = 300, lines: int = 3) -> Text:
    """The medium of text, with the fields of `Text`."""
    return Text(width, lines)


@dataclasses.dataclass(frozen=True)
class Text:
    """Texts uint8 [l, m], the bytes of each of l tokens in UTF-8 with zeros behind.

    width: of the cell of a text in a picture, pixels. lines: of a cell; what is longer is cut.
    """

    width: int = 300
    lines: int = 3

    suffix = ".txt"

    def save(self, path: Path, shown: UInt8[np.ndarray, "l m"]) -> None:
        """Writes one text, in UTF-8."""
        with replacing(path) as file:
            file.write(text_of(shown).encode())

    def sheet(self, path: Path, shown: UInt8[np.ndarray, "n l m"]) -> None:
        """Draws texts in three columns."""
        cells = [shown[i : i + 3] for i in range(0, len(shown), 3)]
        pictures.write_generated(path, self._picture([[*row] for row in cells], ()))

    def rows(self, path: Path, shown: UInt8[np.ndarray, "n k l m"], labels: Sequence[str]) -> None:
        """Draws n rows of k texts, each column under its label."""
        pictures.write_generated(path, self._picture([[*row] for row in shown], labels))

    def over_time(
        self, path: Path, sheets: dict[int, Path], count: int, shape: tuple[int, ...]
    ) -> None:
        """Draws the first rows of sheets at different steps below one another."""
        pictures.over_time(path, sheets, self.lines * LINE + GAP, GAP)

    def _picture(self, cells: Sequence[Sequence[np.ndarray]], labels: Sequence[str]) -> Any:
        from PIL import Image, ImageDraw, ImageFont

        letters = max(1, int(self.width / LETTER))
        wrapped = [
            [textwrap.wrap(_visible(text_of(cell)), letters)[: self.lines] for cell in row]
            for row in cells
        ]
        height, top = self.lines * LINE + GAP, GAP + (LINE + GAP if labels else 0)
        columns = max(len(row) for row in wrapped)
        size = (columns * (self.width + GAP) + GAP, top + len(wrapped) * height)
        picture = Image.new("RGB", size, "white")
        draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=12)
        for j, label in enumerate(labels):
            draw.text((GAP + j * (self.width + GAP), GAP / 2), label, "dimgrey", font)
        for i, row in enumerate(wrapped):
            for j, lines in enumerate(row):
                for k, line in enumerate(lines):
                    place = (GAP + j * (self.width + GAP), top + i * height + k * LINE)
                    draw.text(place, line, "black", font)
        return picture


def text_of(shown: UInt8[np.ndarray, "l m"]) -> str:
    """The text of these bytes; the sign U+FFFD where they are no UTF-8."""
    return shown.tobytes().replace(b"\0", b"").decode(errors="replace")


def _visible(text: str) -> str:
    """With a sign for what ends a line."""
    return "".join(c if c.isprintable() else END for c in text)
