"""Animations: animated PNG files of clips of video."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from score_sde.media import pictures
from score_sde.media.images import Images


def animation(width: int = 512, cell: int = 72, rate: float = 8.0) -> Animation:
    """The medium of clips, with the fields of `Animation`."""
    return Animation(width, cell, rate)


@dataclasses.dataclass(frozen=True)
class Animation:
    """Clips of grey or RGB frames, uint8 [frames, h, w, 1 or 3], 0..255. Every picture is an
    animated PNG whose frame i has frame i of all its clips, drawn as `Images` draws images.

    width, cell: as those of `Images`. rate: frames a second.

    Raises ValueError for a rate that is not positive.
    """

    width: int = 512
    cell: int = 72
    rate: float = 8.0

    suffix = ".png"

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise ValueError(f"rate must be above 0 frames a second, not {self.rate}")

    def save(self, path: Path, shown: UInt8[np.ndarray, "f h w c"]) -> None:
        """Writes one clip, in its own size."""
        self._write(path, [Images.picture(frame) for frame in shown])

    def sheet(self, path: Path, shown: UInt8[np.ndarray, "n f h w c"]) -> None:
        """Draws a nearly square grid in which all clips move."""
        self._write(path, [self._images.grid(shown[:, i]) for i in range(shown.shape[1])])

    def rows(
        self, path: Path, shown: UInt8[np.ndarray, "n k f h w c"], labels: Sequence[str]
    ) -> None:
        """Draws n rows of k clips, each column under its label."""
        frames = range(shown.shape[2])
        self._write(path, [self._images.table(shown[:, :, i], labels) for i in frames])

    def over_time(
        self, path: Path, sheets: dict[int, Path], count: int, shape: tuple[int, ...]
    ) -> None:
        """Draws the first rows of sheets at different steps below one another."""
        opened = {step: pictures.frames_of(sheets[step]) for step in pictures.chosen_steps(sheets)}
        layout = self._images.row_of(count, shape[1:])
        pages = zip(*opened.values(), strict=True)
        self._write(
            path,
            [
                pictures.below_one_another(dict(zip(opened, page, strict=True)), *layout)
                for page in pages
            ],
        )

    @property
    def _images(self) -> Images:
        return Images(self.width, self.cell)

    def _write(self, path, frames):
        pictures.write_animation(path, frames, round(1000 / self.rate))
