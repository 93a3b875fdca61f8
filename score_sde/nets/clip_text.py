"""The encoder of text of CLIP."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from score_sde.nets.checks import check_fields
from score_sde.nets.clip_blocks import ACTIVATIONS, LayerNorm, blocks, check_heads
from score_sde.nets.text_states import TextStates


class CLIPText(nn.Module):
    """The causal transformer of CLIP (arXiv:2103.00020), by default that of ViT-L/14, which Stable
    Diffusion 1 reads.

    `net.apply({"params": p}, ids [b, l]) -> TextStates`. A token sees itself and those before it,
    so the padding after a text changes nothing before it; no token is masked. Any ids may be
    longer or shorter, up to `positions`; an id beyond the vocabulary gives NaN.

    `last` is what Stable Diffusion 1 and 2 read, `hidden[-2]` what SDXL reads. `pooled` is `last`
    at the end of the text, then projected if there is a projection. The end is the first token
    `eos`. Older files say eos=2, which no text contains: there it is the token of the largest id.
    That is the same token as long as no token was added to the vocabulary after the end's.

    The parameters of the blocks are stacked, [depth, ...].

    Fields:
        vocabulary: the number of tokens.
        width, depth, num_heads, hidden: channels of a token, blocks, heads of attention, channels
            within the perceptron of a block.
        positions: the most tokens of a text.
        activation: of the perceptron, "quick_gelu" (OpenAI's networks) or "gelu" (OpenCLIP's).
        projection: 0, or the channels of the projected `pooled`.
        eos: the id of the token at the end of a text; 2 for the largest id.
        dtype: of the computation, float32 by default. Parameters, statistics and the softmax are at
            least float32.

    Raises:
        ValueError: an unknown activation; heads that do not divide the width; a text of more tokens
            than positions, or more blocks to skip than there are.
    """

    vocabulary: int = 49408
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    hidden: int = 3072
    positions: int = 77
    activation: str = "quick_gelu"
    projection: int = 0
    eos: int = 49407
    dtype: Any = None

    def __post_init__(self):
        check_fields(self, {"activation": tuple(ACTIVATIONS)})
        check_heads(self.width, self.num_heads)
        super().__post_init__()

    @nn.compact
    def __call__(self, ids: Int[Array, "b l"], skip: int = 0) -> TextStates:
        """skip: `last` is made of the result of so many blocks before the last one ("clip skip");
        `pooled` is not."""
        length = ids.shape[1]
        if length > self.positions:
            raise ValueError(
                f"texts of {length} tokens do not fit the {self.positions} positions of the encoder"
            )
        if not 0 <= skip <= self.depth:
            raise ValueError(f"skip={skip} is not from 0 to {self.depth}, the number of blocks")
        dtype = jnp.dtype(self.dtype or jnp.float32)
        x = self._embed(ids).astype(dtype)
        causal = jnp.tril(jnp.ones((length, length), bool))[None, None]
        h, states = blocks(
            x,
            causal,
            self.depth,
            num_heads=self.num_heads,
            hidden=self.hidden,
            activation=self.activation,
        )
        hidden = jnp.concatenate([x[None], states])
        norm = LayerNorm(name="final_norm")
        last = norm(h)
        pooled = self._project(last[jnp.arange(len(ids)), self._end(ids)])
        return TextStates(hidden, norm(hidden[-1 - skip]) if skip else last, pooled)

    # The methods below make layers of the compact method that calls them.

    def _embed(self, ids):
        normal = nn.initializers.normal
        shape = (self.vocabulary, self.width)
        tokens = self.param("tokens", normal(0.02), shape, jnp.float32)
        shape = (self.positions, self.width)
        positions = self.param("positions", normal(0.01), shape, jnp.float32)
        # NaN, and not another token, for an id that is not there
        rows = jnp.take(tokens, ids, axis=0, mode="fill", fill_value=jnp.nan)
        return rows + positions[None, : ids.shape[1]]

    def _end(self, ids):
        return jnp.argmax(ids if self.eos == 2 else ids == self.eos, axis=1)

    def _project(self, pooled: Float[Array, "b w"]) -> Float[Array, "b p"]:
        if not self.projection:
            return pooled
        init = nn.initializers.normal(self.width**-0.5)
        kernel = self.param("projection", init, (self.width, self.projection), jnp.float32)
        return pooled @ kernel.astype(pooled.dtype)
