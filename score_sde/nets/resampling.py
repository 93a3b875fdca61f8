"""Resampling of images by two with a separable FIR filter, as in StyleGAN2 (arXiv:1912.04958).

A filter is given by its taps on one axis, such as (1, 3, 3, 1), which are normalised to sum 1.
`None` means the taps (1, 1): nearest-neighbour upsampling and mean pooling. Pixels outside the
image are zero.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Kernel = tuple[int, ...] | None


def upfirdn(
    x: Float[Array, "b h w c"],
    kernel: tuple[int, ...],
    up: int = 1,
    down: int = 1,
    padding: tuple[int, int] = (0, 0),
) -> Float[Array, "b H W c"]:
    """On both image axes: insertion of zeros by `up`, padding, convolution, decimation by `down`.

    The convolution is a sum of shifted slices. On the CPU that is many times faster than a
    depthwise convolution, forward and backward, and XLA fuses it on accelerators. The gain is `up`
    per axis, so that a constant image keeps its value.
    """
    taps = [up * k / sum(kernel) for k in reversed(kernel)]
    before, after = padding
    for axis in (1, 2):
        config = [(0, 0, 0)] * x.ndim
        config[axis] = (before, after + up - 1, up - 1)  # the last pixel is followed by zeros too
        x = lax.pad(x, jnp.zeros((), x.dtype), config)
        size = x.shape[axis] - len(taps) + 1
        x = sum(  # pyright: ignore[reportAssignmentType]
            tap * lax.slice_in_dim(x, i, i + size, stride=down, axis=axis)
            for i, tap in enumerate(taps)
        )
    return x


def upsample(
    x: Float[Array, "b h w c"], kernel: Kernel = None, margin: int = 0
) -> Float[Array, "b H W c"]:
    """Doubles the size, and keeps `margin` more pixels of the filter's tail on every side."""
    if kernel is None:
        edge = (margin, margin)
        return jnp.pad(x.repeat(2, axis=1).repeat(2, axis=2), ((0, 0), edge, edge, (0, 0)))
    p = len(kernel) - 2
    return upfirdn(x, kernel, up=2, padding=((p + 1) // 2 + 1 + margin, p // 2 + margin))


def downsample(x: Float[Array, "b h w c"], kernel: Kernel = None) -> Float[Array, "b H W c"]:
    """Halves the size."""
    if kernel is None:
        b, h, w, c = x.shape
        return jnp.mean(x.reshape(b, h // 2, 2, w // 2, 2, c), axis=(2, 4))
    p = len(kernel) - 2
    return upfirdn(x, kernel, down=2, padding=((p + 1) // 2, p // 2))


def resample(
    x: Float[Array, "b h w c"], direction: str | None, kernel: Kernel = None
) -> Float[Array, "b H W c"]:
    """x at twice ("up") or half ("down") its size, or as it is (None)."""
    if direction is None:
        return x
    return {"up": upsample, "down": downsample}[direction](x, kernel)
