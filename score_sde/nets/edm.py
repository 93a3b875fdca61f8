"""The U-Nets of EDM (Karras et al. 2022, arXiv:2206.00364): `SongUNet` and `DhariwalUNet`."""

from __future__ import annotations

import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from score_sde.nets.checks import check_fields
from score_sde.nets.edm_blocks import (
    ALMOST_ZERO,
    KAIMING,
    XAVIER,
    ZERO,
    DhariwalBlock,
    Init,
    SongBlock,
    conv,
    dense,
)
from score_sde.nets.edm_unet import UNet, halves_swapped, symmetric
from score_sde.nets.embedding import FourierFeatures, add_numbers, positional_features
from score_sde.nets.layers import GroupNorm
from score_sde.nets.remat import saving_memory
from score_sde.nets.resampling import downsample, upfirdn, upsample
from score_sde.types import Cond

_OPTIONS = {
    "embedding_type": ("positional", "fourier"),
    "encoder_type": ("standard", "skip", "residual"),
    "decoder_type": ("standard", "skip"),
}


class EDMUNet(UNet):
    """What the two networks share; not a network itself.

    Fields, beside those of `UNet`:
        channel_mult_emb: width of the embedding, in multiples of model_channels.
        augment_dim: 0, or the numbers of cond["augment"], [b, d], which say how an example was
            changed (`data.augment.geometric`). Without them nothing was.
    """

    channel_mult_emb: int = 4
    augment_dim: int = 0

    def _blocks(self, cls, heads, embedding, train, kernel=None):
        cls = saving_memory(cls, self.remat)

        def block(h, features, name, attention=False, resample=None):
            count = heads(features) if attention else 0
            layer = cls(features, count, self.dropout, resample, kernel, name=name)
            return layer(h, embedding, train)

        return block

    def _with_augment(self, embedding, cond, init):
        """Adds a linear layer of cond["augment"]."""
        if not self.augment_dim:
            return embedding
        shape = (len(embedding), self.augment_dim)
        vector = (cond or {}).get("augment", jnp.zeros(shape, embedding.dtype))
        if vector.shape != shape:
            raise ValueError(f"cond['augment'] has the shape {vector.shape}, not {shape}")
        vector = vector.astype(embedding.dtype)
        width = embedding.shape[1]
        return embedding + dense(vector, width, init, bias=False, name="map_augment")


class SongUNet(EDMUNet):
    """DDPM++ and NCSN++ as EDM trains them.

    `net.apply({"params": p}, x [b, h, w, c], noise [b], cond, train) -> [b, h, w, c]`. What the
    output means is up to the parametrization. The defaults make DDPM++; NCSN++ has
    embedding_type="fourier", channel_mult_noise=2, encoder_type="residual" and
    resample_filter=(1, 3, 3, 1).

    Fields, beside those of `EDMUNet`:
        embedding_type: of the number `noise`, "positional" or "fourier".
        channel_mult_noise: width of that embedding, in multiples of model_channels.
        encoder_type: how the shrunk input joins the way down: not ("standard"), at every level
            ("skip"), or in a pyramid that every level adds to ("residual").
        decoder_type: whether the output is made by the last level ("standard") or is the sum of one
            of every level ("skip").
        resample_filter: the taps of the filter of resampling, symmetric.

    Raises:
        ValueError: as `UNet`; an unknown option; a filter that is not symmetric; cond["augment"]
            has another shape.
    """

    embedding_type: str = "positional"
    channel_mult_noise: int = 1
    encoder_type: str = "standard"
    decoder_type: str = "standard"
    resample_filter: tuple[int, ...] = (1, 1)

    def __post_init__(self):
        check_fields(self, _OPTIONS)
        symmetric(self.resample_filter)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        noise: Real[Array, " b"],
        cond: Cond | None = None,
        train: bool = False,
    ) -> Float[Array, "b h w c"]:
        h = image = self._input(x)
        kernel = symmetric(self.resample_filter)
        block = self._blocks(
            SongBlock, lambda features: 1, self._embedding(noise, cond), train, kernel
        )
        h = conv(h, self.model_channels, XAVIER, name="enc_0_conv")
        skips = self._down(h, block, self._pyramid(image, kernel))

        def attends(height, i):
            return i == self.num_blocks and height in self.attn_resolutions

        out = None
        for level, h in self._up(skips, block, _concatenate, attends):
            if self.decoder_type == "standard" and level:
                continue
            head = nn.swish(GroupNorm(name=f"dec_{level}_aux_norm")(h))
            head = conv(head, x.shape[-1], ALMOST_ZERO, name=f"dec_{level}_aux_conv")
            out = head if out is None else upsample(out, kernel) + head
        assert out is not None  # there is a level 0
        return out.astype(x.dtype)

    def _embedding(self, noise, cond):
        width, v = self.model_channels * self.channel_mult_noise, self._noise(noise)
        if self.embedding_type == "fourier":
            h = FourierFeatures(width // 2, 16.0, name="map_noise")(v)
        else:
            h = positional_features(v, width)
        if self.num_classes:
            classes = self._classes(cond, h) * math.sqrt(self.num_classes)
            h = h + dense(classes, width, XAVIER, name="map_label")
        h = add_numbers(self._with_augment(h, cond, XAVIER), cond, self.numbers)
        for name in ("map_layer0", "map_layer1"):
            width = self.model_channels * self.channel_mult_emb
            h = nn.swish(dense(h, width, XAVIER, name=name))
        return h

    def _pyramid(self, image, kernel):
        """`(h, level) -> h`, how the shrunk input joins the way down."""
        pyramid = image

        def residual(h, level):
            nonlocal pyramid
            taps, name = kernel or (1, 1), f"enc_{level}_aux_residual"
            margin = 1 + (len(taps) - 1) // 2
            padding = [(margin, margin)] * 2
            shrunk = conv(pyramid, h.shape[-1], XAVIER, padding=padding, name=name)
            pyramid = (h + upfirdn(shrunk, taps, down=2)) / math.sqrt(2)
            return pyramid

        def skip(h, level):
            nonlocal pyramid
            pyramid = downsample(pyramid, kernel)
            return h + conv(pyramid, h.shape[-1], XAVIER, 1, name=f"enc_{level}_aux_skip")

        return {"standard": lambda h, level: h, "skip": skip, "residual": residual}[
            self.encoder_type
        ]


class DhariwalUNet(EDMUNet):
    """The network of ADM (Dhariwal & Nichol 2021, arXiv:2105.05233) as EDM trains it.

    `net.apply({"params": p}, x [b, h, w, c], noise [b], cond, train) -> [b, h, w, c]`. The defaults
    are those of ImageNet at 64 pixels, beside num_classes=1000. A head of attention has 64 channels
    or more; blocks with fewer channels have no attention.

    Raises:
        ValueError: as `UNet`; cond["augment"] has another shape.
    """

    model_channels: int = 192
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)
    num_blocks: int = 3
    attn_resolutions: tuple[int, ...] = (32, 16, 8)

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        noise: Real[Array, " b"],
        cond: Cond | None = None,
        train: bool = False,
    ) -> Float[Array, "b h w c"]:
        h = self._input(x)
        block = self._blocks(
            DhariwalBlock, lambda features: features // 64, self._embedding(noise, cond), train
        )
        h = conv(h, self.model_channels * self.channel_mult[0], KAIMING, name="enc_0_conv")
        skips = self._down(h, block, lambda h, level: h)
        *_, (_, h) = self._up(skips, block, _concatenate, self._attends)
        h = nn.swish(GroupNorm(eps=DhariwalBlock.eps, name="out_norm")(h))
        return conv(h, x.shape[-1], ZERO, name="out_conv").astype(x.dtype)

    def _attends(self, height, i):
        return height in self.attn_resolutions

    def _embedding(self, noise, cond):
        h = positional_features(self._noise(noise), self.model_channels, freq_shift=0)
        h = self._with_augment(halves_swapped(h), cond, ZERO)
        h = add_numbers(h, cond, self.numbers)
        width = self.model_channels * self.channel_mult_emb
        h = nn.swish(dense(h, width, KAIMING, name="map_layer0"))
        h = dense(h, width, KAIMING, name="map_layer1")
        if self.num_classes:
            normal = Init(nn.initializers.normal(1.0))
            h = h + dense(self._classes(cond, h), width, normal, bias=False, name="map_label")
        return nn.swish(h)


def _concatenate(h, skip):
    return jnp.concatenate([h, skip], axis=-1)
