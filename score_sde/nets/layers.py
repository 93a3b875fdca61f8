"""The layers of the U-Nets. Each computes in the dtype of its input, with float32 parameters."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Initializer
from jaxtyping import Array, Float

from score_sde.nets.attention import attend
from score_sde.nets.convolution import conv_general_dilated, conv_of_upsampled, product
from score_sde.nets.resampling import Kernel, downsample, resample, upfirdn, upsample
from score_sde.types import real_dtype

COMBINATIONS = ("sum", "cat")


def fan_avg(scale: float = 1.0) -> Initializer:
    """DDPM's initialisation; scale 0 means 1e-10, a layer that starts at almost zero."""
    return nn.initializers.variance_scaling(scale or 1e-10, "fan_avg", "uniform")


def conv(
    x: Float[Array, "b h w c"],
    features: int,
    size: int = 3,
    *,
    stride: int = 1,
    padding: str | Sequence[tuple[int, int]] = "SAME",
    init_scale: float = 1.0,
    convolution: Callable[..., Array] = conv_general_dilated,
    name: str,
) -> Float[Array, "b H W d"]:
    """A convolution with bias, of the compact method it is called in."""
    init = fan_avg(init_scale)
    return Conv(features, size, stride, padding, init, convolution=convolution, name=name)(x)


def add_bias(x: Float[Array, "*s c"], bias: Float[Array, "... c"]) -> Float[Array, "*s c"]:
    """x + bias in the dtype of x, added in at least float32. So the derivative by the bias, a sum
    over examples and pixels, is float32 too: of bfloat16 256 ones and one more are 256."""
    wide = real_dtype(x)
    bias = bias.reshape((1,) * (x.ndim - bias.ndim) + bias.shape)
    return (x.astype(wide) + bias.astype(wide)).astype(x.dtype)


class Conv(nn.Module):
    """`flax.linen.Conv` of two dimensions, with `add_bias`."""

    features: int
    size: int
    stride: int = 1
    padding: str | Sequence[tuple[int, int]] = "SAME"
    kernel_init: Initializer = fan_avg()
    bias_init: Initializer = nn.initializers.zeros
    convolution: Callable[..., Array] = conv_general_dilated

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W d"]:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
        strides, kernel = (self.stride, self.stride), jnp.asarray(kernel, x.dtype)
        return add_bias(self.convolution(x, kernel, strides, self.padding), jnp.asarray(bias))


class Dense(nn.Module):
    """`flax.linen.Dense` with `add_bias`."""

    features: int
    kernel_init: Initializer = fan_avg()
    bias_init: Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Float[Array, "*s c"]) -> Float[Array, "*s d"]:
        return _affine(self, x, self.kernel_init, self.bias_init)


class Linear(nn.Module):
    """A dense layer without bias."""

    features: int
    kernel_init: Initializer = fan_avg()

    @nn.compact
    def __call__(self, x: Float[Array, "*s c"]) -> Float[Array, "*s d"]:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        return product(x, jnp.asarray(kernel, x.dtype))


class NIN(nn.Module):
    """A 1x1 convolution ("network in network") on the last axis."""

    features: int
    init_scale: float = 0.1

    @nn.compact
    def __call__(self, x: Float[Array, "*s c"]) -> Float[Array, "*s d"]:
        return _affine(self, x, fan_avg(self.init_scale), nn.initializers.zeros)


def _affine(layer, x, kernel_init, bias_init):
    shape = (x.shape[-1], layer.features)
    kernel = layer.param("kernel", kernel_init, shape, jnp.float32)
    bias = layer.param("bias", bias_init, (layer.features,), jnp.float32)
    return add_bias(product(x, jnp.asarray(kernel, x.dtype)), jnp.asarray(bias))


def conv_of_resampled(
    x: Float[Array, "b h w c"], features: int, direction: str, kernel: Kernel, *, name: str
) -> Float[Array, "b H W d"]:
    """The 3x3 convolution of x at twice ("up") or half ("down") its size."""
    if direction == "down":
        return conv(downsample(x, kernel), features, name=name)
    if kernel is None:
        return conv(x, features, convolution=conv_of_upsampled, name=name)
    return conv(upsample(x, kernel), features, name=name)


def dense(x: Float[Array, "b c"], features: int, *, name: str) -> Float[Array, "b d"]:
    """A dense layer with bias, of the compact method it is called in."""
    return Dense(features, name=name)(x)


def add(x: Float[Array, "*s"], h: Float[Array, "*s"], rescale: bool) -> Float[Array, "*s"]:
    """A residual sum; `rescale` divides by sqrt 2, which keeps the variance."""
    return (x + h) / math.sqrt(2) if rescale else x + h


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def normalised(
    y: Float[Array, "b h w c"],
    scale: Float[Array, "1 1 1 c"],
    bias: Float[Array, "1 1 1 c"],
    groups: int,
    eps: float,
) -> Float[Array, "b h w c"]:
    """scale (y - mean) / sqrt(variance + eps) + bias, of each example and group of channels.

    Its derivative is written out so that the gradient has two sums over pixels, both of a channel:
    that of g, and that of g (y - mean). All others follow from them.
    """
    centred, inverse = _centred(y, groups, eps)
    return centred * (inverse * scale) + bias


@normalised.defjvp
def _normalised_jvp(groups, eps, primals, tangents):
    (y, scale, bias), (dy, dscale, dbias) = primals, tangents
    centred, inverse = _centred(y, groups, eps)
    gain = inverse * scale
    # the variance does not change with the mean in first order
    dinverse = -(inverse**3) * _mean_of_groups(centred * dy, groups)
    dgain = dinverse * scale + inverse * dscale
    shift = dbias - gain * _mean_of_groups(dy, groups)
    return centred * gain + bias, dy * gain + centred * dgain + shift


def _centred(y, groups, eps):
    """y - mean, and 1 / sqrt(variance + eps) [b, 1, 1, c]."""
    y = y - _mean_of_groups(y, groups)
    return y, jax.lax.rsqrt(_mean_of_groups(y**2, groups) + eps)


def _mean_of_groups(y, groups):
    # over pixels first: on the CPU two to four times faster
    b, c = y.shape[0], y.shape[-1]
    means = jnp.mean(y, axis=(1, 2)).reshape(b, groups, c // groups)
    return jnp.repeat(jnp.mean(means, axis=2), c // groups, axis=1).reshape(b, 1, 1, c)


class GroupNorm(nn.Module):
    """Group normalisation (arXiv:1803.08494) with statistics in at least float32.

    The number of groups is the largest divisor of the channels that is at most `max_groups` and
    leaves at least `min_group_size` channels in a group. `eps` is added to the variance.
    """

    min_group_size: int = 4
    max_groups: int = 32
    eps: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        c = x.shape[-1]
        limit = max(min(c // self.min_group_size, self.max_groups), 1)
        groups = next(g for g in range(limit, 0, -1) if c % g == 0)
        scale = self.param("scale", nn.initializers.ones, (c,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (c,), jnp.float32)
        y = x.astype(real_dtype(x))
        scale, bias = (p.astype(y.dtype).reshape(1, 1, 1, c) for p in (scale, bias))
        y = normalised(y, scale, bias, groups, self.eps)
        return y.astype(x.dtype)


class Dropout(nn.Module):
    """Sets numbers to zero with probability `rate`, rounded to a multiple of 2^-16, and scales the
    others so that the mean stays (arXiv:1207.0580).

    It draws half as many random bits as `flax.linen.Dropout`, which takes some 4 % of a training
    step on the CPU for them.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "*s c"], train: bool) -> Float[Array, "*s c"]:
        dropped = round(self.rate * 2**16)
        if not train or not dropped:
            return x
        shape = (*x.shape[:-1], (x.shape[-1] + 1) // 2)
        pairs = jax.random.bits(self.make_rng("dropout"), shape, jnp.uint32)
        numbers = jax.lax.bitcast_convert_type(pairs, jnp.uint16)  # [*s, (c + 1) / 2, 2]
        numbers = numbers.reshape(*x.shape[:-1], -1)[..., : x.shape[-1]]
        return jnp.where(numbers < dropped, 0, x * (2**16 / (2**16 - dropped)))


class UpConv(nn.Module):
    """Doubles the size: upsampling, then a 3x3 convolution."""

    features: int
    kernel: Kernel = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W d"]:
        x = upsample(x, self.kernel, margin=1)  # the 3x3 kernel reaches a pixel beyond the border
        return conv(x, self.features, padding="VALID", name="conv")


class DownConv(nn.Module):
    """Halves the size: the filter, if there is one, then a 3x3 convolution of stride 2.

    padding: pixels of zero before and after the image, if there is no filter.
    """

    features: int
    kernel: Kernel = None
    padding: tuple[int, int] = (0, 1)

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W d"]:
        if self.kernel is None:
            return conv(x, self.features, stride=2, padding=(self.padding,) * 2, name="conv")
        n = len(self.kernel)
        x = upfirdn(x, self.kernel, padding=((n + 1) // 2, n // 2))
        return conv(x, self.features, stride=2, padding="VALID", name="conv")


class Combine(nn.Module):
    """Brings the input pyramid to the channels of h, and joins the two by "sum" or "cat"."""

    method: str

    @nn.compact
    def __call__(
        self, pyramid: Float[Array, "b h w p"], h: Float[Array, "b h w c"]
    ) -> Float[Array, "b h w d"]:
        pyramid = conv(pyramid, h.shape[-1], 1, name="conv")
        return pyramid + h if self.method == "sum" else jnp.concatenate([pyramid, h], axis=-1)


class AttnBlock(nn.Module):
    """Residual self-attention over the pixels, with the softmax in float32.

    head_dim: channels of a head; 0 is one head of all channels. group_norm: `(name=...)` makes a
    GroupNorm.
    """

    init_scale: float
    skip_rescale: bool
    group_norm: Callable[..., GroupNorm]
    head_dim: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, height, w, c = x.shape
        d = self.head_dim or c
        if c % d:
            raise ValueError(f"head_dim={d} does not divide the {c} channels of the attention")
        h = self.group_norm(name="norm")(x).reshape(b, height * w, c)
        q, k, v = (
            NIN(c, name=name)(h).reshape(b, height * w, c // d, d)
            for name in ("query", "key", "value")
        )
        h = attend(q, k, v).reshape(b, height * w, c)
        h = NIN(c, self.init_scale, name="out")(h)
        return add(x, h.reshape(x.shape), self.skip_rescale)


class ResBlock(nn.Module):
    """A residual block, which adds the embedding of the noise, if there is one, between its two
    convolutions.

    It is DDPM's (arXiv:2006.11239) or BigGAN's (arXiv:1809.11096); the latter may resample ("up" or
    "down") inside. At the start the shortcut has 0.1 or 1 times the usual variance.
    """

    features: int
    biggan: bool
    dropout: float
    init_scale: float
    skip_rescale: bool
    group_norm: Callable[..., GroupNorm]
    resample: str | None = None
    kernel: Kernel = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], embedding: Float[Array, "b e"] | None, train: bool
    ) -> Float[Array, "b H W d"]:
        h = nn.swish(self.group_norm(name="norm_0")(x))
        if self.resample is None:
            h = conv(h, self.features, name="conv_0")
        else:
            h = conv_of_resampled(h, self.features, self.resample, self.kernel, name="conv_0")
            x = resample(x, self.resample, self.kernel)
        if embedding is not None:
            shift = dense(nn.swish(embedding), self.features, name="dense")
            h = add_bias(h, shift[:, None, None, :])
        h = nn.swish(self.group_norm(name="norm_1")(h))
        h = Dropout(self.dropout)(h, train)
        h = conv(h, self.features, init_scale=self.init_scale, name="conv_1")
        if x.shape[-1] != self.features or self.resample is not None:
            if self.biggan:
                x = conv(x, self.features, 1, name="shortcut")
            else:
                x = NIN(self.features, name="shortcut")(x)
        return add(x, h, self.skip_rescale)
