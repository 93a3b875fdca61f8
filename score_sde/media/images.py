"""Images: PNG files, and grids of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from score_sde.media import pictures


def images(width: int = 512, cell: int = 72) -> Images:
    """The medium of images, with the fields of `Images`."""
    return Images(width, cell)


@dataclasses.dataclass(frozen=True)
class Images:
    """Grey or RGB images, uint8 [h, w, 1 or 3], 0..255. Small ones are enlarged in pictures, by a
    whole factor.

    width: about how wide a sheet is, pixels. cell: about how large an image of `rows` is.
    """

    width: int = 512
    cell: int = 72

    suffix = ".png"

    def save(self, path: Path, shown: UInt8[np.ndarray, "h w c"]) -> None:
        """Writes one image."""
        pictures.write_generated(path, self.picture(shown))

    def sheet(self, path: Path, shown: UInt8[np.ndarray, "n h w c"]) -> None:
        """Draws a nearly square grid."""
        pictures.write_generated(path, self.grid(shown))

    def rows(
        self, path: Path, shown: UInt8[np.ndarray, "n k h w c"], labels: Sequence[str]
    ) -> None:
        """Draws n rows of k images, each column under its label."""
        pictures.write_generated(path, self.table(shown, labels))

    def over_time(
        self, path: Path, sheets: dict[int, Path], count: int, shape: tuple[int, ...]
    ) -> None:
        """Draws the first rows of sheets at different steps below one another."""
        pictures.over_time(path, sheets, *self.row_of(count, shape))

    def grid(self, shown: UInt8[np.ndarray, "n h w c"]) -> Any:
        """The picture of `sheet`."""
        n, h, w, c = shown.shape
        columns, scale, gap = self._layout(n, w)
        large = shown.repeat(scale, axis=1).repeat(scale, axis=2)
        cell_h, cell_w = h * scale + gap, w * scale + gap
        height = math.ceil(n / columns) * cell_h + gap
        canvas = np.full((height, columns * cell_w + gap, c), 128, np.uint8)
        for i, image in enumerate(large):
            top, left = gap + i // columns * cell_h, gap + i % columns * cell_w
            canvas[top : top + h * scale, left : left + w * scale] = image
        return self.picture(canvas)

    def table(self, shown: UInt8[np.ndarray, "n k h w c"], labels: Sequence[str]) -> Any:
        """The picture of `rows`."""
        from PIL import Image, ImageDraw, ImageFont

        n, k, h, w, _ = shown.shape
        scale = max(1, round(self.cell / max(h, w)))
        gap, top = 4, 20
        height, width = h * scale + gap, max(w * scale, 48) + gap
        canvas = Image.new("RGB", (k * width + gap, top + n * height), "white")
        draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=11)
        for j, label in enumerate(labels):
            place = (gap + (j + 0.5) * width - gap / 2, top / 2)
            draw.text(place, label, "black", font, anchor="mm")
            for i in range(n):
                large = shown[i, j].repeat(scale, axis=0).repeat(scale, axis=1)
                canvas.paste(self.picture(large), (gap + j * width, top + i * height))
        return canvas

    def row_of(self, count: int, shape: tuple[int, ...]) -> tuple[int, int]:
        """The height of a row of a sheet of so many images, with the gap above it; and the gap."""
        _, scale, gap = self._layout(count, shape[1])
        return shape[0] * scale + gap, gap

    def _layout(self, n: int, w: int) -> tuple[int, int, int]:
        """The columns, factor of enlargement and pixels between images of a sheet."""
        columns = math.ceil(math.sqrt(n))
        scale = max(1, self.width // (columns * (w + 1)))
        return columns, scale, max(1, scale // 2)

    @staticmethod
    def picture(image: UInt8[np.ndarray, "h w c"]) -> Any:
        """The image as Pillow has it."""
        from PIL import Image

        return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
