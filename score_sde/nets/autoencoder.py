"""The autoencoder of latent diffusion (Rombach et al. 2022, arXiv:2112.10752): a convolutional
encoder to a diagonal Gaussian on a smaller image, and a decoder."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from score_sde.nets.checks import check_fields, check_size
from score_sde.nets.layers import AttnBlock, Conv, DownConv, GroupNorm, ResBlock, UpConv, conv
from score_sde.nets.remat import POLICIES, saving_memory
from score_sde.types import Cond


class _Half(nn.Module):
    """What the encoder and the decoder share; the fields are those of `AutoencoderKL`.

    out_channels: those of the output.
    """

    out_channels: int
    channels: int
    ch_mult: tuple[int | float, ...]
    num_res_blocks: int
    mid_attention: bool
    groups: int
    dtype: Any
    remat: str

    # The methods below make layers of the compact method that calls them.

    def _features(self, stage):
        return round(self.ch_mult[stage] * self.channels)

    def _input(self, x, stage):
        h = x.astype(jnp.dtype(self.dtype or x.dtype))
        return conv(h, self._features(stage), name="conv_in")

    @property
    def _group_norm(self):
        return functools.partial(GroupNorm, 1, self.groups, 1e-6)

    def _block(self, h, stage, name):
        cls = saving_memory(ResBlock, self.remat)
        # of `biggan` only its shortcut, a convolution, since nothing is resampled
        layer = cls(self._features(stage), True, 0.0, 1.0, False, self._group_norm, name=name)
        return layer(h, None, False)

    def _middle(self, h):
        last = len(self.ch_mult) - 1
        h = self._block(h, last, "mid_0")
        if self.mid_attention:
            h = AttnBlock(1.0, False, self._group_norm, name="mid_attn")(h)
        return self._block(h, last, "mid_1")

    def _output(self, h):
        h = nn.swish(self._group_norm(name="out_norm")(h))
        return conv(h, self.out_channels, name="out_conv")


class Encoder(_Half):
    """The way down, and the middle."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W d"]:
        h = self._input(x, 0)
        for stage in range(len(self.ch_mult)):
            for i in range(self.num_res_blocks):
                h = self._block(h, stage, f"down_{stage}_{i}")
            if stage < len(self.ch_mult) - 1:
                h = DownConv(h.shape[-1], name=f"down_{stage}_resample")(h)
        return self._output(self._middle(h).astype(x.dtype))


class Decoder(_Half):
    """The middle, and the way up, whose stages have a residual block more."""

    @nn.compact
    def __call__(self, z: Float[Array, "b h w c"]) -> Float[Array, "b H W d"]:
        h = self._middle(self._input(z, -1))
        for stage in reversed(range(len(self.ch_mult))):
            for i in range(self.num_res_blocks + 1):
                h = self._block(h, stage, f"up_{stage}_{i}")
            if stage > 0:
                h = UpConv(h.shape[-1], name=f"up_{stage}_resample")(h)
        return self._output(h.astype(z.dtype))


class AutoencoderKL(nn.Module):
    """The KL-regularised autoencoder of latent diffusion (arXiv:2112.10752, app. G); by
    default that of Stable Diffusion, which divides height and width by 8.

    `net.apply({"params": p}, x, method="encode") -> moments` and
    `net.apply({"params": p}, z, method="decode") -> x`; `codecs.moments` has what is done
    with moments. Called as every network is, it gives the decoded mean of the encoded x.

    Fields:
        channels: those of the first stage if its multiple is 1.
        ch_mult: channels of each stage, in multiples of `channels`; each stage after the first
            works on an image of half the size. One stage leaves the size.
        num_res_blocks: residual blocks of a stage of the encoder; the decoder has one more.
        latent_channels: those of z.
        mid_attention: whether attention lies between the two residual blocks of the middle.
        groups: of the normalisations (a smaller number where it does not divide the channels).
        quant_convs: whether a 1x1 convolution follows the encoder, and another is before the
            decoder, as in Stable Diffusion up to XL.
        in_channels: those of x.
        dtype: of the computation, by default that of the input. Parameters are always float32;
            statistics of the normalisation, and the softmax, are at least float32.
        remat: which results inside residual blocks are computed again for the gradient: "none",
            "elementwise" (all but convolutions and products) or "all".

    Raises:
        ValueError: an unknown remat; no stage; an image that cannot be halved len(ch_mult) - 1
            times.
    """

    channels: int = 128
    ch_mult: tuple[int | float, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    latent_channels: int = 4
    mid_attention: bool = True
    groups: int = 32
    quant_convs: bool = True
    in_channels: int = 3
    dtype: Any = None
    remat: str = "none"

    def __post_init__(self):
        check_fields(self, {"remat": tuple(POLICIES)})
        if not self.ch_mult:
            raise ValueError("ch_mult=() has no stage: (1,) leaves the size of the images")
        super().__post_init__()

    @property
    def factor(self) -> int:
        """By what height and width are divided."""
        return 2 ** (len(self.ch_mult) - 1)

    def setup(self):
        half = (self.channels, tuple(self.ch_mult), self.num_res_blocks, self.mid_attention)
        rest = (self.groups, self.dtype, self.remat)
        self.encoder = Encoder(2 * self.latent_channels, *half, *rest)
        self.decoder = Decoder(self.in_channels, *half, *rest)
        if self.quant_convs:
            self.quant_conv = Conv(2 * self.latent_channels, 1)
            self.post_quant_conv = Conv(self.latent_channels, 1)

    def encode(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W m"]:
        """The mean and the log variance (unclipped) of z, in the last axis."""
        check_size(x, len(self.ch_mult) - 1, "ch_mult")
        moments = self.encoder(x)
        return self.quant_conv(moments) if self.quant_convs else moments

    def decode(self, z: Float[Array, "b h w c"]) -> Float[Array, "b H W d"]:
        """The image of z."""
        return self.decoder(self.post_quant_conv(z) if self.quant_convs else z)

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        noise: Real[Array, " b"] | None = None,
        cond: Cond | None = None,
        train: bool = False,
    ) -> Float[Array, "b h w c"]:
        """x after both; the other arguments are not read."""
        return self.decode(jnp.split(self.encode(x), 2, axis=-1)[0])
