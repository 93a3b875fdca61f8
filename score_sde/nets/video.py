"""Networks of images as networks of video: each frame is an image, and layers over time join them.

Space and time are factorised: the image network works on [b frames, h, w, c], and after each of its
blocks attention works on [b places, frames, c] (Ho et al. 2022, arXiv:2204.03458, sec. 3).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Real

from score_sde.nets.attention import attend
from score_sde.nets.dit import DiT
from score_sde.nets.layers import ResBlock
from score_sde.nets.ncsnpp import NCSNpp
from score_sde.nets.positions import sines
from score_sde.nets.transformer import AdaptiveNorm, Block, layer_norm, linear, zero_linear
from score_sde.types import Cond, PyTree

__all__ = ["VideoDiT", "VideoNCSNpp"]  # what a config can name

HEAD = 64  # channels of a head of attention over time, at least


class OverTime(nn.Module):
    """x plus a linear layer, at first 0, of two things: what attention finds at the same place of
    all frames, and sines of the number of the frame.

    Queries, keys and values are made of x, normalised and modulated by c (`AdaptiveNorm`), to which
    the sines are added. frames: of a clip. c: the embedding of noise and conditions of each frame.
    """

    frames: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "bf *space w"], c: Float[Array, "bf *n d"]
    ) -> Float[Array, "bf *space w"]:
        count, places, width = len(x), math.prod(x.shape[1:-1]), x.shape[-1]
        c = c.reshape(count, -1, c.shape[-1])
        (h,) = AdaptiveNorm(layer_norm, name="norm")(x.reshape(count, places, width), c)
        h = h.reshape(-1, self.frames, places, width).swapaxes(1, 2)
        h = h.reshape(-1, self.frames, width)
        when = jnp.asarray(sines((self.frames,), width), x.dtype)[None]
        heads = math.gcd(width, max(width // HEAD, 1))
        qkv = linear(h + when, 3 * width, name="qkv")
        q, k, v = jnp.moveaxis(qkv.reshape(*h.shape[:2], 3, heads, -1), 2, 0)
        found = attend(q, k, v).reshape(h.shape)
        h = jnp.concatenate([found, jnp.broadcast_to(when, h.shape)], axis=-1)
        h = zero_linear(h, width, name="out")
        h = h.reshape(-1, places, self.frames, width).swapaxes(1, 2)
        return x + h.reshape(x.shape)


class VideoDiT(DiT):
    """`DiT` of the frames of clips, with `OverTime` after each block.

    `net.apply({"params": p}, x [b, frames, h, w, c], noise, cond, train) -> [b, frames, h, w, c]`.
    noise: [b], or of each frame, [b, frames]. cond: as that of `DiT`, the same for all frames of a
    clip; but cond["image"], [b, frames, h, w, cond_channels], has an image of each frame.

    The fields are those of `DiT`; patches have two axes. With numbers=("frame",) the number of a
    frame is embedded beside its noise level, so that frames are modulated differently. With the
    parameters of a `DiT` of images (`from_image`) it gives what that gives of each frame, bit for
    bit.

    Raises:
        ValueError: as `DiT`; or noise of another shape.
    """

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b f h w c"],
        noise: Real[Array, "b *levels"],
        cond: Cond | None = None,
        train: bool = False,
    ) -> Float[Array, "b f h w _"]:
        return _joined(super().__call__, Block, lambda shared: shared.c, x, noise, cond, train)


class VideoNCSNpp(NCSNpp):
    """`NCSNpp` of the frames of clips, with `OverTime` after each residual block. Shapes are those
    of `VideoDiT`, and fields those of `NCSNpp`.

    Raises:
        ValueError: as `NCSNpp`; or noise of another shape.
    """

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b f h w c"],
        noise: Real[Array, "b *levels"],
        cond: Cond | None = None,
        train: bool = False,
    ) -> Float[Array, "b f h w c"]:
        return _joined(super().__call__, ResBlock, lambda c: c, x, noise, cond, train)


def from_image(params: PyTree, image: PyTree) -> PyTree:
    """The parameters of a network of video, with those of a network of images in the places that
    both have. With new `params` the network gives the frames that the image network gives.

    Raises:
        ValueError: the image network has a parameter that the other lacks, or one of another shape.
    """
    own, given = flatten_dict(params), flatten_dict(image)
    for path, leaf in given.items():
        found = own.get(path)
        if found is None or found.shape != leaf.shape:
            there = "none" if found is None else f"one of {list(found.shape)}"
            raise ValueError(
                f"the image network has {'/'.join(path)} {list(leaf.shape)}, and the network of "
                f"video has {there}: give both the same fields"
            )
    return unflatten_dict({**own, **given})


def _joined(
    net: Callable[..., Array],
    block: type[nn.Module],
    told: Callable[[Any], Array],
    x: Array,
    noise: Array,
    cond: Cond | None,
    train: bool,
) -> Array:
    """What an image network gives of all frames, with `OverTime` after each of its blocks of this
    class. Called in the compact method of the network.

    told: gives the embedding of noise and conditions, of the second argument of a block.
    """
    b, frames = x.shape[:2]
    if noise.shape not in ((b,), (b, frames)):
        raise ValueError(
            f"noise has the shape {noise.shape}: of {b} clips of {frames} frames it is {(b,)}, or "
            f"{(b, frames)} with a number for each frame"
        )
    levels = jnp.broadcast_to(noise.reshape(b, -1), (b, frames)).reshape(-1)
    of_frames = {name: _of_frames(name, value, frames) for name, value in (cond or {}).items()}
    of_frames["frame"] = jnp.tile(jnp.arange(frames, dtype=levels.dtype), b)

    def after(call: Callable, arguments: tuple, options: dict, context: Any) -> Any:
        out = call(*arguments, **options)
        if context.method_name != "__call__" or not isinstance(context.module, block):
            return out
        (tokens, *others), structure = jax.tree.flatten(out)
        tokens = OverTime(frames, name="over_time")(tokens, told(arguments[1]))
        return structure.unflatten([tokens, *others])

    with nn.intercept_methods(after):
        out = net(x.reshape(-1, *x.shape[2:]), levels, of_frames, train)
    return out.reshape(b, frames, *out.shape[1:])


def _of_frames(name: str, value: Array, frames: int) -> Array:
    """A condition of each frame."""
    own = name == "image"  # which has the axis already
    return value.reshape(-1, *value.shape[2:]) if own else jnp.repeat(value, frames, axis=0)
