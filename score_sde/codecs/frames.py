"""Clips of video, frames of whole numbers, to the real numbers that a network sees, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from score_sde.codecs.codec import feature_of
from score_sde.codecs.pixels import Pixels
from score_sde.types import Feature


def frames(
    features: Mapping[str, Feature],
    *,
    part: str = "video",
    centered: bool = True,
    dequantize: bool = False,
) -> Frames:
    """The codec of the clips of a data set, with the fields of `Pixels`."""
    return Frames(feature_of(features, part), part, centered, dequantize)


@dataclasses.dataclass(frozen=True)
class Frames(Pixels):
    """`Pixels` of clips [frames, h, w, c]. Bits per dimension are those of a number of a frame."""

    part: str = "video"

    medium = "animation"
    axes = ("frames", "height", "width")
