"""What EDM's and EDM2's U-Nets share: the order of their blocks, and their conditions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

from score_sde.nets.checks import check_fields, check_size
from score_sde.nets.embedding import given_label
from score_sde.nets.remat import POLICIES
from score_sde.types import Cond


class UNet(nn.Module):
    """Levels of blocks on the way down and up; not a network itself.

    Fields:
        model_channels: channels of a level, times those in channel_mult.
        channel_mult: one number a level; each level after the first works on an image of half the
            size.
        num_blocks: residual blocks of a level on the way down; there is one more on the way up.
        attn_resolutions: attention follows the blocks that work on images of these heights. The
            first block of the middle always has it.
        dropout: its rate in the residual blocks, used when `train`, with the rng "dropout".
        num_classes: 0, or the number of classes of cond["label"], int [b]; a negative label is
            none.
        numbers: names of conditions, float [b], each embedded beside the noise level; ("jump",)
            makes a flow map (`models.flow_map`).
        dtype: of the computation, by default that of x. Parameters are always float32; embeddings,
            statistics and the softmax are at least float32.
        remat: which results inside residual blocks are computed again for the gradient, to save
            memory: "none", "elementwise" (all but convolutions and products) or "all".

    Raises:
        ValueError: an unknown remat; dropout is no rate; an image that cannot be halved
            len(channel_mult) - 1 times; a label that is missing or of another shape.
    """

    model_channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 2, 2)
    num_blocks: int = 4
    attn_resolutions: tuple[int, ...] = (16,)
    dropout: float = 0.1
    num_classes: int = 0
    numbers: tuple[str, ...] = ()
    dtype: Any = None
    remat: str = "none"

    def __post_init__(self):
        check_fields(self, {"remat": tuple(POLICIES)})
        super().__post_init__()

    # The methods below make layers of the compact method that calls them. `block` is
    # `(h, features, name, attention=False, resample=None) -> h`.

    def _input(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """The image in the network's dtype."""
        check_size(x, len(self.channel_mult) - 1, "channel_mult")
        return x.astype(jnp.dtype(self.dtype or x.dtype))

    def _noise(self, noise: Real[Array, " b"]) -> Float[Array, " b"]:
        """The number for the noise level, in at least float32."""
        return noise.astype(np.promote_types(noise.dtype, np.float32))

    def _classes(self, cond: Cond | None, like: Float[Array, "b d"]) -> Float[Array, "b n"]:
        """One-hot vectors of the labels; zeros for a negative one."""
        label = given_label(cond, len(like))
        return jax.nn.one_hot(label, self.num_classes, dtype=like.dtype)

    def _down(
        self, h: Array, block: Callable[..., Array], enter: Callable[[Array, int], Array]
    ) -> list[Array]:
        """The feature maps that the way up takes back, in the order of the calls.

        enter: `(h, level) -> h`, what happens at the beginning of each level but the first.
        """
        skips = [h]
        for level, mult in enumerate(self.channel_mult):
            if level:
                h = block(skips[-1], skips[-1].shape[-1], f"enc_{level}_down", resample="down")
                skips.append(enter(h, level))
            for i in range(self.num_blocks):
                h = skips[-1]
                attention = h.shape[1] in self.attn_resolutions
                name = f"enc_{level}_block{i}"
                skips.append(block(h, mult * self.model_channels, name, attention=attention))
        return skips

    def _up(
        self,
        skips: list[Array],
        block: Callable[..., Array],
        join: Callable[[Array, Array], Array],
        attends: Callable[[int, int], bool],
    ) -> Iterator[tuple[int, Array]]:
        """Each level with its last feature map, from the smallest to the largest image.

        join: `(h, skip) -> h`. attends: `(height of the image, number of the block) -> bool`.
        """
        h, last = skips[-1], len(self.channel_mult) - 1
        for level, mult in reversed(list(enumerate(self.channel_mult))):
            if level == last:
                h = block(h, h.shape[-1], f"dec_{level}_in0", attention=True)
                h = block(h, h.shape[-1], f"dec_{level}_in1")
            else:
                h = block(h, h.shape[-1], f"dec_{level}_up", resample="up")
            for i in range(self.num_blocks + 1):
                attention = attends(h.shape[1], i)
                h = join(h, skips.pop())
                name = f"dec_{level}_block{i}"
                h = block(h, mult * self.model_channels, name, attention=attention)
            yield level, h


def halves_swapped(features: Float[Array, "b d"]) -> Float[Array, "b d"]:
    """[cos, sin] of [sin, cos]."""
    return jnp.roll(features, features.shape[1] // 2, axis=1)


def symmetric(taps: tuple[int, ...]) -> tuple[int, ...] | None:
    """The taps of a filter, as `nets.resampling` takes them.

    Raises:
        ValueError: they are not symmetric, or odd in number.
    """
    if len(taps) % 2 or tuple(taps) != tuple(reversed(taps)):
        raise ValueError(f"resample_filter={taps} is not symmetric with an even number of taps")
    return None if len(taps) == 2 else tuple(taps)
