"""The latent space of a trained autoencoder: a codec around the codec of its images."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.codecs import moments
from score_sde.codecs.codec import Codec
from score_sde.codecs.tiles import tiled
from score_sde.types import Feature, Frozen, Key, Needs, PyTree

__all__ = ["autoencoder"]  # what a config can name

_STATIC = {"static": True}  # a field that is no leaf of the pytree

AUTOENCODER = "autoencoder"  # what `digests` call it
MOMENTS = "moments"
"""The raw part that holds what the encoder gives, in a data set that mode `encode` made."""


def autoencoder(
    features: Mapping[str, Feature],
    *,
    workdir: str,
    shift: float | tuple[float, ...] | None = None,
    scale: float | tuple[float, ...] | None = None,
    tile: int = 0,
    overlap: int = 8,
) -> Needs:
    """The latents of the autoencoder in a workdir, or in a folder `vae` of diffusers:

        x = (z - shift) scale,   z ~ the posterior of the encoder

    shift, scale: numbers, for all channels or one for each; None takes those that the folder of the
        autoencoder states. That of a workdir of ours makes each channel of mean 0 and variance 1.
    tile, overlap: with a tile above 0, larger latents are decoded in squares of this many rows and
        columns, which overlap by so many and are blended, so that the memory does not grow.

    A data set that mode `encode` made has the encoder's posterior already, so it is not called.
    """

    def make(frozen: Frozen) -> Autoencoder:
        inner: Codec = frozen.about["codec"](features)
        net, cached = frozen.module, MOMENTS in features
        image = jax.ShapeDtypeStruct((1, *inner.shape), jnp.float32)
        params = jax.eval_shape(lambda p: p, frozen.params)
        found = jax.eval_shape(
            lambda p, x: net.apply({"params": p}, x, method="encode"), params, image
        )
        feature = Feature(found.shape[1:])
        if cached and features[MOMENTS] != feature:
            raise ValueError(
                f"the data set holds moments of shape {features[MOMENTS].shape}, and this "
                f"autoencoder gives {feature.shape}: run --mode encode again"
            )
        channels = feature.shape[-1] // 2
        numbers: list[np.ndarray] = []
        for name, given in (("shift", shift), ("scale", scale)):
            value = frozen.about[name] if given is None else given
            numbers.append(np.broadcast_to(np.asarray(value, np.float32), (channels,)))
        if not np.all(numbers[1] > 0):
            raise ValueError(f"scale must be above 0, not {scale}")
        if tile and not 0 < 2 * overlap <= tile:
            raise ValueError(f"overlap={overlap} is not between 1 and half of tile={tile}")
        return Autoencoder(
            params=frozen.params,
            shift=tuple(numbers[0].tolist()),
            scale=tuple(numbers[1].tolist()),
            inner=inner,
            net=net,
            digest=frozen.digest,
            moments_feature=feature,
            cached=cached,
            tile=tile,
            overlap=overlap,
        )

    return Needs((workdir,), make)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Autoencoder:
    """x are scaled latents of the images of another codec.

    params: those of the network, the only leaves of this pytree.
    inner: the codec of its images. net: has methods `encode` and `decode`.
    moments_feature: of what the encoder gives. cached: whether the raw part is that.
    """

    params: PyTree = dataclasses.field(compare=False, repr=False)
    shift: tuple[float, ...] = dataclasses.field(metadata=_STATIC)
    scale: tuple[float, ...] = dataclasses.field(metadata=_STATIC)
    inner: Any = dataclasses.field(metadata=_STATIC)
    net: Any = dataclasses.field(metadata=_STATIC, repr=False)
    digest: str = dataclasses.field(metadata=_STATIC)
    moments_feature: Feature = dataclasses.field(metadata=_STATIC)
    cached: bool = dataclasses.field(metadata=_STATIC, default=False)
    tile: int = dataclasses.field(metadata=_STATIC, default=0)
    overlap: int = dataclasses.field(metadata=_STATIC, default=8)

    bounds = None
    noise_width = 0.0
    levels = None
    tokens = None

    @property
    def part(self) -> str:
        """That of the images; or "moments" of a data set that has them."""
        return MOMENTS if self.cached else self.inner.part

    @property
    def feature(self) -> Feature:
        """That of the images, or of the moments."""
        return self.moments_feature if self.cached else self.inner.feature

    @property
    def shape(self) -> tuple[int, ...]:
        """(h, w, z), that of the latents."""
        *size, channels = self.moments_feature.shape
        return (*size, channels // 2)

    @property
    def digests(self) -> dict[str, str]:
        """That of the autoencoder."""
        return {AUTOENCODER: self.digest}

    @property
    def medium(self) -> str:
        """That of the images."""
        return self.inner.medium

    def encode(self, key: Key, raw: Any) -> Float[Array, "..."]:
        """Scaled latents, drawn from the posterior of each example."""
        return self._scaled(moments.sample(key, self.posterior(raw)))

    def dequantize(self, key: Key, raw: Any) -> Float[Array, "..."]:
        """Raises ValueError: a density of latents is none of images."""
        raise ValueError(
            "a density of latents is none of images, for an autoencoder loses some of them: take a "
            "model whose codec is pixels"
        )

    def middle(self, raw: Any) -> Float[Array, "..."]:
        """The scaled mean of the posterior."""
        return self._scaled(moments.mean_and_std(self.posterior(raw))[0])

    def posterior(self, raw: Any) -> Float[Array, "..."]:
        """What the encoder gives for raw examples; they have it already if it is `cached`."""
        raw = jnp.asarray(raw)
        return raw if self.cached else self._encoded(raw)

    def decode(self, x: Any) -> Float[Array, "..."]:
        """The images of scaled latents, as `inner` has them, as real numbers."""
        x = jnp.asarray(x)
        z = x / _channels(self.scale, x) + _channels(self.shift, x)
        batch = z.reshape(-1, *z.shape[-3:])
        image = self._decoded(batch)
        return self.inner.decode(image.reshape(*z.shape[:-3], *image.shape[1:]))

    def quantize(self, reals: Any) -> Array:
        """The raw part nearest to decoded images."""
        raw = self.inner.quantize(reals)
        return self._encoded(raw) if self.cached else raw

    def show(self, reals: Any) -> Array:
        """As `inner`."""
        return self.inner.show(reals)

    def show_raw(self, raw: Any) -> Array:
        """The image; of moments, what the decoder makes of their mean."""
        return self.show(self.decode(self.middle(raw))) if self.cached else self.inner.show_raw(raw)

    def raw_of(self, shown: Any) -> Array:
        """The raw part of a shown image."""
        raw = self.inner.raw_of(shown)
        return self._encoded(raw) if self.cached else raw

    def locate(self, shown: Any) -> Float[Array, "..."]:
        """The scaled mean of the posterior of a shown image."""
        return self.middle(self.raw_of(shown))

    def stored(self, raw: Any) -> dict[str, Array]:
        """The moments of the posterior."""
        return {MOMENTS: self.posterior(raw)}

    def bits_per_dim(self, log_prob: Any) -> None:
        """There are none: latents are real numbers."""

    def _encoded(self, raw):
        batch = raw.reshape(-1, *self.inner.feature.shape)
        found = self._apply(self.inner.middle(batch), "encode")
        return found.reshape(*raw.shape[:-3], *found.shape[1:])

    def _decoded(self, z):
        decode = functools.partial(self._apply, method="decode")
        if not self.tile or max(z.shape[1:3]) <= self.tile:
            return decode(z)
        factor = self.inner.shape[0] // self.shape[0]
        return tiled(decode, z, self.tile, self.overlap, factor)

    def _apply(self, x, method):
        return self.net.apply({"params": self.params}, x, method=method)

    def _scaled(self, z):
        return (z - _channels(self.shift, z)) * _channels(self.scale, z)


def _channels(numbers: tuple[float, ...], z: Array) -> Array:
    """A number for each channel, the last axis of z, with its dtype and as many axes."""
    return jnp.asarray(numbers, z.dtype).reshape(*[1] * (z.ndim - 1), -1)
