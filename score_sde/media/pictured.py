"""What media share whose samples are seen as images: one function makes the images."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Shaped, UInt8

from score_sde.media.images import Images

__all__: list[str] = []  # what a config can name: nothing, for this is no medium


class Pictured(abc.ABC):
    """A medium (`medium.Medium`) whose pictures are those of `drawn`. The file of a sample is a
    PNG, unless a class has another suffix and `save`."""

    suffix = ".png"

    @abc.abstractmethod
    def drawn(self, shown: Shaped[np.ndarray, "n ..."]) -> UInt8[np.ndarray, "n h w c"]:
        """An image of each sample, grey or RGB, 0..255. All are of one size."""

    @property
    def images(self) -> Images:
        """The medium of those images."""
        return Images()

    def save(self, path: Path, shown: Shaped[np.ndarray, "..."]) -> None:
        """Draws one sample."""
        self.images.save(path, self.drawn(shown[None])[0])

    def sheet(self, path: Path, shown: Shaped[np.ndarray, "n ..."]) -> None:
        """Draws a nearly square grid."""
        self.images.sheet(path, self.drawn(shown))

    def rows(self, path: Path, shown: Shaped[np.ndarray, "n k ..."], labels: Sequence[str]) -> None:
        """Draws n rows of k samples, each column under its label."""
        flat = self.drawn(shown.reshape(-1, *shown.shape[2:]))
        self.images.rows(path, flat.reshape(*shown.shape[:2], *flat.shape[1:]), labels)

    def over_time(
        self, path: Path, sheets: dict[int, Path], count: int, shape: tuple[int, ...]
    ) -> None:
        """Draws the first rows of sheets at different steps below one another."""
        one = self.drawn(np.zeros((1, *shape), np.float32))
        self.images.over_time(path, sheets, count, one.shape[1:])
