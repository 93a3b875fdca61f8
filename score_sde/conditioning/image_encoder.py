"""The frozen encoder of an autoencoder, for conditioners that read an image beside x."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.types import Feature, Frozen, PyTree

_STATIC = {"static": True}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ImageEncoder:
    """params: those of the autoencoder. digest: of them. inner: the codec of its images. shape: of
    the latents, (h, w, z)."""

    params: PyTree = dataclasses.field(compare=False, repr=False)
    module: Any = dataclasses.field(repr=False, metadata=_STATIC)
    digest: str = dataclasses.field(metadata=_STATIC)
    inner: Any = dataclasses.field(metadata=_STATIC)
    shape: tuple[int, ...] = dataclasses.field(metadata=_STATIC)

    @property
    def factor(self) -> int:
        """How many pixels of an image along an axis are one latent."""
        return self.inner.feature.shape[0] // self.shape[0]

    def mean(self, raw: Any, keep: Any = 1.0) -> Float[Array, "b h w z"]:
        """The mean of the posterior of images [b, H, W, c], as the autoencoder gives it: neither
        shifted nor scaled.

        keep: what the images, in the network's units, are multiplied by.
        """
        moments: Any = self.module.apply(
            {"params": self.params}, self.inner.middle(raw) * keep, method="encode"
        )
        return jnp.split(moments, 2, axis=-1)[0]


def encoder_of(features: Mapping[str, Feature], net: Frozen) -> ImageEncoder:
    """That of a frozen autoencoder, for the images of a data set."""
    inner = net.about["codec"](features)
    raw = jax.ShapeDtypeStruct((1, *inner.feature.shape), jnp.uint8)

    def encode(params, raw):
        return net.module.apply({"params": params}, inner.middle(raw), method="encode")

    *size, channels = jax.eval_shape(encode, net.params, raw).shape[1:]
    return ImageEncoder(net.params, net.module, net.digest, inner, (*size, channels // 2))
