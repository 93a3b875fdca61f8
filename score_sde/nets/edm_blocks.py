"""The residual blocks of EDM's U-Nets, and how their layers start."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Initializer
from jaxtyping import Array, Float

from score_sde.nets.attention import attend
from score_sde.nets.convolution import conv_general_dilated, conv_of_upsampled
from score_sde.nets.layers import Conv, Dense, Dropout, GroupNorm, fan_avg
from score_sde.nets.resampling import Kernel, resample


class Init(NamedTuple):
    """How the layers of one kind start. bias: from the number of inputs to an initialiser."""

    kernel: Initializer
    bias: Callable[[int], Initializer] = lambda fan_in: nn.initializers.zeros


def _as_wide(fan_in: int) -> Initializer:
    """Uniform on +-fan_in^-1/2, as the kernels of `KAIMING`."""
    edge = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -edge, edge)


XAVIER = Init(fan_avg())
XAVIER_ATTENTION = Init(fan_avg(0.2))
ALMOST_ZERO = Init(fan_avg(0.0))
KAIMING = Init(nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"), _as_wide)
ZERO = Init(nn.initializers.zeros)


def conv(
    x: Float[Array, "b h w c"],
    features: int,
    init: Init,
    size: int = 3,
    *,
    padding: str | Sequence[tuple[int, int]] = "SAME",
    convolution: Callable[..., Array] = conv_general_dilated,
    name: str,
) -> Float[Array, "b H W d"]:
    """A convolution with bias, of the compact method it is called in."""
    bias_init = init.bias(size * size * x.shape[-1])
    layer = Conv(features, size, 1, padding, init.kernel, bias_init, convolution, name=name)
    return layer(x)


def dense(
    x: Float[Array, "b c"], features: int, init: Init, *, bias: bool = True, name: str
) -> Float[Array, "b d"]:
    """A dense layer, of the compact method it is called in."""
    if not bias:
        kernel = init.kernel
        return nn.Dense(features, use_bias=False, kernel_init=kernel, dtype=x.dtype, name=name)(x)
    return Dense(features, init.kernel, init.bias(x.shape[-1]), name=name)(x)


class Block(nn.Module):
    """A residual block, which may resample its input ("up" or "down"), and attention after it.

    The classes below are its two kinds. heads: 0 for no attention. eps: of the normalisations.
    skip_scale: the factor of residual sums. projects: whether the shortcut of a resampled input
    has a convolution.
    """

    features: int
    heads: int
    dropout: float
    resample: str | None = None
    kernel: Kernel = None

    eps: ClassVar[float]
    skip_scale: ClassVar[float]
    projects: ClassVar[bool]
    init: ClassVar[Init]
    init_attention: ClassVar[Init]
    init_last: ClassVar[Init]

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], embedding: Float[Array, "b e"], train: bool
    ) -> Float[Array, "b H W d"]:
        h = self._first_convolution(nn.swish(self._norm(x, "norm0")))
        h = nn.swish(self._conditioned(h, embedding))
        h = Dropout(self.dropout)(h, train)
        h = conv(h, self.features, self.init_last, name="conv1")
        x = (self._shortcut(x) + h) * self.skip_scale
        return self._attention(x) if self.heads else x

    def _first_convolution(self, h):
        """That of h, resampled."""
        if (self.resample, self.kernel) == ("up", None):
            convolution = conv_of_upsampled
        else:
            h, convolution = self._resampled(h), conv_general_dilated
        return conv(h, self.features, self.init, convolution=convolution, name="conv0")

    def _conditioned(self, h, embedding):
        """Normalises h, and tells it the noise level and the conditions."""
        raise NotImplementedError

    def _attention(self, x):
        b, height, width, c = x.shape
        h = conv(self._norm(x, "norm2"), 3 * c, self.init_attention, 1, name="qkv")
        h = h.reshape(b, height * width, self.heads, c // self.heads, 3)
        h = attend(h[..., 0], h[..., 1], h[..., 2]).reshape(x.shape)
        return (x + conv(h, c, self.init_last, 1, name="proj")) * self.skip_scale

    def _shortcut(self, x):
        projects = x.shape[-1] != self.features or (self.projects and self.resample is not None)
        x = self._resampled(x)
        return conv(x, self.features, self.init, 1, name="skip") if projects else x

    def _resampled(self, x):
        return resample(x, self.resample, self.kernel)

    def _affine(self, embedding, features, like):
        vector = dense(embedding, features, self.init, name="affine")
        return vector.astype(like.dtype)[:, None, None, :]

    def _norm(self, x, name):
        return GroupNorm(eps=self.eps, name=name)(x)


class SongBlock(Block):
    """The block of DDPM++ and NCSN++: the embedding is added before the normalisation."""

    eps = 1e-6
    skip_scale = math.sqrt(0.5)
    projects = True
    init = XAVIER
    init_attention = XAVIER_ATTENTION
    init_last = ALMOST_ZERO

    def _conditioned(self, h, embedding):
        return self._norm(h + self._affine(embedding, self.features, h), "norm1")


class DhariwalBlock(Block):
    """The block of ADM: the embedding scales and shifts what is normalised."""

    eps = 1e-5
    skip_scale = 1.0
    projects = False
    init = KAIMING
    init_attention = KAIMING
    init_last = ZERO

    def _conditioned(self, h, embedding):
        scale, shift = jnp.split(self._affine(embedding, 2 * self.features, h), 2, axis=-1)
        return self._norm(h, "norm1") * (1 + scale) + shift
