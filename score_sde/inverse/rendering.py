"""Pictures of voxels: parallel rays through a grid that emits and absorbs light."""

from __future__ import annotations

import itertools

import jax.numpy as jnp
from jaxtyping import Array, Float

SIDES = ("front", "right", "above")


def seen_from(side: str, volume: Float[Array, "x y z *c"]) -> Float[Array, "depth h w *c"]:
    """The grid as a viewer has it before him: the nearest layer first, rows downwards, columns to
    the right. z is upwards; the front is where y is least, and x is to the right there.

    Raises:
      ValueError: there is no such side.
    """
    if side == "front":
        return jnp.flip(jnp.moveaxis(volume, (1, 2, 0), (0, 1, 2)), 1)
    if side == "right":
        return jnp.flip(jnp.moveaxis(volume, (0, 2, 1), (0, 1, 2)), (0, 1))
    if side == "above":
        return jnp.flip(jnp.moveaxis(volume, (2, 1, 0), (0, 1, 2)), (0, 1))
    raise ValueError(f"there is no side {side!r}: one of {', '.join(SIDES)}")


def render(
    density: Float[Array, "depth h w"],
    colour: Float[Array, "depth h w c"],
    background: float = 0.0,
) -> Float[Array, "h w c"]:
    """The light of parallel rays along the first axis, the nearest layer first.

    A layer of optical depth `density` >= 0 absorbs the share 1 - e^-density of the light behind it
    and emits as much of its own colour (Max 1995, "Optical models for direct volume rendering"):

        C = sum_i T_i (1 - e^-density_i) colour_i + T_n background,   T_i = e^-(sum of those before)
    """
    depth = jnp.cumsum(density, axis=0)
    through = jnp.exp(-depth)
    before = jnp.concatenate([jnp.ones_like(through[:1]), through[:-1]])
    share = before * -jnp.expm1(-density)
    return jnp.sum(share[..., None] * colour, axis=0) + through[-1][..., None] * background


def turned(
    volume: Float[Array, "k k k *c"], rotation: Float[Array, "3 3"]
) -> Float[Array, "k k k *c"]:
    """A cubic grid turned about its middle by a rotation matrix, between voxels by trilinear
    interpolation; 0 comes in from outside. Differentiable in both."""
    k = volume.shape[0]
    middle = (k - 1) / 2
    axis = jnp.arange(k, dtype=volume.dtype) - middle
    places = jnp.stack(jnp.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
    # where the voxel at a place was: R^T p
    sources = jnp.matmul(places, rotation.astype(volume.dtype), precision="highest") + middle
    low = jnp.floor(sources)
    share = sources - low
    total = jnp.zeros_like(volume)
    for corner in itertools.product((0, 1), repeat=3):
        up = jnp.asarray(corner, bool)[None, None, None]
        index = low.astype(jnp.int32) + up.astype(jnp.int32)
        weight = jnp.prod(jnp.where(up, share, 1 - share), axis=-1)
        inside = jnp.all((index >= 0) & (index < k), axis=-1)
        x, y, z = jnp.moveaxis(jnp.clip(index, 0, k - 1), -1, 0)
        weight = jnp.where(inside, weight, 0)
        found = volume[x, y, z]
        total += weight.reshape(weight.shape + (1,) * (volume.ndim - 3)) * found
    return total


def about_z(angle: Float[Array, ""]) -> Float[Array, "3 3"]:
    """The rotation matrix about the z axis."""
    cos, sin, zero, one = (
        jnp.cos(angle),
        jnp.sin(angle),
        jnp.zeros_like(angle),
        jnp.ones_like(angle),
    )
    return jnp.stack(
        [jnp.stack(row) for row in ((cos, -sin, zero), (sin, cos, zero), (zero, zero, one))]
    )


def silhouette(density: Float[Array, "depth h w"]) -> Float[Array, "h w 1"]:
    """The share of light that a grid takes away, from 0 to 1: `render` of white on black."""
    ones = jnp.ones((*density.shape, 1), density.dtype)
    return render(density, ones)


__all__ = ["SIDES", "about_z", "render", "seen_from", "silhouette", "turned"]
