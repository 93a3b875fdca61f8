"""Maps: PNG files of real numbers on a grid, a grey picture for each channel."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, UInt8

from score_sde.media.images import Images
from score_sde.media.pictured import Pictured


def maps(width: int = 512) -> Maps:
    """The medium of maps, with the fields of `Maps`."""
    return Maps(width)


@dataclasses.dataclass(frozen=True)
class Maps(Pictured):
    """Real numbers float [h, w, c], such as latents of images: the channels side by side. All maps
    of a picture have one scale, from the least number, black, to the greatest, white.

    width: about how wide a sheet is, pixels.
    """

    width: int = 512

    @property
    def images(self) -> Images:
        """Of the channels."""
        return Images(self.width)

    def drawn(self, shown: Float[np.ndarray, "n h w c"]) -> UInt8[np.ndarray, "n h wide 1"]:
        """The channels side by side (`grey`)."""
        return grey(shown)


def grey(shown: Float[np.ndarray, "*n h w c"]) -> UInt8[np.ndarray, "*n h wide 1"]:
    """The channels side by side, from the least number, 0, to the greatest, 255. A number that is
    not finite is 0."""
    finite = shown[np.isfinite(shown)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    unit = (np.nan_to_num(shown, nan=low, posinf=low, neginf=low) - low) / (high - low or 1)
    beside = np.moveaxis(np.round(255 * unit), -1, -2)  # [*n, h, c, w]
    return beside.reshape(*shown.shape[:-2], -1, 1).astype(np.uint8)
