"""The U-Net of latent diffusion with a context (Rombach et al. 2022, arXiv:2112.10752), as Stable
Diffusion 1, 2 and XL (Podell et al. 2023, arXiv:2307.01952) have it."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

from score_sde.nets.checks import check_fields, check_size
from score_sde.nets.embedding import (
    add_numbers,
    embed,
    given,
    positional_features,
    with_changes,
)
from score_sde.nets.layers import DownConv, GroupNorm, ResBlock, UpConv, conv, dense
from score_sde.nets.remat import POLICIES, saving_memory
from score_sde.nets.spatial_transformer import Context, SpatialTransformer
from score_sde.types import Cond

group_norm = functools.partial(GroupNorm, 1)


class ConditionalUNet(nn.Module):
    """A U-Net whose stages have transformers, which read a context; the defaults make that of
    Stable Diffusion 1.

    `net.apply({"params": p}, x [b, h, w, c], noise [b], cond, train) -> [b, h, w, c]`. In Stable
    Diffusion x is a latent, noise the number 0..999 of a step, and cond["context"] the text's
    tokens. XL also reads cond["vector"], the pooled text, and cond["sizes"]: height and width of
    the original image, top and left of its crop, height and width of the target. cond["control"] is
    optional: what ControlNets add to the feature maps (`nets.controlnet`). At the start the output
    is almost 0.

    Fields:
        channels: those of the first stage if its multiple is 1; the noise is embedded in 4 channels
            for each.
        ch_mult: channels of each stage, in multiples of `channels`; each stage after the first
            works on an image of half the size.
        num_res_blocks: residual blocks of a stage on the way down; there is one more on the way up.
        depths: for each stage, the transformer blocks after each of its residual blocks; 0 is no
            transformer.
        mid_depth: those of the transformer in the middle; 0 is none.
        num_heads: heads of each attention, one number or one for each stage; the middle has those
            of the last stage.
        linear_projection: whether the layers around transformer blocks are dense, else convolutions
            of one pixel, as in Stable Diffusion 1: the same function, with kernels of another
            shape.
        context_features: the dimensions d of cond["context"], [b, m, d]. cond["context_mask"],
            [b, m], is optional: blocks ignore the tokens where it is False.
        cond_features: 0, or the dimensions d of cond["vector"], [b, d].
        sizes: 0, or the numbers n of cond["sizes"], [b, n]. Each becomes `size_features` sines and
            cosines. These and the vector, in one perceptron, add to the embedding of the noise.
        size_features: see `sizes`.
        cond_channels: 0, or the channels of cond["image"], [b, h, w, channels], read beside x: 5 in
            networks for inpainting, 4 in InstructPix2Pix.
        out_channels: those of the output; 0 is as many as x has.
        groups: of the normalisations (a smaller number where it does not divide the channels).
        numbers: names of conditions, float [b], each embedded beside the noise level; ("jump",)
            makes a flow map (`models.flow_map`).
        dropout: its rate in the residual blocks, used when `train`, with the rng "dropout".
        dtype: of the computation, by default that of x. Parameters are always float32; statistics
            of the normalisation, and the softmax, are at least float32.
        remat: which results inside residual and transformer blocks are computed again for the
            gradient: "none", "elementwise" (all but convolutions and products) or "all".

    Raises:
        ValueError: an unknown option; depths or heads for another number of stages; heads that do
            not divide the channels; an image that cannot be halved len(ch_mult) - 1 times; a
            condition that is missing or of another shape.
    """

    channels: int = 320
    ch_mult: tuple[int | float, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    depths: tuple[int, ...] = (1, 1, 1, 0)
    mid_depth: int = 1
    num_heads: int | tuple[int, ...] = 8
    linear_projection: bool = False
    context_features: int = 768
    cond_features: int = 0
    sizes: int = 0
    size_features: int = 256
    cond_channels: int = 0
    out_channels: int = 0
    groups: int = 32
    numbers: tuple[str, ...] = ()
    dropout: float = 0.0
    dtype: Any = None
    remat: str = "none"

    def __post_init__(self):
        check_fields(self, {"remat": tuple(POLICIES)})
        stages = len(self.ch_mult)
        for field, values in (("depths", self.depths), ("num_heads", self.heads)):
            if len(values) != stages:
                raise ValueError(f"{field}={tuple(values)} is not for {stages} stages (ch_mult)")
        super().__post_init__()

    @property
    def heads(self) -> tuple[int, ...]:
        """The heads of each stage."""
        if isinstance(self.num_heads, int):
            return (self.num_heads,) * len(self.ch_mult)
        return tuple(self.num_heads)

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        noise: Real[Array, " b"],
        cond: Cond | None = None,
        train: bool = False,
    ) -> Float[Array, "b h w d"]:
        block, transformer = self._layers(x, noise, cond, train)
        h = conv(self._beside(x, cond), self.first, name="conv_in")
        skips = self._down(h, block, transformer)
        middle = self._middle(skips[-1], block, transformer)
        *skips, middle = with_changes([*skips, middle], cond)
        h = self._up(middle, skips, block, transformer).astype(x.dtype)
        h = nn.swish(group_norm(self.groups, 1e-5, name="out_norm")(h))
        return conv(h, self.out_channels or x.shape[-1], init_scale=0.0, name="out_conv")

    @property
    def first(self) -> int:
        """The channels of the first stage."""
        return round(self.ch_mult[0] * self.channels)

    # The methods below make layers of the compact method that calls them.

    def _layers(self, x, noise, cond, train):
        """`(h, stage, name) -> h`, a residual block, and `(h, depth, stage, name) -> h`, a
        transformer; both know the noise and the conditions."""
        check_size(x, len(self.ch_mult) - 1, "ch_mult")
        dtype = jnp.dtype(self.dtype or x.dtype)
        embedding = self._embed(noise, cond, dtype)
        context = self._context(cond, len(x), dtype)

        def block(h, stage, name):
            features = round(self.ch_mult[stage] * self.channels)
            norm = functools.partial(group_norm, self.groups, 1e-5)
            cls = saving_memory(ResBlock, self.remat)
            # of `biggan` only its shortcut, a convolution, since nothing is resampled
            layer = cls(features, True, self.dropout, 0.0, False, norm, name=name)
            return layer(h, embedding, train)

        def transformer(h, depth, stage, name):
            if not depth:
                return h
            shape = (depth, self.heads[stage], self.groups, self.linear_projection)
            return SpatialTransformer(*shape, self.remat, name=name)(h, context, train)

        return block, transformer

    def _down(self, h, block, transformer):
        """The feature maps that the way up takes back, in the order of the calls; h is the first
        of them."""
        skips = [h]
        for stage, depth in enumerate(self.depths):
            for i in range(self.num_res_blocks):
                h = block(skips[-1], stage, f"down_{stage}_{i}")
                skips.append(transformer(h, depth, stage, f"down_{stage}_{i}_attn"))
            if stage < len(self.ch_mult) - 1:
                h = skips[-1]
                name = f"down_{stage}_resample"
                skips.append(DownConv(h.shape[-1], padding=(1, 1), name=name)(h))
        return skips

    def _middle(self, h, block, transformer):
        last = len(self.ch_mult) - 1
        h = block(h, last, "mid_0")
        h = transformer(h, self.mid_depth, last, "mid_attn")
        return block(h, last, "mid_1")

    def _up(self, h, skips, block, transformer):
        for stage, depth in reversed(list(enumerate(self.depths))):
            for i in range(self.num_res_blocks + 1):
                h = block(jnp.concatenate([h, skips.pop()], axis=-1), stage, f"up_{stage}_{i}")
                h = transformer(h, depth, stage, f"up_{stage}_{i}_attn")
            if stage > 0:
                h = UpConv(h.shape[-1], name=f"up_{stage}_resample")(h)
        return h

    def _beside(self, x, cond):
        """x and the image beside it, in the dtype of the computation."""
        dtype = jnp.dtype(self.dtype or x.dtype)
        if not self.cond_channels:
            return x.astype(dtype)
        image = given(cond, "image", (*x.shape[:-1], self.cond_channels))
        return jnp.concatenate([x, image.astype(x.dtype)], axis=-1).astype(dtype)

    def _embed(self, noise, cond, dtype):
        """The embedding of the noise plus those of vector, sizes and numbers."""
        embedding = embed(
            noise,
            kind="positional",
            features=self.channels,
            fourier_scale=0.0,
            dtype=dtype,
            freq_shift=0,
        )
        return add_numbers(self._add_vectors(embedding, cond), cond, self.numbers)

    def _add_vectors(self, embedding, cond):
        size, width = embedding.shape
        parts = []
        if self.cond_features:
            parts.append(given(cond, "vector", (size, self.cond_features)))
        if self.sizes:
            sizes = given(cond, "sizes", (size, self.sizes))
            v = sizes.astype(np.promote_types(embedding.dtype, np.float32)).reshape(-1)
            features = positional_features(v, self.size_features, freq_shift=0)
            parts.append(features.reshape(size, -1))
        if not parts:
            return embedding
        h = jnp.concatenate([part.astype(embedding.dtype) for part in parts], axis=-1)
        h = nn.swish(dense(h, width, name="embed_vectors_0"))
        return embedding + dense(h, width, name="embed_vectors_1")

    def _context(self, cond, size, dtype):
        m = np.shape((cond or {}).get("context", ()))[1:2] or (0,)
        tokens = given(cond, "context", (size, *m, self.context_features))
        mask = (cond or {}).get("context_mask")
        if mask is not None:
            mask = given(cond, "context_mask", (size, *m)).astype(bool)
        return Context(tokens.astype(dtype), mask)
