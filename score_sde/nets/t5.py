"""The encoder of text of T5 v1.1."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from score_sde.nets.attention import attend
from score_sde.nets.convolution import product
from score_sde.nets.text_states import TextStates
from score_sde.nets.transformer import rms_norm


class T5Encoder(nn.Module):
    """The encoder of T5 v1.1 (arXiv:1910.10683, arXiv:2002.05202), by default that of the XXL size,
    which Imagen, SD3 and Flux read.

    `net.apply({"params": p}, ids [b, l], mask [b, l]) -> TextStates`, with `pooled` None. Tokens
    see each other both ways. Positions are a number for each head and bucket of distances, which
    is added to the logits of attention in every block. `mask` is True for tokens that others may
    see; None for all, as SD3 and Flux do with padded texts. An id beyond the vocabulary gives NaN.

    The parameters of the blocks are stacked, [depth, ...].

    Fields:
        vocabulary: the number of tokens.
        width, depth, num_heads, head_channels, hidden: channels of a token, blocks, heads of
            attention and channels of each, channels within the perceptron of a block.
        buckets: of distances, half of them for each direction (`buckets_of`).
        max_distance: from which on all tokens are in one bucket.
        dtype: of the computation, float32 by default. Values outgrow float16, and do not outgrow
            bfloat16. Parameters, statistics and the softmax are at least float32.
    """

    vocabulary: int = 32128
    width: int = 4096
    depth: int = 24
    num_heads: int = 64
    head_channels: int = 64
    hidden: int = 10240
    buckets: int = 32
    max_distance: int = 128
    dtype: Any = None

    @nn.compact
    def __call__(
        self, ids: Int[Array, "b l"], mask: Bool[Array, "b l"] | None = None
    ) -> TextStates:
        dtype = jnp.dtype(self.dtype or jnp.float32)
        shape = (self.vocabulary, self.width)
        tokens = self.param("tokens", nn.initializers.normal(1.0), shape, jnp.float32)
        # NaN, and not another token, for an id that is not there
        x = jnp.take(tokens, ids, axis=0, mode="fill", fill_value=jnp.nan).astype(dtype)
        same_for_all: Any = nn.broadcast
        scanned = nn.scan(
            _Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=same_for_all,
            length=self.depth,
        )
        block = scanned(self.num_heads, self.head_channels, self.hidden, name="blocks")
        seen = None if mask is None else mask[:, None, None, :]
        h, states = block(x, seen, self._bias(ids.shape[1]))
        hidden = jnp.concatenate([x[None], states])
        return TextStates(hidden, _Norm(name="final_norm")(h), None)

    def _bias(self, length: int) -> Float[Array, "1 h l l"]:
        """What is added to the logits, by the distance of key and query."""
        init = nn.initializers.normal(self.width**-0.5)
        table = self.param("distances", init, (self.buckets, self.num_heads), jnp.float32)
        places = np.arange(length)
        distance = places[None, :] - places[:, None]
        rows = table[buckets_of(distance, self.buckets, self.max_distance)]
        return rows.transpose(2, 0, 1)[None]


def buckets_of(
    distance: Int[np.ndarray, "*n"], buckets: int, max_distance: int
) -> Int[np.ndarray, "*n"]:
    """The bucket of the distance from a query to a key, for T5's positions (arXiv:1910.10683, sec.
    2.1).

    Half of the buckets are for keys after the query. Of each half, the first half holds a distance
    each; the others grow by a constant factor up to `max_distance`, and the last has no end.
    """
    half = buckets // 2
    exact = half // 2
    size = np.abs(distance)
    # in float32, as T5 does: it decides on which side of a border a power of two lies
    growth = np.log(np.maximum(size, 1).astype(np.float32) / np.float32(exact))
    growth = growth / np.float32(math.log(max_distance / exact)) * np.float32(half - exact)
    grown = np.minimum(exact + growth.astype(int), half - 1)
    return np.where(size < exact, size, grown) + half * (distance > 0)


class _Norm(nn.Module):
    """`scale x / sqrt(mean x^2 + 1e-6)`."""

    @nn.compact
    def __call__(self, x: Float[Array, "b n w"]) -> Float[Array, "b n w"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        return rms_norm(x) * scale.astype(x.dtype)[None, None]


class _Linear(nn.Module):
    """A dense layer without bias."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "b n v"]) -> Float[Array, "b n w"]:
        init = nn.initializers.lecun_normal()
        kernel = self.param("kernel", init, (x.shape[-1], self.features), jnp.float32)
        return product(x, kernel.astype(x.dtype))


class _Block(nn.Module):
    """Attention without 1/sqrt d, then a perceptron with a gate, `W (gelu(U x) V x)`. Each reads
    its normalised input and is added to it. Gives its result twice, as `nn.scan` wants it."""

    num_heads: int
    head_channels: int
    hidden: int

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n w"],
        mask: Bool[Array, "b 1 1 n"] | None,
        bias: Float[Array, "1 h n n"],
    ) -> tuple[Float[Array, "b n w"], Float[Array, "b n w"]]:
        inner, width = self.num_heads * self.head_channels, x.shape[-1]
        heads = (*x.shape[:2], self.num_heads, self.head_channels)
        h = _Norm(name="norm_0")(x)
        q, k, v = (_Linear(inner, name=name)(h).reshape(heads) for name in "qkv")
        q = q * self.head_channels**0.5  # `attend` divides by it
        h = attend(q, k, v, mask, bias).reshape(*x.shape[:2], inner)
        x = x + _Linear(width, name="out")(h)
        h = _Norm(name="norm_1")(x)
        gate = jax.nn.gelu(_Linear(self.hidden, name="gate")(h), approximate=True)
        h = gate * _Linear(self.hidden, name="value")(h)
        x = x + _Linear(width, name="mlp_out")(h)
        return x, x
