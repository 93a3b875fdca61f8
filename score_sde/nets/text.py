"""A small transformer that reads text, trained along with the network that it is a part of."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from score_sde.nets.attention import attend
from score_sde.nets.positions import sines
from score_sde.nets.transformer import GELU, layer_norm, linear


class TextTransformer(nn.Module):
    """Features of tokens, each of which sees all others: `tokens int [b, m] -> [b, m, width]`.
    Negative tokens are padding, which none sees. Blocks are normalised first (arXiv:2002.04745).

    vocabulary: how many different tokens there are. depth: blocks; their parameters are stacked.
    """

    vocabulary: int
    width: int
    depth: int
    num_heads: int

    @nn.compact
    def __call__(self, tokens: Int[Array, "b m"], dtype: Any) -> Float[Array, "b m width"]:
        init = nn.initializers.normal(0.02)
        rows = nn.Embed(self.vocabulary, self.width, embedding_init=init, name="embed")
        h = rows(jnp.maximum(tokens, 0)).astype(dtype)
        h = h + jnp.asarray(0.1 * sines(tokens.shape[1:], self.width), dtype)[None]
        if self.depth:
            same_for_all: Any = nn.broadcast
            blocks = nn.scan(
                _Block,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                in_axes=same_for_all,
                length=self.depth,
            )
            h, _ = blocks(self.num_heads, name="blocks")(h, tokens >= 0)
        return layer_norm(h)


class _Block(nn.Module):
    num_heads: int

    @nn.compact
    def __call__(self, h, there):
        width = h.shape[-1]
        qkv = linear(layer_norm(h), 3 * width, name="qkv")
        q, k, v = jnp.moveaxis(qkv.reshape(*h.shape[:2], 3, self.num_heads, -1), 2, 0)
        found = attend(q, k, v, there[:, None, None, :])
        h = h + linear(found.reshape(h.shape), width, name="out")
        return h + partial(GELU, 4 * width)(name="mlp")(layer_norm(h)), None


def masked_mean(h: Float[Array, "b m w"], there: Bool[Array, "b m"]) -> Float[Array, "b 1 w"]:
    """The mean of the tokens that are there; 0 where none is."""
    weight = there.astype(h.dtype)[..., None]
    return jnp.sum(weight * h, 1, keepdims=True) / jnp.maximum(jnp.sum(weight, 1, keepdims=True), 1)
