"""Voxels: PLY files of those that are full, and pictures from three sides."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from score_sde.media.images import Images
from score_sde.media.pictured import Pictured
from score_sde.media.points import Points

__all__ = ["voxels"]


def voxels(width: int = 512) -> Voxels:
    """The medium of voxels, with the fields of `Voxels`."""
    return Voxels(width)


@dataclasses.dataclass(frozen=True)
class Voxels(Pictured):
    """Grids float [k, k, k, 1] of x, y, z, from -1, empty, to 1, full. Each is drawn from the
    front, from the right and from above, side by side, z upwards: the share of voxels behind one
    another that is full, black for all.

    width: about how wide a sheet is, pixels.
    """

    width: int = 512

    suffix = ".ply"

    def save(self, path: Path, shown: Float[np.ndarray, "k k k 1"]) -> None:
        """Writes the middles of the voxels above 0 as a cloud (`media.points`), in [-1, 1]."""
        full = np.argwhere(shown[..., 0] > 0)
        Points().save(path, (2 * full + 1) / shown.shape[0] - 1)

    @property
    def images(self) -> Images:
        """Of the sides."""
        return Images(self.width)

    def drawn(self, shown: Float[np.ndarray, "n k k k 1"]) -> UInt8[np.ndarray, "n k wide 1"]:
        """The three sides (`sides`)."""
        return sides(shown)


def sides(shown: Float[np.ndarray, "*n k k k 1"]) -> UInt8[np.ndarray, "*n k wide 1"]:
    """The three pictures side by side, 255 where nothing is. A number that is not finite is -1."""
    full = (np.clip(np.nan_to_num(shown[..., 0], nan=-1.0), -1, 1) + 1) / 2
    front, right, above = (full.mean(axis=axis) for axis in (-2, -3, -1))  # [x, z], [y, z], [x, y]
    seen = np.concatenate([front, right, above], axis=-2)  # to the right, then upwards
    upright = np.flip(np.swapaxes(seen, -1, -2), axis=-2)
    return np.round(255 * (1 - upright)).astype(np.uint8)[..., None]
