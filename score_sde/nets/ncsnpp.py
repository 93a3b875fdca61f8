"""The U-Nets of score-based generative modeling: DDPM, DDPM++ and NCSN++ in one module."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from score_sde.nets.checks import check_fields, check_size
from score_sde.nets.embedding import (
    EMBEDDINGS,
    add_conditions,
    add_numbers,
    embed,
    given,
    with_changes,
    with_fourier,
)
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
from score_sde.nets.remat import POLICIES, saving_memory
from score_sde.nets.resampling import downsample, resample, upsample
from score_sde.types import Cond, expand, real_dtype

_OPTIONS = {
    "remat": tuple(POLICIES),
    "resblock": ("ddpm", "biggan"),
    "progressive_input": ("none", "input_skip", "residual"),
    "progressive_combine": COMBINATIONS,
    "embedding": EMBEDDINGS,
}


class Encoder(nn.Module):
    """The way down of a U-Net, which classifiers have too; not a network itself.

    Fields:
        nf: channels of the first stage.
        ch_mult: channels of each stage, in multiples of nf; each stage after the first works on an
            image of half the size.
        num_res_blocks: residual blocks of a stage on the way down; there is one more on the way up.
        attn_resolutions: attention follows the blocks that work on images of these heights.
        head_dim: channels of an attention head; 0 is one head of all channels.
        dropout: its rate in the residual blocks, used when `train`, with the rng "dropout".
        resamp_with_conv: whether "ddpm" blocks are resampled with a convolution.
        resblock: "ddpm", resampled between the blocks, or "biggan", resampled within them.
        down_padding: pixels of zero before and after the image in the convolution that halves it.
        fir, fir_kernel: whether resampling smooths, and with which separable filter.
        progressive_input: how the shrunk input joins the way down: "none"; "input_skip", at every
            stage; "residual", in a pyramid that every stage adds to.
        progressive_combine: how "input_skip" joins the input: "sum" or "cat".
        embedding: "fourier", for which `noise` is the noise level sigma > 0, or "positional", for
            which it is any number, such as 999 t.
        freq_shift: shifts the frequencies of "positional" (`positional_features`).
        fourier_scale: standard deviation of the Fourier frequencies of log sigma.
        skip_rescale: whether residual sums are divided by sqrt 2.
        init_scale: variance of the last layer of each block at the start, relative to the usual; 0
            means 1e-10.
        centered: whether data lie in [-1, 1]; else in [0, 1], and the network works on 2 x - 1.
        input_fourier: numbers n; sin and cos of 2^n pi x are appended to the image x (Kingma et al.
            2021, arXiv:2107.00630, app. C), so that the network tells near levels apart.
        min_group_size, max_groups: group normalisation has at most max_groups groups, of at least
            min_group_size channels.
        norm_eps: what it adds to the variance.
        dtype: of the computation, by default that of x. Parameters are always float32; statistics
            of the normalisation, and the softmax, are at least float32.
        remat: which results inside residual blocks are computed again for the gradient, to save
            memory: "none", "elementwise" (all but convolutions and products) or "all".

    Raises:
        ValueError: an unknown option; an image that cannot be halved len(ch_mult) - 1 times.
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
    input_fourier: tuple[float, ...] = ()
    min_group_size: int = 4
    max_groups: int = 32
    norm_eps: float = 1e-6
    dtype: Any = None
    remat: str = "none"

    def __post_init__(self):
        check_fields(self, _OPTIONS)
        super().__post_init__()

    # The methods below make layers of the compact method that calls them.

    def _input(self, x):
        """The image in the network's dtype and range, with its Fourier features."""
        check_size(x, len(self.ch_mult) - 1, "ch_mult")
        x = x if self.centered else 2 * x - 1
        return with_fourier(x, self.input_fourier).astype(jnp.dtype(self.dtype or x.dtype))

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
        """`(h, features, name, resample=None) -> h`, a residual block."""
        cls = saving_memory(ResBlock, self.remat)

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

    def _first(self, x):
        """The first feature map."""
        return conv(x, self.nf, name="conv_in")

    def _down(self, x, first, block):
        """The way down: the feature maps that the way up takes back, in the order of the calls."""
        pyramid, skips = x, [first]
        for stage, mult in enumerate(self.ch_mult):
            for i in range(self.num_res_blocks):
                name = f"down_{stage}_{i}"
                h = block(skips[-1], mult * self.nf, name)
                if h.shape[1] in self.attn_resolutions:
                    h = self._attention(h, f"{name}_attn")
                skips.append(h)
            if stage == len(self.ch_mult) - 1:
                break
            h = self._resample(skips[-1], "down", f"down_{stage}_resample", block)
            name = f"down_{stage}_pyramid"
            if self.progressive_input == "input_skip":
                pyramid = downsample(pyramid, self._kernel)
                h = Combine(self.progressive_combine, name=name)(pyramid, h)
            elif self.progressive_input == "residual":
                pyramid = DownConv(h.shape[-1], self._kernel, name=name)(pyramid)
                pyramid = h = add(pyramid, h, self.skip_rescale)
            skips.append(h)
        return skips

    def _middle(self, h, block):
        """Between the ways down and up."""
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
        return resample(h, direction, self._kernel)

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


class NCSNpp(Encoder):
    """The U-Net of Song et al., "Score-based generative modeling through SDEs" (arXiv:2011.13456).

    `net.apply({"params": p}, x [b, h, w, c], noise [b], cond, train) -> [b, h, w, c]`. What the
    output means is up to the parametrization. cond["control"], feature maps, is optional: what
    ControlNets add to those of the way down and to the middle (`nets.controlnet`).

    The defaults make DDPM++ for CIFAR-10. Others are

    - DDPM (arXiv:2006.11239): num_res_blocks=2, resblock="ddpm", skip_rescale=False,
      min_group_size=1; Ho et al. trained it with attn_each_up_block=True too;
    - NCSN++ on a VP or sub-VP SDE: fir=True, progressive_input="residual";
    - NCSN++ on a VE SDE: these and embedding="fourier", scale_by_sigma=True, centered=False;
    - NCSN++ for 256 pixels and more: these and progressive="output_skip",
      progressive_input="input_skip".

    Fields, beside those of `Encoder`:
        attn_each_up_block: whether attention on the way up follows each block of a stage, as on the
            way down (Ho et al. 2020), or only the last block (Song et al. 2021).
        progressive: how the output is made: "none", from the last stage; "output_skip", the sum of
            an output of every stage; "residual", a pyramid that every stage adds to.
        scale_by_sigma: whether the output is divided by `noise`, which must then be sigma.
        num_classes: 0, or the number of classes of cond["label"], int [b]. The vector of a class is
            added to the embedding of the noise; a negative label adds nothing.
        cond_features: 0, or the dimensions d of cond["vector"], [b, d], which a linear layer adds
            to the embedding of the noise.
        cond_channels: 0, or the channels c of cond["image"], [b, h, w, c], which are appended to
            those of x.
        numbers: names of conditions, float [b], each embedded beside the noise level; ("jump",)
            makes a flow map (`models.flow_map`).

    Raises:
        ValueError: an unknown option; scale_by_sigma without the Fourier embedding; an image that
            cannot be halved len(ch_mult) - 1 times; a condition that is missing or of another
            shape.
    """

    attn_each_up_block: bool = False
    progressive: str = "none"
    scale_by_sigma: bool = False
    num_classes: int = 0
    cond_features: int = 0
    cond_channels: int = 0
    numbers: tuple[str, ...] = ()

    def __post_init__(self):
        check_fields(self, {"progressive": ("none", "output_skip", "residual")})
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
        h, block = self._begun(x, noise, cond, train)
        skips = self._down(h, self._first(h), block)
        middle = self._middle(skips[-1], block)
        *skips, middle = with_changes([*skips, middle], cond)
        h = self._up(middle, skips, x.shape[-1], block)
        if self.scale_by_sigma:
            h = h.astype(real_dtype(h))
            h = h / expand(noise.astype(h.dtype), h)
        return h.astype(x.dtype)

    def _begun(self, x, noise, cond, train):
        """The image with what is beside it, and the residual block (`_blocks`), which knows the
        noise and the conditions."""
        h = self._input(x)
        embedding = add_conditions(
            self._embed(noise, h.dtype),
            cond,
            num_classes=self.num_classes,
            cond_features=self.cond_features,
        )
        embedding = add_numbers(embedding, cond, self.numbers)
        if self.cond_channels:
            image = given(cond, "image", (*x.shape[:3], self.cond_channels))
            h = jnp.concatenate([h, image.astype(h.dtype)], axis=-1)
        return h, self._blocks(embedding, train)

    def _up(self, h, skips, channels, block) -> Any:
        """The way up: from the middle and the feature maps of the way down to the output."""
        pyramid = None
        for stage, mult in reversed(list(enumerate(self.ch_mult))):
            for i in range(self.num_res_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = block(h, mult * self.nf, f"up_{stage}_{i}")
                if self.attn_each_up_block and h.shape[1] in self.attn_resolutions:
                    h = self._attention(h, f"up_{stage}_{i}_attn")
            if not self.attn_each_up_block and h.shape[1] in self.attn_resolutions:
                h = self._attention(h, f"up_{stage}_attn")
            if self.progressive == "output_skip":
                out = self._head(h, channels, self.init_scale, f"up_{stage}")
                pyramid = out if pyramid is None else upsample(pyramid, self._kernel) + out
            elif self.progressive == "residual" and pyramid is None:
                pyramid = self._head(h, h.shape[-1], 1.0, f"up_{stage}")
            elif self.progressive == "residual":
                name = f"up_{stage}_pyramid"
                pyramid = UpConv(h.shape[-1], self._kernel, name=name)(pyramid)
                pyramid = h = add(pyramid, h, self.skip_rescale)
            if stage > 0:
                h = self._resample(h, "up", f"up_{stage}_resample", block)
        if self.progressive == "output_skip":
            return pyramid
        return self._head(h, channels, self.init_scale, "out")

    def _head(self, h, features, init_scale, name):
        h = nn.swish(self._group_norm(name=f"{name}_norm")(h))
        return conv(h, features, init_scale=init_scale, name=f"{name}_conv")
