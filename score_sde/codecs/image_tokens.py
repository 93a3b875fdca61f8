"""Small images as tokens: a number of an image is a token."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Array, Float, Integer, Num, UInt8

from score_sde.codecs.codec import feature_of
from score_sde.codecs.pixels import Pixels
from score_sde.codecs.whole_numbers import WholeNumbers
from score_sde.types import Feature


def image_tokens(features: Mapping[str, Feature], *, part: str = "image") -> ImageTokens:
    """The codec of the images of a data set, with the fields of `ImageTokens`."""
    return ImageTokens(Pixels(feature_of(features, part), part))


@dataclasses.dataclass(frozen=True)
class ImageTokens(WholeNumbers):
    """x int [h w c], the values 0..n-1 of an image row by row, for discrete processes.

    inner: what shows the images.
    """

    inner: Pixels

    medium = "images"

    @property
    def part(self) -> str:
        """That of the images."""
        return self.inner.part

    @property
    def feature(self) -> Feature:
        """That of the images."""
        return self.inner.feature

    def quantize(self, reals: Float[Array | np.ndarray, "*b h w c"]) -> UInt8[Array, "*b h w c"]:
        """The nearest value; 0 of a mask."""
        return self.inner.quantize(reals)

    def show(self, reals: Num[Array | np.ndarray, "*b h w c"]) -> UInt8[Array, "*b h w c"]:
        """Values stretched to 0..255."""
        return self.inner.show_raw(self.quantize(reals))

    def show_raw(self, raw: Integer[Array | np.ndarray, "*b h w c"]) -> UInt8[Array, "*b h w c"]:
        """Values stretched to 0..255."""
        return self.inner.show_raw(raw)

    def raw_of(self, shown: Integer[Array | np.ndarray, "*b h w c"]) -> UInt8[Array, "*b h w c"]:
        """The nearest value of a number 0..255."""
        return self.inner.raw_of(shown)
