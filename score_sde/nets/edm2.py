"""The magnitude-preserving U-Net of EDM2 (Karras et al. 2023, arXiv:2312.02696).

Every layer keeps the mean square of activations at about 1: weights are normalised wherever they
are used, also after training, and sums and concatenations are divided by the root mean square
that they have of independent parts. `training.constraints.unit_rms` also normalises what is stored.
"""

from __future__ import annotations

import math
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Float, Real

from score_sde.nets.attention import attend
from score_sde.nets.edm_unet import UNet, symmetric
from score_sde.nets.embedding import add_numbers
from score_sde.nets.layers import Dropout
from score_sde.nets.remat import saving_memory
from score_sde.nets.resampling import Kernel, resample
from score_sde.types import Cond, real_dtype

EPS = 1e-4  # of root mean squares
SILU_RMS = 0.596  # of silu(z), z ~ N(0, 1) (eq. 81)


def normalized(x: Array, axes: tuple[int, ...]) -> Array:
    """x / (1e-4 + rms of x over these axes), the rms in at least float32 (eq. 47, 66)."""
    y = x.astype(real_dtype(x))
    count = math.prod(x.shape[axis] for axis in axes)
    # finite derivatives where x is 0, as channels of a network of zeros are
    square = jnp.sum(y * y, axis=axes, keepdims=True) / count
    root = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    return x / (EPS + root).astype(x.dtype)


def mp_silu(x: Array) -> Array:
    """silu(x) / 0.596 (eq. 81)."""
    return nn.silu(x) / SILU_RMS


def mp_sum(a: Array, b: Array, t: float) -> Array:
    """((1 - t) a + t b) / sqrt((1 - t)^2 + t^2) (eq. 88)."""
    return (a + t * (b - a)) / math.hypot(1 - t, t)


def mp_cat(a: Float[Array, "*s n"], b: Float[Array, "*s m"], t: float) -> Float[Array, "*s nm"]:
    """Concatenation in which a and b count as 1 - t and t, however many channels they have
    (eq. 103)."""
    n, m = a.shape[-1], b.shape[-1]
    scale = math.sqrt(n + m) / math.hypot(1 - t, t)
    a, b = scale * (1 - t) / math.sqrt(n) * a, scale * t / math.sqrt(m) * b
    return jnp.concatenate([a, b], axis=-1)


class MPFourier(nn.Module):
    """sqrt 2 cos(2 pi (v w + p)) with fixed random w ~ N(0, 1), p ~ U(0, 1) (eq. 75).

    The parameters hold 2 pi w and 2 pi p, and have no gradient.
    """

    features: int

    @nn.compact
    def __call__(self, v: Float[Array, " b"]) -> Float[Array, "b d"]:
        turn, shape = 2 * math.pi, (self.features,)
        w = self.param("kernel", lambda key: turn * random.normal(key, shape, jnp.float32))
        p = self.param("phases", lambda key: turn * random.uniform(key, shape, jnp.float32))
        w, p = (lax.stop_gradient(a).astype(v.dtype) for a in (w, p))
        return math.sqrt(2) * jnp.cos(v[:, None] * w[None] + p[None])


class MPConv(nn.Module):
    """A dense layer (size 0) or a convolution, without bias, of normalised weights (eq. 47)."""

    features: int
    size: int = 0

    @nn.compact
    def __call__(self, x: Array, gain: Float[Array, ""] | float = 1.0) -> Array:
        shape = (*(self.size,) * (2 if self.size else 0), x.shape[-1], self.features)
        axes = tuple(range(len(shape) - 1))

        def init(key):
            return normalized(random.normal(key, shape, jnp.float32), axes)

        kernel = normalized(self.param("kernel", init), axes)
        kernel = (kernel * (gain / math.sqrt(math.prod(shape[:-1])))).astype(x.dtype)
        if not self.size:
            return jnp.dot(x, kernel)
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)


class Block(nn.Module):
    """A residual block and attention (fig. 21). The classes below are its two kinds.

    heads: 0 for no attention. res_balance, attn_balance: from 0 to 1, how much the branches count.
    clip_act: the largest number that leaves the block, or None.
    """

    features: int
    heads: int
    dropout: float
    res_balance: float
    attn_balance: float
    clip_act: float | None
    resample: str | None = None
    kernel: Kernel = None

    skips_first: ClassVar[bool]

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], embedding: Float[Array, "b e"], train: bool
    ) -> Float[Array, "b H W d"]:
        x = resample(x, self.resample, self.kernel)
        if self.skips_first:
            x = normalized(self._shortcut(x), (3,))
        gain = self.param("emb_gain", nn.initializers.zeros, (), jnp.float32)
        h = MPConv(self.features, 3, name="conv_res0")(mp_silu(x))
        scale = 1 + MPConv(self.features, name="emb_linear")(embedding, gain)
        h = mp_silu(h * scale.astype(h.dtype)[:, None, None, :])
        h = MPConv(self.features, 3, name="conv_res1")(Dropout(self.dropout)(h, train))
        x = x if self.skips_first else self._shortcut(x)
        x = self._attention(mp_sum(x, h, self.res_balance))
        return x if self.clip_act is None else jnp.clip(x, -self.clip_act, self.clip_act)

    def _shortcut(self, x):
        if x.shape[-1] == self.features:
            return x
        return MPConv(self.features, 1, name="conv_skip")(x)

    def _attention(self, x):
        if not self.heads:
            return x
        b, height, width, c = x.shape
        h = MPConv(3 * c, 1, name="attn_qkv")(x)
        h = h.reshape(b, height * width, self.heads, c // self.heads, 3)
        h = normalized(h, (3,))
        h = attend(h[..., 0], h[..., 1], h[..., 2]).reshape(x.shape)
        return mp_sum(x, MPConv(c, 1, name="attn_proj")(h), self.attn_balance)


class EncoderBlock(Block):
    """A block of the way down: the shortcut, normalised over channels, feeds both branches."""

    skips_first = True


class DecoderBlock(Block):
    """A block of the way up: the shortcut is on its own branch."""

    skips_first = False


class EDM2UNet(UNet):
    """The U-Net of EDM2, with its uncertainty.

    `net.apply({"params": p}, x [b, h, w, c], noise [b], cond, train) -> [b, h, w, c]`;
    `net.apply({"params": p}, noise [b], method="log_variance") -> [b]`. The defaults make size S,
    with num_classes=1000.

    Fields, beside those of `UNet`:
        channel_mult_noise, channel_mult_emb: widths of the embedding of the noise and of all, in
            multiples of model_channels; None is the first and the largest of channel_mult.
        channels_per_head: of attention; blocks with fewer channels have none.
        label_balance: from 0 to 1, how much the class counts beside the noise level.
        concat_balance: how much the skips count beside the main path.
        res_balance, attn_balance, clip_act: of the blocks.
        resample_filter: the taps of the filter of resampling, symmetric.
        logvar_channels: width of the embedding for `log_variance`.

    Raises:
        ValueError: as `UNet`; a filter that is not symmetric.
    """

    model_channels: int = 192
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)
    num_blocks: int = 3
    attn_resolutions: tuple[int, ...] = (16, 8)
    dropout: float = 0.0
    channel_mult_noise: int | None = None
    channel_mult_emb: int | None = None
    channels_per_head: int = 64
    label_balance: float = 0.5
    concat_balance: float = 0.5
    res_balance: float = 0.3
    attn_balance: float = 0.3
    clip_act: float | None = 256.0
    resample_filter: tuple[int, ...] = (1, 1)
    logvar_channels: int = 128

    def __post_init__(self):
        symmetric(self.resample_filter)
        super().__post_init__()

    def setup(self):
        self.logvar_fourier = MPFourier(self.logvar_channels)
        self.logvar_linear = MPConv(1)

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        noise: Real[Array, " b"],
        cond: Cond | None = None,
        train: bool = False,
    ) -> Float[Array, "b h w c"]:
        if self.is_initializing():
            self.log_variance(noise)
        h = self._input(x)
        embedding = self._embedding(noise, cond)
        h = jnp.concatenate([h, jnp.ones_like(h[..., :1])], axis=-1)
        h = MPConv(self.model_channels * self.channel_mult[0], 3, name="enc_0_conv")(h)
        skips = self._down(h, self._blocks(EncoderBlock, embedding, train), lambda h, level: h)

        def join(h, skip):
            return mp_cat(h, skip, self.concat_balance)

        block = self._blocks(DecoderBlock, embedding, train)
        *_, (_, h) = self._up(skips, block, join, lambda height, i: height in self.attn_resolutions)
        gain = self.param("out_gain", nn.initializers.zeros, (), jnp.float32)
        return MPConv(x.shape[-1], 3, name="out_conv")(h, gain).astype(x.dtype)

    def log_variance(self, noise: Real[Array, " b"]) -> Float[Array, " b"]:
        """u: the log of the mean squared error that is expected at this noise level (eq. 21)."""
        return self.logvar_linear(self.logvar_fourier(self._noise(noise)))[:, 0]

    def _embedding(self, noise, cond):
        width = self.channel_mult[0] if self.channel_mult_noise is None else self.channel_mult_noise
        out = max(self.channel_mult) if self.channel_mult_emb is None else self.channel_mult_emb
        width, out = width * self.model_channels, out * self.model_channels
        h = MPFourier(width, name="emb_fourier")(self._noise(noise))
        h = MPConv(out, name="emb_noise")(h)
        if self.num_classes:
            classes = self._classes(cond, h) * math.sqrt(self.num_classes)
            h = mp_sum(h, MPConv(out, name="emb_label")(classes), self.label_balance)
        return mp_silu(add_numbers(h, cond, self.numbers))

    def _blocks(self, cls, embedding, train):
        kernel, cls = symmetric(self.resample_filter), saving_memory(cls, self.remat)

        def block(h, features, name, attention=False, resample=None):
            layer = cls(
                features,
                features // self.channels_per_head if attention else 0,
                self.dropout,
                self.res_balance,
                self.attn_balance,
                self.clip_act,
                resample,
                kernel,
                name=name,
            )
            return layer(h, embedding, train)

        return block
