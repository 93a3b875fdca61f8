"""A function of images, such as a decoder, made one tile after another."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.types import real_dtype


def tiled(
    function: Callable[[Array], Array],
    z: Float[Array, "b h w c"],
    tile: int,
    overlap: int,
    factor: int,
) -> Float[Array, "b H W d"]:
    """`function(z)` [b, factor h, factor w, d], made of squares of `tile` rows and columns of z,
    each of which overlaps the next by `overlap` or more. In an overlap the result goes over from
    one to the other; the outer quarter of it, where a tile does not see its surroundings, is left
    out. So a function that looks no further than a quarter of the overlap gives what it gives at
    once.
    """
    height, width = z.shape[1:3]
    rows, columns = (_starts(n, tile, overlap) for n in (height, width))
    places = jnp.array([(i, j) for i in rows for j in columns])
    size = (min(tile, height), min(tile, width))
    cut = (z.shape[0], *size, z.shape[3])
    example: Any = jax.eval_shape(function, jax.ShapeDtypeStruct(cut, z.dtype))
    dtype = real_dtype(z)
    across = functools.partial(_window, tile=tile, overlap=overlap, factor=factor)
    windows = [np.outer(across(i, height), across(j, width)) for i in rows for j in columns]
    weights = jnp.asarray(np.stack(windows), dtype)

    def add(carry, inputs):
        total, weight = carry
        place, window = inputs
        part = function(jax.lax.dynamic_slice(z, (0, *place, 0), cut))
        start = (0, *(factor * place), 0)
        window = window[None, :, :, None]
        old = jax.lax.dynamic_slice(total, start, part.shape)
        total = jax.lax.dynamic_update_slice(total, old + window * part.astype(dtype), start)
        old = jax.lax.dynamic_slice(weight, start, window.shape)
        return (total, jax.lax.dynamic_update_slice(weight, old + window, start)), None

    whole = (z.shape[0], factor * height, factor * width, example.shape[-1])
    empty = (jnp.zeros(whole, dtype), jnp.zeros((1, *whole[1:3], 1), dtype))
    (total, weight), _ = jax.lax.scan(add, empty, (places, weights))
    return (total / weight).astype(example.dtype)


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along an axis; the last ends with it."""
    last = max(length - tile, 0)
    return [*range(0, last, tile - overlap), last]


def _window(
    start: int, length: int, *, tile: int, overlap: int, factor: int
) -> Float[np.ndarray, " n"]:
    """The weights of a tile along an axis: 1, but where there is a neighbour 0 in the outer quarter
    of the overlap, and then rising to 1 within the next half."""
    n, quarter = factor * min(tile, length), factor * overlap / 4
    inside = np.arange(n) + 0.5
    before = np.clip((inside - quarter) / (2 * quarter), 0, 1) if start else np.ones(n)
    after = np.ones(n)
    if start + tile < length:
        after = np.clip((n - inside - quarter) / (2 * quarter), 0, 1)
    return before * after
