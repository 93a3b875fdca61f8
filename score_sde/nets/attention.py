"""Attention (arXiv:1706.03762), one function for all networks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from score_sde.types import real_dtype

MAX_FUSED_CHANNELS = 128  # of a head: cuDNN's kernels take no more, and only multiples of 8


def attend(
    q: Float[Array, "b n h d"],
    k: Float[Array, "b m h d"],
    v: Float[Array, "b m h d"],
    mask: Bool[Array, "#b #h #n m"] | None = None,
    bias: Float[Array, "#b #h n m"] | None = None,
) -> Float[Array, "b n h d"]:
    """`softmax(q k^T / sqrt d + bias) v` for each of h heads.

    The softmax is at least float32, and float64 where q is. On an NVIDIA GPU, cuDNN's fused kernel
    computes what bfloat16 and float16 inputs give; it does not store the n x m weights. With a bias
    the computation is always the plain one. Derivatives, in forward or reverse mode, are those of
    the plain computation.

    Args:
        mask: True where a query may attend to a key.
        bias: added to the logits, such as one that depends on the distance of query and key.
    """
    fused = bias is None and _can_fuse(q)
    return _fused(q, k, v, mask) if fused else _plain(q, k, v, mask, bias)


def attention_weights(
    q: Float[Array, "b n h d"],
    k: Float[Array, "b m h d"],
    mask: Bool[Array, "#b #h #n m"] | None = None,
    bias: Float[Array, "#b #h n m"] | None = None,
) -> Float[Array, "b h n m"]:
    """`softmax(q k^T / sqrt d + bias)`: how much each query attends to each key. Mask and bias are
    those of `attend`."""
    logits = inner_products(q, k) * q.shape[-1] ** -0.5
    if bias is not None:
        logits = logits + bias.astype(logits.dtype)
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
    return jax.nn.softmax(logits, axis=-1)


def _plain(q, k, v, mask, bias=None):
    weights = attention_weights(q, k, mask, bias).astype(q.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v)


_LOGITS = "bqhd,bkhd->bhqk"


@jax.custom_jvp
def inner_products(
    q: Float[Array, "b n h d"], k: Float[Array, "b m h d"]
) -> Float[Array, "b h n m"]:
    """<q, k> of each head, in at least float32. Its derivatives are products in the dtype of q and
    k, as those of all other layers; JAX alone would make them of float32."""
    return jnp.einsum(_LOGITS, q, k, preferred_element_type=real_dtype(q))


@inner_products.defjvp
def _inner_products_jvp(primals, tangents):
    (q, k), (dq, dk) = primals, tangents
    tangent = jnp.einsum(_LOGITS, dq, k) + jnp.einsum(_LOGITS, q, dk)
    out = inner_products(q, k)
    return out, tangent.astype(out.dtype)


@jax.custom_jvp
def _fused(q, k, v, mask):
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="cudnn")


@_fused.defjvp
def _fused_jvp(primals, tangents):
    # cuDNN's kernel has no forward mode, which likelihoods and flow maps need
    *inputs, mask = primals
    return jax.jvp(lambda q, k, v: _plain(q, k, v, mask), tuple(inputs), tuple(tangents[:3]))


def _can_fuse(q):
    half = q.dtype in (jnp.bfloat16, jnp.float16)
    channels = q.shape[-1]
    return (
        half
        and channels % 8 == 0
        and channels <= MAX_FUSED_CHANNELS
        and jax.default_backend() == "gpu"
    )
