"""Patches of an array of any number of axes, and where they are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real, Shaped

from score_sde.types import real_dtype


def patchify(x: Shaped[Array, "b *axes c"], patch: Sequence[int]) -> Shaped[Array, "b *grid d"]:
    """Cuts every axis into patches: x [b, h, w, c] with patches (p, q) is [b, h/p, w/q, p q c], in
    which the channels change fastest.

    Raises:
        ValueError: the number of axes is not that of `patch`, or an axis is no multiple.
    """
    axes = x.shape[1:-1]
    if len(axes) != len(patch) or any(n % p for n, p in zip(axes, patch, strict=True)):
        raise ValueError(f"axes of {axes} numbers cannot be cut into patches of {tuple(patch)}")
    grid = [n // p for n, p in zip(axes, patch, strict=True)]
    pairs = [n for pair in zip(grid, patch, strict=True) for n in pair]
    k = len(grid)
    outer, inner = range(1, 2 * k, 2), range(2, 2 * k + 1, 2)
    x = x.reshape(x.shape[0], *pairs, x.shape[-1]).transpose(0, *outer, *inner, 2 * k + 1)
    return x.reshape(x.shape[0], *grid, -1)


def unpatchify(x: Shaped[Array, "b *grid d"], patch: Sequence[int]) -> Shaped[Array, "b *axes c"]:
    """The inverse of `patchify`."""
    grid, k = x.shape[1:-1], len(patch)
    x = x.reshape(x.shape[0], *grid, *patch, -1)
    order = [i for pair in zip(range(1, k + 1), range(k + 1, 2 * k + 1), strict=True) for i in pair]
    x = x.transpose(0, *order, 2 * k + 1)
    return x.reshape(x.shape[0], *(n * p for n, p in zip(grid, patch, strict=True)), x.shape[-1])


def angles(grid: Sequence[int], pairs: int) -> list[Float[np.ndarray, "n m"]]:
    """`i w_j` for each axis, the last axis first: i is the place of a patch along the axis, and
    w_j = 1e-4^(j/m) for j = 0..m-1.

    The axes share the `pairs` of sine and cosine as evenly as they can. n is the number of patches,
    in C order.
    """
    k = len(grid)
    shares = [pairs // k + (i < pairs % k) for i in range(k)]
    places = np.indices(grid).reshape(k, -1)[::-1]
    return [
        place[:, None] * 1e-4 ** (np.arange(m) / max(m, 1))
        for place, m in zip(places, shares, strict=True)
    ]


def sines(grid: Sequence[int], width: int) -> Float[np.ndarray, "n w"]:
    """Factorised positions, `[sin, cos]` of the `angles` of each axis (arXiv:2212.09748; those of
    one axis are arXiv:1706.03762's). An odd width ends with a zero."""
    waves = [wave(a) for a in angles(grid, width // 2) for wave in (np.sin, np.cos)]
    return np.concatenate([*waves, np.zeros((math.prod(grid), width % 2))], axis=1)


def rotate(
    x: Float[Array, "b n h d"], angle: Float[Array | np.ndarray, "n half_d"]
) -> Float[Array, "b n h d"]:
    """Rotary positions (RoPE, arXiv:2104.09864): numbers 2 j and 2 j + 1 of each head are a point
    of the plane, turned by `angle[:, j]`.

    So the product of a rotated q and a rotated k depends on the difference of their angles alone.
    It is computed in at least float32.
    """
    angle = jnp.asarray(angle, real_dtype(x))[None, :, None, :]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    a, b = (x[..., i::2].astype(angle.dtype) for i in (0, 1))
    turned = jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)


def noise_of_tokens(
    noise: Real[Array, "b *levels"], grid: tuple[int, ...]
) -> Real[Array, "b one_or_n"]:
    """Noise levels [b], [b, n], or [b, ...] for each patch along the first axes of the grid, as
    [b, 1] or as [b, n].

    Raises:
        ValueError: they have another shape.
    """
    levels, n = noise.shape[1:], math.prod(grid)
    if not levels:
        return noise[:, None]
    if levels not in ((n,), tuple(grid[: len(levels)])):
        raise ValueError(
            f"noise has the shape {noise.shape}, and there are {tuple(grid)} patches: it is "
            "[b], or [b, ...] with a number for each patch, or each along the first axes"
        )
    return jnp.repeat(noise.reshape(len(noise), -1), n // math.prod(levels), axis=1)
