"""The way down of the U-Nets, which classifiers have too."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from score_sde.nets.convolution import products_saveable
from score_sde.nets.embedding import EMBEDDINGS, embed
from score_sde.nets.layers import (
    COMBINATIONS,
    AttnBlock,
    Combine,
    DownConv,
    GroupNorm,
    ResBlock,
    UpConv,
    add,
    conv,
)
from score_sde.nets.resampling import downsample, upsample

_REMAT = {
    "none": None,
    "elementwise": products_saveable,
    "all": jax.checkpoint_policies.nothing_saveable,
}
_OPTIONS = {
    "remat": tuple(_REMAT),
    "resblock": ("ddpm", "biggan"),
    "progressive_input": ("none", "input_skip", "residual"),
    "progressive_combine": COMBINATIONS,
    "embedding": EMBEDDINGS,
}


class Encoder(nn.Module):
    """The fields and the methods that networks with a way down share; not a network itself.

    Fields:
        nf: channels of the first level.
        ch_mult: channels of each level, in multiples of nf; each level halves the image.
        num_res_blocks: residual blocks of a level on the way down; there is one more on the way up.
        attn_resolutions: the heights of feature maps that attention works on.
        head_dim: channels of an attention head; 0 is one head of all channels.
        dropout: its rate in the residual blocks, used when `train`, with the rng "dropout".
        resamp_with_conv: whether "ddpm" blocks are resampled with a convolution.
        resblock: "ddpm", resampled between the blocks, or "biggan", resampled within them.
        down_padding: pixels of zero before and after the image in that convolution on the way down.
        fir, fir_kernel: whether resampling smooths, and with which separable filter.
        progressive_input: how the shrunk input joins the way down: "none"; "input_skip", beside
            every level; "residual", in a pyramid that every level adds to.
        progressive_combine: how "input_skip" joins the input: "sum" or "cat".
        embedding: "fourier", for which `noise` is the noise level sigma > 0, or "positional", for
            any number, such as 999 t.
        freq_shift: of the frequencies of "positional" (`positional_features`).
        fourier_scale: standard deviation of the Fourier frequencies of log sigma.
        skip_rescale: whether residual sums are divided by sqrt 2.
        init_scale: variance of the last layer of each block, relative to the usual; 0 is 1e-10.
        centered: whether data lie in [-1, 1]; if in [0, 1] the network works on 2 x - 1.
        min_group_size, max_groups: group normalisation has at most max_groups groups, of at least
            min_group_size channels.
        norm_eps: what it adds to the variance.
        dtype: of the computation, by default that of x. Parameters are float32 always; statistics
            of the normalisation, and the softmax, are float32 at least.
        remat: what of the residual blocks is computed again for the gradient, to save memory:
            "none", "elementwise" (all but convolutions and products) or "all".

    Raises:
        ValueError: of an unknown option; an image that cannot be halved len(ch_mult) - 1 times.
    """

    nf: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 2, 2)
    num_res_blocks: int = 4
    attn_resolutions: tuple[int, ...] = (16,)
    head_dim: int = 0
    dropout: float = 0.1
    resamp_with_conv: bool = True
    down_padding: tuple[int, int] = (0, 1)
    resblock: str = "biggan"
    fir: bool = False
    fir_kernel: tuple[int, ...] = (1, 3, 3, 1)
    progressive_input: str = "none"
    progressive_combine: str = "sum"
    embedding: str = "positional"
    freq_shift: int = 1
    fourier_scale: float = 16.0
    skip_rescale: bool = True
    init_scale: float = 0.0
    centered: bool = True
    min_group_size: int = 4
    max_groups: int = 32
    norm_eps: float = 1e-6
    dtype: Any = None
    remat: str = "none"

    def __post_init__(self):
        self._check_options(_OPTIONS)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} is not at least 0 and below 1")
        super().__post_init__()

    def _check_options(self, options):
        for field, allowed in options.items():
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field}={getattr(self, field)!r} is none of {allowed}")

    # To be called inside a compact method, whose module the layers then belong to.

    def _input(self, x):
        """The image in the network's dtype and range."""
        self._check_size(x)
        return (x if self.centered else 2 * x - 1).astype(jnp.dtype(self.dtype or x.dtype))

    def _embed(self, noise, dtype):
        return embed(
            noise,
            kind=self.embedding,
            features=self.nf,
            fourier_scale=self.fourier_scale,
            dtype=dtype,
            freq_shift=self.freq_shift,
        )

    def _blocks(self, embedding, train):
        """Makes residual blocks, given the embedding: `(h, features, name, resample=None) -> h`."""

        cls, policy = ResBlock, _REMAT[self.remat]
        if policy is not None:  # `train` is an argument that it must see as a constant
            cls = nn.remat(ResBlock, static_argnums=(3,), policy=policy)

        def block(h, features, name, resample=None):
            layer = cls(
                features,
                biggan=self.resblock == "biggan",
                dropout=self.dropout,
                init_scale=self.init_scale,
                skip_rescale=self.skip_rescale,
                group_norm=self._group_norm,
                resample=resample,
                kernel=self._kernel,
                name=name,
            )
            return layer(h, embedding, train)

        return block

    def _down(self, h, block):
        """The feature maps of the way down, all of which the way up takes back."""
        pyramid = h
        skips = [conv(h, self.nf, name="conv_in")]
        for level, mult in enumerate(self.ch_mult):
            for i in range(self.num_res_blocks):
                name = f"down_{level}_{i}"
                h = block(skips[-1], mult * self.nf, name)
                if h.shape[1] in self.attn_resolutions:
                    h = self._attention(h, f"{name}_attn")
                skips.append(h)
            if level == len(self.ch_mult) - 1:
                break
            h = self._resample(skips[-1], "down", f"down_{level}_resample", block)
            name = f"down_{level}_pyramid"
            if self.progressive_input == "input_skip":
                pyramid = downsample(pyramid, self._kernel)
                h = Combine(self.progressive_combine, name=name)(pyramid, h)
            elif self.progressive_input == "residual":
                pyramid = DownConv(h.shape[-1], self._kernel, name=name)(pyramid)
                pyramid = h = add(pyramid, h, self.skip_rescale)
            skips.append(h)
        return skips

    def _middle(self, h, block):
        """What follows the way down, at its size."""
        h = block(h, h.shape[-1], "mid_0")
        h = self._attention(h, "mid_attn")
        return block(h, h.shape[-1], "mid_1")

    def _resample(self, h, direction, name, block):
        if self.resblock == "biggan":
            return block(h, h.shape[-1], name, resample=direction)
        if self.resamp_with_conv:
            if direction == "up":
                return UpConv(h.shape[-1], self._kernel, name=name)(h)
            return DownConv(h.shape[-1], self._kernel, self.down_padding, name=name)(h)
        return {"up": upsample, "down": downsample}[direction](h, self._kernel)

    def _attention(self, h, name):
        layer = AttnBlock(
            self.init_scale, self.skip_rescale, self._group_norm, self.head_dim, name=name
        )
        return layer(h)

    @property
    def _group_norm(self):
        return functools.partial(GroupNorm, self.min_group_size, self.max_groups, self.norm_eps)

    @property
    def _kernel(self):
        return self.fir_kernel if self.fir else None

    def _check_size(self, x):
        multiple = 2 ** (len(self.ch_mult) - 1)
        if x.shape[1] % multiple or x.shape[2] % multiple:
            raise ValueError(
                f"images of {x.shape[1]}x{x.shape[2]} cannot be halved {len(self.ch_mult) - 1} "
                f"times: pad or resize them to multiples of {multiple}, or shorten ch_mult"
            )
