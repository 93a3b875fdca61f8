"""Embeddings of the noise level and of conditions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Real

from score_sde.nets.layers import Dense, dense, fan_avg
from score_sde.types import Cond, real_dtype

EMBEDDINGS = ("fourier", "positional")
_NUMBER_FEATURES = 64


class FourierFeatures(nn.Module):
    """[sin, cos](2 pi v w) with fixed random w ~ N(0, scale^2); arXiv:2006.10739.

    The frequencies are a parameter, to be saved with the network, but have no gradient.
    """

    features: int
    scale: float

    @nn.compact
    def __call__(self, v: Float[Array, " b"]) -> Float[Array, "b d"]:
        init = nn.initializers.normal(self.scale)
        w = lax.stop_gradient(self.param("kernel", init, (self.features,), jnp.float32))
        angle = v[:, None] * w[None, :].astype(v.dtype) * (2 * math.pi)
        return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def positional_features(
    v: Float[Array, " b"], features: int, freq_shift: int = 1
) -> Float[Array, "b d"]:
    """[sin, cos](v w) with n = features // 2 frequencies w_i = 1e-4^(i / (n - freq_shift)).

    The last frequency is 1e-4 with shift 1 (arXiv:2006.11239), a little more with 0
    (arXiv:1706.03762).
    """
    half = features // 2
    rate = -math.log(10000) / max(half - freq_shift, 1)
    w = jnp.exp(jnp.arange(half, dtype=v.dtype) * rate)
    angle = v[:, None] * w[None, :]
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def with_fourier(
    x: Float[Array, "... c"], exponents: Sequence[float]
) -> Float[Array, "... c_with_features"]:
    """x, then sin(2^n pi x) of every exponent n, then the cosines, in at least float32."""
    wide = x.astype(real_dtype(x))
    angles = [2.0**n * math.pi * wide for n in exponents]
    return jnp.concatenate([wide, *map(jnp.sin, angles), *map(jnp.cos, angles)], axis=-1)


def embed(
    noise: Real[Array, " b"],
    *,
    kind: str,
    features: int,
    fourier_scale: float,
    dtype: Any,
    freq_shift: int = 1,
) -> Float[Array, "b d"]:
    """Embeds the noise level in 4 * features dimensions.

    The layers are of the compact method that calls this. The features are computed in at least
    float32, since angles reach 1e3, and the dense layers in `dtype`.

    Args:
        noise: for kind "fourier" sigma > 0, whose logarithm is embedded; for "positional" any
            number, such as 999 t.
        freq_shift: shifts the frequencies of "positional" (`positional_features`).
    """
    v = noise.astype(np.promote_types(dtype, np.float32))
    if kind == "fourier":
        h = FourierFeatures(features, fourier_scale, name="fourier")(jnp.log(v))
    else:
        h = positional_features(v, features, freq_shift)
    h = dense(h.astype(dtype), 4 * features, name="embed_0")
    return dense(nn.swish(h), 4 * features, name="embed_1")


def add_conditions(
    embedding: Float[Array, "b d"], cond: Cond | None, *, num_classes: int, cond_features: int
) -> Float[Array, "b d"]:
    """Adds the embeddings of cond["label"] (if num_classes > 0) and cond["vector"] (if
    cond_features > 0). A negative label adds nothing, and neither does a vector of zeros.

    The layers are of the compact method that calls this.

    Raises:
        ValueError: one of them is missing, or of another shape or kind.
    """
    size, width = embedding.shape
    if num_classes:
        label = given_label(cond, size)
        layer = nn.Embed(num_classes, width, dtype=embedding.dtype, name="embed_label")
        embedding = embedding + jnp.where((label >= 0)[:, None], layer(jnp.maximum(label, 0)), 0)
    if cond_features:
        vector = given(cond, "vector", (size, cond_features)).astype(embedding.dtype)
        layer = nn.Dense(
            width,
            use_bias=False,
            kernel_init=fan_avg(),
            dtype=embedding.dtype,
            name="embed_vector",
        )
        embedding = embedding + layer(vector)
    return embedding


def add_numbers(
    embedding: Float[Array, "b d"], cond: Cond | None, numbers: tuple[str, ...]
) -> Float[Array, "b d"]:
    """Adds the embedding of each of these numbers of cond, [b], such as "jump". Each adds nothing
    at first, so that a network which is given one more begins as what it was.

    The layers are of the compact method that calls this.

    Raises:
        ValueError: one of them is missing, or of another shape.
    """
    size, width = embedding.shape
    for name in numbers:
        number = given(cond, name, (size,))
        v = number.astype(np.promote_types(number.dtype, np.float32))
        h = positional_features(v, _NUMBER_FEATURES, freq_shift=0).astype(embedding.dtype)
        h = nn.swish(dense(h, width, name=f"embed_{name}_0"))
        embedding = embedding + Dense(width, nn.initializers.zeros, name=f"embed_{name}_1")(h)
    return embedding


def given_label(cond: Cond | None, size: int) -> Int[Array, " b"]:
    """cond["label"] of `size` examples.

    Raises:
        ValueError: it is missing, or of another shape, or not of integers.
    """
    label = given(cond, "label", (size,))
    if not jnp.issubdtype(label.dtype, jnp.integer):
        raise ValueError(f"cond['label'] must be integers, not {label.dtype}")
    return label


def given_tokens(cond: Cond | None, size: int) -> Int[Array, "b m"]:
    """cond["tokens"] of `size` examples.

    Raises:
        ValueError: they are missing, or of another shape, or no integers.
    """
    m = np.shape((cond or {}).get("tokens", ()))[1:2] or (0,)
    tokens = given(cond, "tokens", (size, *m))
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(f"cond['tokens'] must be integers, not {tokens.dtype}")
    return tokens


def given(cond: Cond | None, name: str, shape: tuple[int, ...]) -> Array:
    """cond[name].

    Raises:
        ValueError: it is missing, or has another shape than this.
    """
    found = (cond or {}).get(name)
    if found is None or found.shape != shape:
        what = "which is missing" if found is None else f"not {found.shape}"
        raise ValueError(f"the network needs cond[{name!r}] of shape {shape}, {what}")
    return found


def with_changes(maps: list[Array], cond: Cond | None) -> list[Array]:
    """The feature maps of the way down and the middle, plus those of cond["control"], if it is
    there.

    Raises:
        ValueError: these are other feature maps.
    """
    changes = (cond or {}).get("control")
    if changes is None:
        return maps
    shapes, theirs = [h.shape for h in maps], [h.shape for h in changes]
    if shapes != theirs:
        raise ValueError(f"cond['control'] has the shapes {theirs}, the network's are {shapes}")
    return [h + change.astype(h.dtype) for h, change in zip(maps, changes, strict=True)]
