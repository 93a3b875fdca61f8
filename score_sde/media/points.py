"""Clouds of points: PLY files, and pictures from four sides."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from score_sde.media import pictures
from score_sde.runtime.atomic import replacing

__all__ = ["points"]

GAP, TOP = 4, 20  # pixels between cells, and for labels above them
# Of each side: the axis to the right, the axis upwards and the one towards the viewer.
FRONT = ((1, 0, 0), (0, 0, 1), (0, -1, 0))
RIGHT = ((0, 1, 0), (0, 0, 1), (1, 0, 0))
ABOVE = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
CORNER = (
    (0.5**0.5, 0.5**0.5, 0),
    (-(6**-0.5), 6**-0.5, (2 / 3) ** 0.5),
    (3**-0.5, -(3**-0.5), 3**-0.5),
)
SIDES = (FRONT, RIGHT, ABOVE, CORNER)


def points(cell: int = 64) -> Points:
    """The medium of clouds, with the fields of `Points`."""
    return Points(cell)


@dataclasses.dataclass(frozen=True)
class Points:
    """Clouds float [n, 3 + k]: x, y, z with z upwards, and k other numbers. Each is drawn four
    times in a square: from the front, from the right, from above and from a corner. Nearer points
    are darker. All clouds of a picture have one scale.

    cell: of one of the four, pixels.
    """

    cell: int = 64

    suffix = ".ply"

    def save(self, path: Path, shown: Float[np.ndarray, "n f"]) -> None:
        """Writes one cloud as a binary PLY file. A comment says that a model made it."""
        header = ["ply", "format binary_little_endian 1.0", f"comment {pictures.SOURCE}"]
        header += [f"element vertex {len(shown)}"]
        header += [f"property float {name}" for name in fields(shown.shape[1])]
        with replacing(path) as file:
            file.write(("\n".join([*header, "end_header"]) + "\n").encode())
            file.write(np.ascontiguousarray(shown, "<f4").tobytes())

    def sheet(self, path: Path, shown: Float[np.ndarray, "m n f"]) -> None:
        """Draws a nearly square grid."""
        columns = math.ceil(math.sqrt(len(shown)))
        places = [(i // columns, i % columns) for i in range(len(shown))]
        pictures.write_generated(path, self._picture(shown, places))

    def rows(self, path: Path, shown: Float[np.ndarray, "m k n f"], labels: Sequence[str]) -> None:
        """Draws m rows of k clouds, each column under its label."""
        from PIL import ImageDraw, ImageFont

        m, k = shown.shape[:2]
        places = [(i, j) for i in range(m) for j in range(k)]
        picture = self._picture(shown.reshape(m * k, *shown.shape[2:]), places, top=TOP)
        draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=11)
        for j, label in enumerate(labels):
            middle = (GAP + j * self._step + self.cell, TOP / 2)
            draw.text(middle, label, "black", font, anchor="mm")
        pictures.write_generated(path, picture)

    def over_time(
        self, path: Path, sheets: dict[int, Path], count: int, shape: tuple[int, ...]
    ) -> None:
        """Draws the first rows of sheets at different steps below one another."""
        pictures.over_time(path, sheets, self._step, GAP)

    @property
    def _step(self) -> int:
        """From one cloud to the next, pixels."""
        return 2 * self.cell + GAP

    def _picture(
        self, shown: Float[np.ndarray, "m n f"], places: list[tuple[int, int]], top: int = 0
    ) -> Any:
        from PIL import Image, ImageDraw

        rows, columns = (1 + max(numbers) for numbers in zip(*places, strict=True))
        size = (columns * self._step + GAP, top + rows * self._step + GAP)
        picture = Image.new("RGB", size, "white")
        draw = ImageDraw.Draw(picture)
        clouds = np.where(np.isfinite(shown[..., :3]), shown[..., :3], 0)
        reach = float(np.quantile(np.linalg.norm(clouds, axis=-1), 0.999)) or 1.0
        for cloud, (i, j) in zip(clouds / reach, places, strict=True):
            left, upper = GAP + j * self._step, top + GAP + i * self._step
            box = (left, upper, left + 2 * self.cell - 1, upper + 2 * self.cell - 1)
            draw.rectangle(box, "whitesmoke")
            for k, side in enumerate(SIDES):
                corner = left + k % 2 * self.cell, upper + k // 2 * self.cell
                self._side(draw, cloud @ np.transpose(side), corner)
        return picture

    def _side(self, draw: Any, seen: Float[np.ndarray, "n 3"], corner: tuple[int, int]) -> None:
        """Draws a cloud whose axes are those of the picture, the farthest points first."""
        seen = np.clip(seen[np.argsort(seen[:, 2])], -1, 1)
        half = (self.cell - 5) / 2
        wider = len(seen) <= 32  # few points are drawn larger
        for right, up, near in seen:
            x, y = corner[0] + 2 + half * (1 + right), corner[1] + 2 + half * (1 - up)
            x, y, grey = round(x), round(y), round(100 * (1 - near))
            draw.rectangle((x - wider, y - wider, x + 1, y + 1), (grey, grey, grey))


def fields(k: int) -> list[str]:
    """The names of the k numbers of a point: the three after x, y and z are a normal."""
    others = ["nx", "ny", "nz"] if k >= 6 else []
    known = ["x", "y", "z", *others]
    return known + [f"feature_{i}" for i in range(k - len(known))]
