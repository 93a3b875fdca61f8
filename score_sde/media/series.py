"""Time series of several channels: PNG files of lines, a colour for each channel."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from score_sde.media.curves import Curves

__all__ = ["series"]  # what a config can name


def series(width: int = 96, height: int = 48) -> Series:
    """The medium of series, with the fields of `Curves`."""
    return Series(width, height)


@dataclasses.dataclass(frozen=True)
class Series(Curves):
    """Real series float [t, channels], as `Curves` of several lines."""

    def _lines(self, shown: Float[np.ndarray, "n t c"]) -> Float[np.ndarray, "n t c"]:
        return shown
