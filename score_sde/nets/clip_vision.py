"""The encoder of images of CLIP."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.nets.checks import check_fields
from score_sde.nets.clip_blocks import ACTIVATIONS, LayerNorm, blocks, check_heads
from score_sde.nets.convolution import product
from score_sde.nets.positions import patchify


class ImageStates(NamedTuple):
    """What `CLIPVision` makes of images cut into n patches.

    hidden: the tokens of class and patches, then what each block gives. pooled: one vector for each
        image.
    """

    hidden: Float[Array, "depth_plus_1 b n_plus_1 w"]
    pooled: Float[Array, "b p"]


class CLIPVision(nn.Module):
    """The vision transformer of CLIP (arXiv:2103.00020), by default that of ViT-L/14.

    `net.apply({"params": p}, images [b, size, size, 3]) -> ImageStates`, of images that
    `evaluation.metrics.clip_score.prepared` has made.

    The parameters of the blocks are stacked, [depth, ...].

    Fields:
        size, patch: pixels along a side of an image, and of a patch.
        width, depth, num_heads, hidden: channels of a token, blocks, heads of attention, channels
            within the perceptron of a block.
        activation: of the perceptron, "quick_gelu" (OpenAI's networks) or "gelu" (OpenCLIP's).
        projection: 0, or the channels of the projected `pooled`.
        dtype: of the computation, float32 by default. Parameters, statistics and the softmax are at
            least float32.

    Raises:
        ValueError: an unknown activation; heads that do not divide the width; patches that do not
            divide the size; images of another size.
    """

    size: int = 224
    patch: int = 14
    width: int = 1024
    depth: int = 24
    num_heads: int = 16
    hidden: int = 4096
    activation: str = "quick_gelu"
    projection: int = 768
    dtype: Any = None

    def __post_init__(self):
        check_fields(self, {"activation": tuple(ACTIVATIONS)})
        check_heads(self.width, self.num_heads)
        if self.patch < 1 or self.size % self.patch:
            raise ValueError(f"patch={self.patch} does not divide size={self.size}")
        super().__post_init__()

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> ImageStates:
        if images.shape[1:3] != (self.size, self.size):
            raise ValueError(f"images are {images.shape[1:3]}, and not {self.size} squared")
        dtype = jnp.dtype(self.dtype or jnp.float32)
        x = LayerNorm(name="first_norm")(self._embed(images.astype(dtype)))
        h, states = blocks(
            x,
            None,
            self.depth,
            num_heads=self.num_heads,
            hidden=self.hidden,
            activation=self.activation,
        )
        pooled = self._project(LayerNorm(name="final_norm")(h[:, 0]))
        return ImageStates(jnp.concatenate([x[None], states]), pooled)

    # The methods below make layers of the compact method that calls them.

    def _embed(self, images):
        n = (self.size // self.patch) ** 2
        normal, dtype = nn.initializers.normal, images.dtype
        shape = (3 * self.patch**2, self.width)
        kernel = self.param("patches", normal(0.02), shape, jnp.float32)
        first = self.param("class_token", normal(self.width**-0.5), (self.width,), jnp.float32)
        positions = self.param("positions", normal(0.02), (n + 1, self.width), jnp.float32)
        patches = patchify(images, (self.patch, self.patch)).reshape(len(images), n, -1)
        tokens = product(patches, kernel.astype(dtype))
        first = jnp.broadcast_to(first.astype(dtype), (len(images), 1, self.width))
        return jnp.concatenate([first, tokens], axis=1) + positions.astype(dtype)[None]

    def _project(self, pooled: Float[Array, "b w"]) -> Float[Array, "b p"]:
        if not self.projection:
            return pooled
        init = nn.initializers.normal(self.width**-0.5)
        kernel = self.param("projection", init, (self.width, self.projection), jnp.float32)
        return pooled @ kernel.astype(pooled.dtype)
