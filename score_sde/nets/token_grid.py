"""Networks of images for the tokens of an image."""

from __future__ import annotations

import flax.linen as nn
from jaxtyping import Array, Float, Real

from score_sde.nets.ncsnpp import NCSNpp
from score_sde.types import Cond


class TokenNCSNpp(NCSNpp):
    """The U-Net `ncsnpp.NCSNpp` of the tokens of an image, row by row: it reads one-hot vectors
    [b, h w, v] as an image of v channels, and gives as many numbers for each token.

    Fields, beside those of `NCSNpp`:
        height: h, the number of rows.

    Raises:
        ValueError: as `NCSNpp`; or the number of tokens is no multiple of the height.
    """

    height: int = 8

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b l v"],
        noise: Real[Array, " b"],
        cond: Cond | None = None,
        train: bool = False,
    ) -> Float[Array, "b l v"]:
        if x.shape[1] % self.height:
            raise ValueError(f"{x.shape[1]} tokens cannot be {self.height} rows: set net.height")
        grid = x.reshape(len(x), self.height, -1, x.shape[2])
        return super().__call__(grid, noise, cond, train).reshape(x.shape)
