"""The transformers between the convolutions of latent diffusion's U-Net (Rombach et al. 2022,
arXiv:2112.10752, app. E.2.1): pixels attend to each other and to a context."""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from score_sde.nets.attention import attend
from score_sde.nets.layers import Dense, GroupNorm, Linear, conv, fan_avg
from score_sde.nets.remat import saving_memory
from score_sde.nets.transformer import LayerNorm


class Context(NamedTuple):
    """tokens: [b, m, d]. mask: [b, m], True where there is a token; or None, where all are."""

    tokens: Array
    mask: Array | None = None


class Attention(nn.Module):
    """The tokens of x attend to others, with as many channels as x. Only the last layer has a
    bias."""

    heads: int

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n c"],
        others: Float[Array, "b m d"],
        mask: Bool[Array, "b m"] | None = None,
    ) -> Float[Array, "b n c"]:
        c = x.shape[-1]
        if self.heads < 1 or c % self.heads:
            raise ValueError(f"num_heads={self.heads} does not divide the {c} channels")
        q, k, v = (
            Linear(c, name=name)(of).reshape(*of.shape[:2], self.heads, c // self.heads)
            for name, of in (("q", x), ("k", others), ("v", others))
        )
        h = attend(q, k, v, None if mask is None else mask[:, None, None, :])
        return Dense(c, name="out")(h.reshape(x.shape))


class TransformerBlock(nn.Module):
    """Self-attention, attention to the context, and `W (v gelu(g))` with [v | g] linear in x
    (arXiv:2002.05202), each of a normalised x and added to it. Where no context token is there,
    attention to it adds nothing."""

    heads: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n c"], context: Context, train: bool
    ) -> Float[Array, "b n c"]:
        h = LayerNorm(name="self_norm")(x)
        x = x + Attention(self.heads, name="self_attention")(h, h)

        tokens, mask = context
        h = LayerNorm(name="cross_norm")(x)
        h = Attention(self.heads, name="cross_attention")(h, tokens, mask)
        x = x + (h if mask is None else jnp.where(mask.any(1)[:, None, None], h, 0))

        h = Dense(8 * x.shape[-1], name="mlp_in")(LayerNorm(name="mlp_norm")(x))
        value, gate = jnp.split(h, 2, axis=-1)
        return x + Dense(x.shape[-1], name="mlp_out")(value * nn.gelu(gate, approximate=False))


class SpatialTransformer(nn.Module):
    """x plus what `depth` blocks make of its normalised pixels; at first x.

    linear: whether the layers before and after the blocks are dense, else convolutions of one
    pixel. The two differ only in the shape of their kernels.
    """

    depth: int
    heads: int
    groups: int
    linear: bool
    remat: str

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], context: Context, train: bool
    ) -> Float[Array, "b h w c"]:
        b, height, w, c = x.shape
        h = GroupNorm(1, self.groups, 1e-6, name="norm_in")(x)
        h = self._project(h, 1.0, "proj_in").reshape(b, height * w, c)
        block = saving_memory(TransformerBlock, self.remat)
        for i in range(self.depth):
            h = block(self.heads, name=f"block_{i}")(h, context, train)
        return x + self._project(h.reshape(x.shape), 0.0, "proj_out")

    def _project(self, h, init_scale, name):
        if self.linear:
            return Dense(h.shape[-1], fan_avg(init_scale), name=name)(h)
        return conv(h, h.shape[-1], 1, init_scale=init_scale, name=name)
