"""Blocks of transformers whose normalisations are modulated. Each computes in the dtype of its
tokens, with float32 parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from score_sde.nets.attention import attend, attention_weights
from score_sde.nets.layers import Dense, Dropout
from score_sde.nets.positions import rotate
from score_sde.types import PyTree, real_dtype

EPS = 1e-6  # what normalisations add to a mean square

Norm = Callable[[Float[Array, "b n w"]], Float[Array, "b n w"]]
Tokens = tuple[Float[Array, "b n w"], Float[Array, "b m w"] | None]
"""The tokens of x, and those of the context, if there is one."""


class Shared(NamedTuple):
    """What all blocks read beside their tokens.

    c: [b, 1 or n, w], the embedding of noise and conditions, for all tokens or for each.
    angle: [n, d/2], by which rotary positions turn q and k; or None.
    mask: [b, m], True where there is a context token; or None, where all are there.
    """

    c: Array
    angle: Array | None = None
    mask: Array | None = None


def layer_norm(x: Float[Array, "*n w"], eps: float = EPS) -> Float[Array, "*n w"]:
    """`(x - mean) / sqrt(var + eps)` of each token (arXiv:1607.06450), without parameters."""
    y = x.astype(real_dtype(x))
    return rms_norm(y - jnp.mean(y, axis=-1, keepdims=True), eps).astype(x.dtype)


def rms_norm(x: Float[Array, "*n w"], eps: float = EPS) -> Float[Array, "*n w"]:
    """`x / sqrt(mean x^2 + eps)` of each token (arXiv:1910.07467), without parameters."""
    y = x.astype(real_dtype(x))
    return (y * jax.lax.rsqrt(jnp.mean(y**2, axis=-1, keepdims=True) + eps)).astype(x.dtype)


class LayerNorm(nn.Module):
    """`scale (x - mean) / sqrt(var + eps) + bias` of each token (arXiv:1607.06450), with statistics
    in at least float32."""

    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "*n w"]) -> Float[Array, "*n w"]:
        shape = (1,) * (x.ndim - 1) + (-1,)
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32).reshape(shape)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32).reshape(shape)
        y = x.astype(real_dtype(x))
        y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(y**2, axis=-1, keepdims=True) + self.eps)
        return (y * scale.astype(y.dtype) + bias.astype(y.dtype)).astype(x.dtype)


class HeadNorm(nn.Module):
    """`rms_norm` of each head times a factor for each channel: QK-norm (arXiv:2302.05442)."""

    @nn.compact
    def __call__(self, x: Float[Array, "b n h d"]) -> Float[Array, "b n h d"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        return rms_norm(x) * scale.astype(x.dtype)[None, None, None, :]


def same(name: str) -> Callable[[Array], Array]:
    """In the place of HeadNorm: changes nothing."""
    return lambda x: x


def linear(x: Float[Array, "b n v"], width: int, *, name: str) -> Float[Array, "b n w"]:
    """A dense layer of the compact method that calls this, with Glorot's initialisation."""
    init = nn.initializers.xavier_uniform()
    return Dense(width, init, name=name)(x)


def zero_linear(x: Float[Array, "b n v"], width: int, *, name: str) -> Float[Array, "b n w"]:
    """A dense layer of the compact method that calls this, which starts at zero."""
    init = nn.initializers.zeros
    return Dense(width, init, name=name)(x)


def recomputed(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """A function whose derivative keeps its argument alone. In a loop over blocks XLA would write
    every part of the function to memory, which takes longer than to compute it again."""
    return jax.checkpoint(function, prevent_cse=False)  # nothing is common to two loops


class AdaptiveNorm(nn.Module):
    """`norm(x) (1 + scale) + shift`, and gates for what is made of it: adaLN-Zero
    (arXiv:2212.09748). Shift, scale and gates are a dense layer of silu(c), at first 0."""

    norm: Norm
    gates: int = 0

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n w"], c: Float[Array, "b #n w"]
    ) -> tuple[Float[Array, "b _ w"], ...]:
        parts = zero_linear(nn.silu(c), (2 + self.gates) * x.shape[-1], name="modulation")
        shift, scale, *gates = jnp.split(parts, 2 + self.gates, axis=-1)
        return recomputed(self.norm)(x) * (1 + scale) + shift, *gates


class Heads(nn.Module):
    """Queries, keys and values of the heads, and the gate of what they attend to.

    head_norm: `(name=...) ->` what is done to the queries and keys, such as `HeadNorm`.
    """

    num_heads: int
    norm: Norm
    head_norm: Callable

    @nn.compact
    def __call__(self, x: Float[Array, "b n w"], c: Float[Array, "b #n w"]) -> tuple[Array, ...]:
        h, gate = AdaptiveNorm(self.norm, gates=1, name="norm")(x, c)
        h = linear(h, 3 * x.shape[-1], name="qkv")
        q, k, v = jnp.moveaxis(h.reshape(*h.shape[:2], 3, self.num_heads, -1), 2, 0)
        return self.head_norm(name="norm_q")(q), self.head_norm(name="norm_k")(k), v, gate


class CrossAttention(nn.Module):
    """x plus what its tokens find in the context, at first nothing; and always nothing where no
    context token is there. With `mutable=["intermediates"]`, "attention" there has the weights
    [b, h, n, m] of the context's tokens."""

    num_heads: int
    head_norm: Callable

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n w"],
        context: Float[Array, "b m w"],
        mask: Bool[Array, "b m"] | None,
    ) -> Float[Array, "b n w"]:
        width = x.shape[-1]
        q = linear(x, width, name="q").reshape(*x.shape[:2], self.num_heads, -1)
        kv = linear(context, 2 * width, name="kv")
        k, v = jnp.moveaxis(kv.reshape(*context.shape[:2], 2, self.num_heads, -1), 2, 0)
        q, k = self.head_norm(name="norm_q")(q), self.head_norm(name="norm_k")(k)
        there = None if mask is None else mask[:, None, None, :]
        if self.is_mutable_collection("intermediates"):
            self.sow("intermediates", "attention", attention_weights(q, k, there))
        h = zero_linear(attend(q, k, v, there).reshape(x.shape), width, name="out")
        return x + (h if mask is None else jnp.where(mask.any(1)[:, None, None], h, 0))


class GELU(nn.Module):
    """A perceptron of one hidden layer, with GELU in its approximation by tanh."""

    hidden: int

    @nn.compact
    def __call__(self, x: Float[Array, "b n w"]) -> Float[Array, "b n w"]:
        h = recomputed(nn.gelu)(linear(x, self.hidden, name="in"))
        return linear(h, x.shape[-1], name="out")


class SwiGLU(nn.Module):
    """`W (silu(U x) V x)` (arXiv:2002.05202), with 2/3 of the hidden channels, so that it has as
    many parameters as `GELU`."""

    hidden: int

    @nn.compact
    def __call__(self, x: Float[Array, "b n w"]) -> Float[Array, "b n w"]:
        gate, value = jnp.split(linear(x, 2 * (2 * self.hidden // 3), name="in"), 2, axis=-1)
        return linear(nn.silu(gate) * value, x.shape[-1], name="out")


class Residual(nn.Module):
    """`x + gate mlp(norm(x))`, with the norm and the gate of `AdaptiveNorm`.

    mlp: `(name=...) ->` the perceptron. dropout: its rate, 0 outside of training.
    """

    norm: Norm
    mlp: Callable
    dropout: float

    @nn.compact
    def __call__(self, x: Float[Array, "b n w"], c: Float[Array, "b #n w"]) -> Array:
        h, gate = AdaptiveNorm(self.norm, gates=1, name="norm")(x, c)
        return x + gate * Dropout(self.dropout)(self.mlp(name="mlp")(h), True)


class Block(nn.Module):
    """Self-attention, then a perceptron, as DiT (arXiv:2212.09748). The context is not read.

    heads, residual: `(name=...) -> Heads` and `-> Residual`. dropout: its rate, 0 outside of
    training.
    """

    heads: Callable[..., Heads]
    residual: Callable[..., Residual]
    dropout: float

    @nn.compact
    def __call__(self, tokens: Tokens, shared: Shared) -> tuple[Tokens, None]:
        x, context = spread(tokens)
        x = self._attend(x, shared)
        x = self._between(x, context, shared)
        return (self.residual(name="residual")(x, shared.c), context), None

    def _attend(self, x, shared):
        q, k, v, gate = self.heads(name="heads")(x, shared.c)
        h = attend(turned(q, shared), turned(k, shared), v)
        return self._add(x, h, gate, "out")

    def _between(self, x, context, shared):
        return x

    def _add(self, x, h, gate, name):
        h = linear(h.reshape(x.shape), x.shape[-1], name=name)
        return x + gate * Dropout(self.dropout)(h, True)


class CrossBlock(Block):
    """`Block` with attention to the context before the perceptron, as PixArt-alpha
    (arXiv:2310.00426).

    cross: `(name=...) -> CrossAttention`.
    """

    cross: Callable[..., CrossAttention]

    def _between(self, x, context, shared):
        return self.cross(name="cross")(x, context, shared.mask)


class JointBlock(Block):
    """The tokens of x and of the context have layers of their own, and attend to all of both:
    MM-DiT (arXiv:2403.03206). What the last block makes of the context is not read."""

    @nn.compact
    def __call__(self, tokens: Tokens, shared: Shared) -> tuple[Tokens, None]:
        x, context = spread(tokens)
        assert context is not None
        n, common = x.shape[1], jnp.mean(shared.c, axis=1, keepdims=True)
        q, k, v, gate = self.heads(name="heads")(x, shared.c)
        *other, context_gate = self.heads(name="context_heads")(context, common)
        q, k = turned(q, shared), turned(k, shared)
        pairs = zip((q, k, v), other, strict=True)
        h = attend(*(jnp.concatenate(pair, axis=1) for pair in pairs), mask=_mask(n, shared))
        x = self._add(x, h[:, :n], gate, "out")
        context = self._add(context, h[:, n:], context_gate, "context_out")
        x = self.residual(name="residual")(x, shared.c)
        return (x, self.residual(name="context_residual")(context, common)), None


def changed(block: type[Block]) -> type[Block]:
    """The block, which then adds an array to the tokens of x: what a ControlNet says of it."""

    class Changed(block):
        @nn.compact
        def __call__(self, tokens: Tokens, shared: Shared, change: Array) -> tuple[Tokens, None]:
            (x, context), _ = super().__call__(tokens, shared)
            return (x + change, context), None

    return Changed


def telling(block: type[Block]) -> type[Block]:
    """The block, which also gives a dense layer of its tokens, at first 0: what a ControlNet has to
    say after it."""

    class Telling(block):
        @nn.compact
        def __call__(self, tokens: Tokens, shared: Shared) -> tuple[Tokens, Array]:
            tokens, _ = super().__call__(tokens, shared)
            x = tokens[0]
            return tokens, zero_linear(x, x.shape[-1], name="told")

    return Telling


def spread(tokens: PyTree) -> PyTree:
    """The same arrays, with their examples spread over all devices of the mesh in context
    (`jax.sharding.use_abstract_mesh`), if there is one. XLA does not find this out by itself where
    a loop goes through split parameters: it would gather the tokens."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or len(jax.tree.leaves(tokens)[0]) % mesh.size:
        return tokens
    layout = jax.sharding.PartitionSpec(mesh.axis_names)
    return jax.lax.with_sharding_constraint(tokens, layout)


def turned(x: Float[Array, "b n h d"], shared: Shared) -> Float[Array, "b n h d"]:
    """Queries or keys with their rotary positions, if there are any."""
    return x if shared.angle is None else rotate(x, shared.angle)


def _mask(n, shared):
    """[b, 1, 1, n + m]: the tokens of x are there."""
    if shared.mask is None:
        return None
    there = jnp.ones((shared.mask.shape[0], n), bool)
    return jnp.concatenate([there, shared.mask], axis=1)[:, None, None, :]
