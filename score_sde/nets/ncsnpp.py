"""The U-Nets of score-based generative modeling: DDPM, DDPM++ and NCSN++ in one module."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from score_sde.nets.embedding import add_conditions, given
from score_sde.nets.encoder import Encoder
from score_sde.nets.layers import UpConv, add, conv
from score_sde.nets.resampling import upsample
from score_sde.types import Cond, expand, real_dtype

_OPTIONS = {"progressive": ("none", "output_skip", "residual")}


class NCSNpp(Encoder):
    """The U-Net of Song et al., "Score-based generative modeling through SDEs" (arXiv:2011.13456).

    `net.apply({"params": p}, x [b, h, w, c], noise [b], cond, train) -> [b, h, w, c]`. What the
    output means is up to the parametrization. The defaults are DDPM++ for CIFAR-10; the others are

    - DDPM (arXiv:2006.11239): num_res_blocks=2, resblock="ddpm", skip_rescale=False,
      min_group_size=1; as Ho et al. trained it, moreover attn_each_up_block=True;
    - NCSN++ on a VP or sub-VP SDE: fir=True, progressive_input="residual";
    - NCSN++ on a VE SDE: moreover embedding="fourier", scale_by_sigma=True, centered=False;
    - NCSN++ for 256 pixels and more: moreover progressive="output_skip",
      progressive_input="input_skip".

    Fields, beside those of `Encoder`:
        attn_each_up_block: whether attention on the way up follows each block of a level, as on the
            way down (Ho et al. 2020), or the last one only (Song et al. 2021).
        progressive: how the output is made: "none", from the last level; "output_skip", the sum of
            an output of every level; "residual", a pyramid that every level adds to.
        scale_by_sigma: whether the output is divided by `noise`, which must then be sigma.
        num_classes: 0, unconditional: no label is read; else cond["label"], int [b], chooses a
            vector that is added to the embedding of the noise, none where it is negative.
        cond_features: 0, or the dimensions d of cond["vector"], [b, d], which a linear layer adds
            to the embedding of the noise.
        cond_channels: 0, or the channels c of cond["image"], [b, h, w, c], which join those of x.

    Raises:
        ValueError: of an unknown option; scale_by_sigma without the Fourier embedding; an image
            that cannot be halved len(ch_mult) - 1 times; a condition that is missing or of another
            shape.
    """

    attn_each_up_block: bool = False
    progressive: str = "none"
    scale_by_sigma: bool = False
    num_classes: int = 0
    cond_features: int = 0
    cond_channels: int = 0

    def __post_init__(self):
        self._check_options(_OPTIONS)
        if self.scale_by_sigma and self.embedding != "fourier":
            raise ValueError(
                "scale_by_sigma=True needs embedding='fourier', whose noise argument is sigma; "
                "for labels divide in the parametrization"
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        noise: Real[Array, " b"],
        cond: Cond | None = None,
        train: bool = False,
    ) -> Float[Array, "b h w c"]:
        h = self._input(x)
        embedding = add_conditions(
            self._embed(noise, h.dtype),
            cond,
            num_classes=self.num_classes,
            cond_features=self.cond_features,
        )
        if self.cond_channels:
            image = given(cond, "image", (*x.shape[:3], self.cond_channels))
            h = jnp.concatenate([h, image.astype(h.dtype)], axis=-1)
        block = self._blocks(embedding, train)
        skips = self._down(h, block)
        h = self._middle(skips[-1], block)
        h = self._up(h, skips, x.shape[-1], block)
        if self.scale_by_sigma:
            h = h.astype(real_dtype(h))
            h = h / expand(noise.astype(h.dtype), h)
        return h.astype(x.dtype)

    def _up(self, h, skips, channels, block):
        """From the middle to the output."""
        pyramid = None
        for level, mult in reversed(list(enumerate(self.ch_mult))):
            for i in range(self.num_res_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = block(h, mult * self.nf, f"up_{level}_{i}")
                if self.attn_each_up_block and h.shape[1] in self.attn_resolutions:
                    h = self._attention(h, f"up_{level}_{i}_attn")
            if not self.attn_each_up_block and h.shape[1] in self.attn_resolutions:
                h = self._attention(h, f"up_{level}_attn")
            if self.progressive == "output_skip":
                out = self._head(h, channels, self.init_scale, f"up_{level}")
                pyramid = out if pyramid is None else upsample(pyramid, self._kernel) + out
            elif self.progressive == "residual" and pyramid is None:
                pyramid = self._head(h, h.shape[-1], 1.0, f"up_{level}")
            elif self.progressive == "residual":
                name = f"up_{level}_pyramid"
                pyramid = UpConv(h.shape[-1], self._kernel, name=name)(pyramid)
                pyramid = h = add(pyramid, h, self.skip_rescale)
            if level > 0:
                h = self._resample(h, "up", f"up_{level}_resample", block)
        if self.progressive == "output_skip":
            return pyramid
        return self._head(h, channels, self.init_scale, "out")

    def _head(self, h, features, init_scale, name):
        h = nn.swish(self._group_norm(name=f"{name}_norm")(h))
        return conv(h, features, init_scale=init_scale, name=f"{name}_conv")
