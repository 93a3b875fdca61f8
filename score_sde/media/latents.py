"""Latents of images: pictures of their first three channels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from score_sde.media.images import Images


def latents(spread: float = 1.5) -> Latents:
    """The medium of latents, with the fields of `Latents`."""
    return Latents(spread)


@dataclasses.dataclass(frozen=True)
class Latents:
    """Real numbers [h, w, c], shown as images of their first three channels (one, if there are
    fewer). They can be told apart in them, but the autoencoder alone can show the image.

    spread: the number that is white; its negative is black.
    """

    spread: float = 1.5
    inner: Images = dataclasses.field(default_factory=Images)

    suffix = ".png"

    def save(self, path: Path, shown: Float[np.ndarray, "h w c"]) -> None:
        """Writes one picture."""
        self.inner.save(path, self._colours(shown))

    def sheet(self, path: Path, shown: Float[np.ndarray, "n h w c"]) -> None:
        """Draws a nearly square grid."""
        self.inner.sheet(path, self._colours(shown))

    def rows(
        self, path: Path, shown: Float[np.ndarray, "n k h w c"], labels: Sequence[str]
    ) -> None:
        """Draws n rows of k latents, each column under its label."""
        self.inner.rows(path, self._colours(shown), labels)

    def over_time(
        self, path: Path, sheets: dict[int, Path], count: int, shape: tuple[int, ...]
    ) -> None:
        """Draws the first rows of sheets at different steps below one another."""
        self.inner.over_time(path, sheets, count, shape)

    def _colours(self, shown: Float[np.ndarray, "*s"]) -> UInt8[np.ndarray, "*t"]:
        channels = 3 if shown.shape[-1] >= 3 else 1
        unit = (np.nan_to_num(shown[..., :channels]) / self.spread + 1) / 2
        return np.round(255 * np.clip(unit, 0, 1)).astype(np.uint8)
