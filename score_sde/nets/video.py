"""Image networks as networks of video: each frame is an image, and layers over time join them."""

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
from score_sde.nets.transformer import Block, layer_norm, linear, zero_linear
from score_sde.types import Cond, PyTree

HEAD = 32  # channels of a head of attention over time, at most


class OverTime(nn.Module):
    """x plus what attention finds at the same place of other frames, at first nothing.

    Before the queries, keys and values the tokens are normalised, and sines of the frame's number
    are added to them. frames: of a clip.
    """

    frames: int

    @nn.compact
    def __call__(self, x: Float[Array, "bf *space c"]) -> Float[Array, "bf *space c"]:
        places, width = math.prod(x.shape[1:-1]), x.shape[-1]
        tokens = x.reshape(-1, self.frames, places, width).swapaxes(1, 2)
        tokens = tokens.reshape(-1, self.frames, width)  # [b places, frames, c]
        when = jnp.asarray(sines((self.frames,), width), x.dtype)[None]
        heads = math.gcd(width, max(width // HEAD, 1))
        qkv = linear(layer_norm(tokens) + when, 3 * width, name="qkv")
        q, k, v = jnp.moveaxis(qkv.reshape(*tokens.shape[:2], 3, heads, -1), 2, 0)
        h = zero_linear(attend(q, k, v).reshape(tokens.shape), width, name="out")
        h = h.reshape(-1, places, self.frames, width).swapaxes(1, 2)
        return x + h.reshape(x.shape)


def joined(
    net: Callable[..., Array],
    block: type[nn.Module],
    x: Float[Array, "b f h w c"],
    noise: Real[Array, "b *f"],
    cond: Cond | None,
    train: bool,
) -> Float[Array, "b f h w _"]:
    """What the image network says of all frames, with `OverTime` after each of its blocks of this
    class. To be called in its compact method.

    noise: of each example, or of each frame. cond: of each example, the same for all its frames;
    but "image", [b, f, h, w, d], has one of each frame.

    Raises:
        ValueError: the noise has another shape.
    """
    b, f = x.shape[:2]
    if noise.shape not in ((b,), (b, f)):
        raise ValueError(f"noise has the shape {noise.shape}: of clips {x.shape} it is {(b,)} or "
                         f"{(b, f)}, a number of each frame")
    levels = jnp.broadcast_to(noise.reshape(b, -1), (b, f)).reshape(-1)

    def of_frames(name, value):
        return value.reshape(-1, *value.shape[2:]) if name == "image" else jnp.repeat(value, f, 0)

    conds = None if cond is None else {k: of_frames(k, v) for k, v in cond.items()}

    def after(call, arguments, options, context):
        out = call(*arguments, **options)
        if not isinstance(context.module, block) or context.method_name != "__call__":
            return out
        (tokens, *others), structure = jax.tree.flatten(out)
        return structure.unflatten([OverTime(f, name="over_time")(tokens), *others])

    with nn.intercept_methods(after):
        out = net(x.reshape(-1, *x.shape[2:]), levels, conds, train)
    return out.reshape(b, f, *out.shape[1:])


class VideoDiT(DiT):
    pass

    @nn.compact
    def __call__(self, x, noise, cond=None, train=False):
        return joined(super().__call__, Block, x, noise, cond, train)


class VideoNCSNpp(NCSNpp):
    @nn.compact
    def __call__(self, x, noise, cond=None, train=False):
        return joined(super().__call__, ResBlock, x, noise, cond, train)
