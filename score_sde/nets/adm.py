"""ADM, the networks of Dhariwal & Nichol 2021 (arXiv:2105.05233): a U-Net, and a classifier that
is its way down."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from score_sde.nets.attention import attend
from score_sde.nets.checks import check_fields, check_size
from score_sde.nets.embedding import add_conditions, add_numbers, embed
from score_sde.nets.layers import (
    NIN,
    DownConv,
    Dropout,
    GroupNorm,
    UpConv,
    conv,
    conv_of_resampled,
    dense,
)
from score_sde.nets.remat import POLICIES, saving_memory
from score_sde.nets.resampling import resample
from score_sde.types import Cond

ORDERS = ("legacy", "new")
group_norm = functools.partial(GroupNorm, 1, 32, 1e-5)


def split_heads(
    qkv: Float[Array, "b n c"], heads: int, order: str
) -> tuple[Float[Array, "b n h d"], Float[Array, "b n h d"], Float[Array, "b n h d"]]:
    """q, k and v out of one array: in the order "legacy" its channels are [q | k | v] of one head
    after another, in the order "new" [Q | K | V], each of all heads."""
    b, n, c = qkv.shape
    if order == "legacy":
        q, k, v = jnp.moveaxis(qkv.reshape(b, n, heads, 3, c // (3 * heads)), 3, 0)
    else:
        q, k, v = jnp.moveaxis(qkv.reshape(b, n, 3, heads, c // (3 * heads)), 2, 0)
    return q, k, v


class ADMAttnBlock(nn.Module):
    """Residual self-attention over the pixels, with one layer for q, k and v."""

    heads: int
    order: str

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, height, w, c = x.shape
        h = group_norm(name="norm")(x).reshape(b, height * w, c)
        q, k, v = split_heads(NIN(3 * c, 1.0, name="qkv")(h), self.heads, self.order)
        h = attend(q, k, v).reshape(b, height * w, c)
        return x + NIN(c, 0.0, name="out")(h).reshape(x.shape)


class ADMResBlock(nn.Module):
    """A residual block, which may resample ("up" or "down") before its first convolution.

    The embedding of the noise, with `scale_shift`, scales and shifts the second normalisation, else
    it is added before that.
    """

    features: int
    dropout: float
    scale_shift: bool
    resample: str | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], embedding: Float[Array, "b e"], train: bool
    ) -> Float[Array, "b H W d"]:
        h = nn.swish(group_norm(name="norm_0")(x))
        if self.resample is None:
            h = conv(h, self.features, name="conv_0")
        else:
            h = conv_of_resampled(h, self.features, self.resample, None, name="conv_0")
            x = resample(x, self.resample)
        width = self.features * (2 if self.scale_shift else 1)
        shift = dense(nn.swish(embedding), width, name="dense")[:, None, None, :]
        norm = group_norm(name="norm_1")
        if self.scale_shift:
            scale, shift = jnp.split(shift, 2, axis=-1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + shift)
        h = Dropout(self.dropout)(nn.swish(h), train)
        h = conv(h, self.features, init_scale=0.0, name="conv_1")
        if x.shape[-1] != self.features:
            x = conv(x, self.features, 1, name="shortcut")
        return x + h


class ADMEncoder(nn.Module):
    """The way down of ADM; not a network itself.

    Fields:
        nf: channels of the first stage if its multiple is 1; the noise is embedded in 4 nf.
        ch_mult: channels of each stage, in multiples of nf, which may be fractions; each stage
            after the first works on an image of half the size.
        num_res_blocks: residual blocks of a stage on the way down; there is one more on the way up.
        attn_rates: attention follows the blocks that work on images so many times smaller than x,
            powers of two (their `attention_resolutions`, as the class takes them).
        head_dim: channels of an attention head; 0 if num_heads says how many heads there are.
        attention_order: how the layer of q, k and v orders its channels, "legacy" or "new"
            (`split_heads`). Published: "new" in the 64-pixel diffusion model, else "legacy".
        scale_shift: whether the noise scales and shifts the second normalisation of a block.
        resblock_updown: whether residual blocks resample, or layers between them do.
        conv_resample: whether the layers between them have convolutions.
        dropout: its rate in the residual blocks, used when `train`, with the rng "dropout".
        dtype: of the computation, by default that of x. Parameters are always float32; statistics
            of the normalisation, and the softmax, are at least float32.
        remat: which results inside residual blocks are computed again for the gradient: "none",
            "elementwise" (all but convolutions and products) or "all".

    Raises:
        ValueError: an unknown option; heads that do not divide the channels; an image that cannot
            be halved len(ch_mult) - 1 times.
    """

    nf: int = 192
    ch_mult: tuple[int | float, ...] = (1, 2, 3, 4)
    num_res_blocks: int = 3
    attn_rates: tuple[int, ...] = (2, 4, 8)
    head_dim: int = 64
    num_heads: int = 1
    attention_order: str = "legacy"
    scale_shift: bool = True
    resblock_updown: bool = True
    conv_resample: bool = True
    dropout: float = 0.0
    dtype: Any = None
    remat: str = "none"

    def __post_init__(self):
        check_fields(self, {"attention_order": ORDERS, "remat": tuple(POLICIES)})
        super().__post_init__()

    # The methods below make layers of the compact method that calls them.

    def _embed(self, noise, dtype):
        return embed(
            noise,
            kind="positional",
            features=self.nf,
            fourier_scale=0.0,
            dtype=dtype,
            freq_shift=0,
        )

    def _blocks(self, embedding, train):
        """`(h, features, name, resample=None) -> h`, a residual block."""
        cls = saving_memory(ADMResBlock, self.remat)

        def block(h, features, name, resample=None):
            layer = cls(features, self.dropout, self.scale_shift, resample, name=name)
            return layer(h, embedding, train)

        return block

    def _down(self, x, block):
        """The way down: the feature maps that the way up takes back, in the order of the calls."""
        check_size(x, len(self.ch_mult) - 1, "ch_mult")
        h = x.astype(jnp.dtype(self.dtype or x.dtype))
        skips = [conv(h, self._features(0), name="conv_in")]
        for stage in range(len(self.ch_mult)):
            for i in range(self.num_res_blocks):
                h = block(skips[-1], self._features(stage), f"down_{stage}_{i}")
                skips.append(self._attention(h, stage, f"down_{stage}_{i}_attn", self.num_heads))
            if stage < len(self.ch_mult) - 1:
                skips.append(self._resample(skips[-1], "down", f"down_{stage}_resample", block))
        return skips

    def _middle(self, h, block):
        h = block(h, h.shape[-1], "mid_0")
        heads = self._heads(h.shape[-1], self.num_heads)
        h = ADMAttnBlock(heads, self.attention_order, name="mid_attn")(h)
        return block(h, h.shape[-1], "mid_1")

    def _attention(self, h, stage, name, num_heads):
        """Attention, in a stage that has it."""
        if 2**stage not in self.attn_rates:
            return h
        heads = self._heads(h.shape[-1], num_heads)
        return ADMAttnBlock(heads, self.attention_order, name=name)(h)

    def _resample(self, h, direction, name, block):
        if self.resblock_updown:
            return block(h, h.shape[-1], name, resample=direction)
        if not self.conv_resample:
            return resample(h, direction)
        if direction == "up":
            return UpConv(h.shape[-1], name=name)(h)
        return DownConv(h.shape[-1], padding=(1, 1), name=name)(h)

    def _heads(self, channels: int, num_heads: int) -> int:
        """The number of heads of an attention over so many channels: that which is given, unless
        `head_dim` says it."""
        count = channels // self.head_dim if self.head_dim else num_heads
        if not count or channels % count or (self.head_dim and channels % self.head_dim):
            raise ValueError(
                f"head_dim={self.head_dim}, num_heads={num_heads} do not divide the "
                f"{channels} channels of the attention"
            )
        return count

    def _features(self, stage):
        return round(self.ch_mult[stage] * self.nf)


class ADM(ADMEncoder):
    """The U-Net of ADM (arXiv:2105.05233, sec. 3); the defaults make that of 64 pixels.

    `net.apply({"params": p}, x [b, h, w, c], noise [b], cond, train) -> [b, h, w, c]`, where noise
    is the label 0..999 of a step of the chain. With `learn_variance` the output has 2 c channels
    (Nichol & Dhariwal 2021, arXiv:2102.09672): the prediction, and v, which interpolates the log
    variance of a step (`solvers.ancestral`).

    Fields, beside those of `ADMEncoder`:
        num_classes: 0, or the number of classes of cond["label"], int [b]; a negative label adds
            nothing to the embedding of the noise.
        learn_variance: whether the output has v too.
        num_heads_up: the number of heads on the way up, if head_dim is 0; 0 is as many as
            num_heads (their deprecated `num_heads_upsample`).
        numbers: names of conditions, float [b], each embedded beside the noise level; ("jump",)
            makes a flow map (`models.flow_map`).

    Raises:
        ValueError: as `ADMEncoder`; a condition that is missing or of another shape.
    """

    num_classes: int = 0
    learn_variance: bool = False
    num_heads_up: int = 0
    numbers: tuple[str, ...] = ()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        noise: Real[Array, " b"],
        cond: Cond | None = None,
        train: bool = False,
    ) -> Float[Array, "b h w d"]:
        embedding = add_conditions(
            self._embed(noise, jnp.dtype(self.dtype or x.dtype)),
            cond,
            num_classes=self.num_classes,
            cond_features=0,
        )
        embedding = add_numbers(embedding, cond, self.numbers)
        block = self._blocks(embedding, train)
        skips = self._down(x, block)
        h = self._middle(skips[-1], block)
        for stage in reversed(range(len(self.ch_mult))):
            for i in range(self.num_res_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = block(h, self._features(stage), f"up_{stage}_{i}")
                heads = self.num_heads_up or self.num_heads
                h = self._attention(h, stage, f"up_{stage}_{i}_attn", heads)
            if stage > 0:
                h = self._resample(h, "up", f"up_{stage}_resample", block)
        h = nn.swish(group_norm(name="out_norm")(h.astype(x.dtype)))
        channels = x.shape[-1] * (2 if self.learn_variance else 1)
        return conv(h, channels, init_scale=0.0, name="out_conv")


class ADMClassifier(ADMEncoder):
    """The classifier of noisy images that guides ADM (arXiv:2105.05233, sec. 4 and app. H): the way
    down, and attention of the mean pixel over all pixels.

    `net.apply({"params": p}, x [b, h, w, c], noise [b], cond, train) -> [b, num_classes]`, as
    `ADM`; cond is not read. The parameters fit one size of image. The pool's attention has the
    order "new" and heads of `head_dim`, whatever that of the blocks.

    Fields, beside those of `ADMEncoder`:
        num_classes: the number of logits.
    """

    num_classes: int = 1000

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        noise: Real[Array, " b"],
        cond: Cond | None = None,
        train: bool = False,
    ) -> Float[Array, "b n"]:
        block = self._blocks(self._embed(noise, jnp.dtype(self.dtype or x.dtype)), train)
        h = self._middle(self._down(x, block)[-1], block)
        h = nn.swish(group_norm(name="out_norm")(h.astype(x.dtype)))
        return self._pool(h.reshape(len(h), -1, h.shape[-1]))

    def _pool(self, h: Float[Array, "b n c"]) -> Float[Array, "b k"]:
        h = jnp.concatenate([jnp.mean(h, axis=1, keepdims=True), h], axis=1)
        shape, c = h.shape[1:], h.shape[-1]
        init = nn.initializers.normal(c**-0.5)
        h = h + self.param("positions", init, shape, jnp.float32).astype(h.dtype)[None]
        q, k, v = split_heads(
            NIN(3 * c, 1.0, name="pool_qkv")(h), self._heads(c, self.num_heads), "new"
        )
        pooled = attend(q[:, :1], k, v).reshape(len(h), c)  # the other pixels are not asked
        return NIN(self.num_classes, 1.0, name="pool_out")(pooled)
