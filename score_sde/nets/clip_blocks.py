"""The blocks of CLIP (arXiv:2103.00020), which its encoders of text and of images share."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from score_sde.nets.attention import attend
from score_sde.nets.transformer import layer_norm, linear


def quick_gelu(x: Array) -> Array:
    """`x sigmoid(1.702 x)`, the approximation of GELU that OpenAI's CLIP uses
    (arXiv:1606.08415)."""
    return x * jax.nn.sigmoid(1.702 * x)


def gelu(x: Array) -> Array:
    """`x Phi(x)`, with the error function (arXiv:1606.08415)."""
    return jax.nn.gelu(x, approximate=False)


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": gelu}


class LayerNorm(nn.Module):
    """`scale layer_norm(x) + bias`, with 1e-5 added to the variance."""

    @nn.compact
    def __call__(self, x: Float[Array, "*n w"]) -> Float[Array, "*n w"]:
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        scale, bias = (
            p.astype(x.dtype).reshape((1,) * (x.ndim - 1) + shape) for p in (scale, bias)
        )
        return layer_norm(x, 1e-5) * scale + bias


class Block(nn.Module):
    """Self-attention, then a perceptron; each reads its normalised input and is added to it.

    Gives its result twice, as `nn.scan` wants it: to the next block, and as an output.
    """

    num_heads: int
    hidden: int
    activation: str

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n w"], mask: Bool[Array, "1 1 n n"] | None
    ) -> tuple[Float[Array, "b n w"], Float[Array, "b n w"]]:
        heads = (*x.shape[:2], self.num_heads, -1)
        h = LayerNorm(name="norm_0")(x)
        q, k, v = (linear(h, x.shape[-1], name=name).reshape(heads) for name in "qkv")
        h = attend(q, k, v, mask).reshape(x.shape)
        x = x + linear(h, x.shape[-1], name="out")
        h = linear(LayerNorm(name="norm_1")(x), self.hidden, name="mlp_in")
        x = x + linear(ACTIVATIONS[self.activation](h), x.shape[-1], name="mlp_out")
        return x, x


def blocks(
    x: Float[Array, "b n w"], mask: Bool[Array, "1 1 n n"] | None, depth: int, **fields: Any
) -> tuple[Float[Array, "b n w"], Float[Array, "depth b n w"]]:
    """What the last of so many blocks gives, and what each gives. Their parameters are stacked, in
    "blocks" of the compact method that calls this.

    fields: those of `Block`.
    """
    same_for_all: Any = nn.broadcast
    scanned = nn.scan(
        Block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=same_for_all,
        length=depth,
    )
    return scanned(**fields, name="blocks")(x, mask)


def check_heads(width: int, num_heads: int) -> None:
    """Raises ValueError if heads do not divide the width."""
    if num_heads < 1 or width % num_heads:
        raise ValueError(f"num_heads={num_heads} does not divide width={width}")
