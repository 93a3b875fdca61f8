"""A classifier of noisy images."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from score_sde.nets.layers import Dense
from score_sde.nets.ncsnpp import Encoder
from score_sde.types import Cond


class Classifier(Encoder):
    """The way down of a U-Net, a mean over the pixels, and a layer that gives logits, at first 0.

    `net.apply({"params": p}, x [b, h, w, c], noise [b], cond, train) -> [b, num_classes]`, as
    `NCSNpp`; cond is not read. It serves the guidance of Dhariwal & Nichol 2021 (arXiv:2105.05233),
    who pool by attention instead.

    Fields, beside those of `Encoder`:
        num_classes: the number of logits.
    """

    num_classes: int = 10

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        noise: Real[Array, " b"],
        cond: Cond | None = None,
        train: bool = False,
    ) -> Float[Array, "b n"]:
        h = self._input(x)
        block = self._blocks(self._embed(noise, h.dtype), train)
        h = self._middle(self._down(h, self._first(h), block)[-1], block)
        h = jnp.mean(nn.swish(self._group_norm(name="out_norm")(h)), axis=(1, 2))
        logits = Dense(self.num_classes, nn.initializers.zeros, name="out")
        return logits(h).astype(x.dtype)
