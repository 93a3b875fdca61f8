"""A multilayer perceptron for data of few dimensions."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from score_sde.nets.embedding import EMBEDDINGS, add_conditions, add_numbers, embed
from score_sde.nets.layers import Dense, dense
from score_sde.types import Cond


class MLP(nn.Module):
    """Dense layers with swish. Each adds the embedding of the noise; the output starts at zero.

    `net.apply({"params": p}, x [b, ...], noise [b], cond, train) -> [b, ...]`, as `NCSNpp`; `train`
    changes nothing.

    Fields:
        features: widths of the hidden layers.
        embedding_dim: number of frequencies of the noise's features.
        embedding: "fourier", for which `noise` is the noise level sigma > 0, or "positional", for
            which it is any number, such as 999 t.
        fourier_scale: standard deviation of the Fourier frequencies of log sigma.
        num_classes: 0, or the number of classes of cond["label"], int [b]; negative is none.
        cond_features: 0, or the dimensions d of cond["vector"], [b, d].
        numbers: names of conditions, float [b], each embedded beside the noise level; ("jump",)
            makes a flow map (`models.flow_map`).
        dtype: of the computation, by default that of x. Parameters are float32.

    Raises:
        ValueError: an unknown embedding; a condition that is missing or of another shape.
    """

    features: tuple[int, ...] = (128, 128, 128)
    embedding_dim: int = 32
    embedding: str = "positional"
    fourier_scale: float = 1.0
    num_classes: int = 0
    cond_features: int = 0
    numbers: tuple[str, ...] = ()
    dtype: Any = None

    def __post_init__(self):
        if self.embedding not in EMBEDDINGS:
            raise ValueError(f"embedding={self.embedding!r} is none of {EMBEDDINGS}")
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b *d"],
        noise: Real[Array, " b"],
        cond: Cond | None = None,
        train: bool = False,
    ) -> Float[Array, "b *d"]:
        dtype = jnp.dtype(self.dtype or x.dtype)
        embedding = embed(
            noise,
            kind=self.embedding,
            features=self.embedding_dim,
            fourier_scale=self.fourier_scale,
            dtype=dtype,
        )
        embedding = add_conditions(
            embedding, cond, num_classes=self.num_classes, cond_features=self.cond_features
        )
        embedding = add_numbers(embedding, cond, self.numbers)
        size = math.prod(x.shape[1:])
        h = x.reshape(x.shape[0], size).astype(dtype)
        for i, width in enumerate(self.features):
            h = dense(h, width, name=f"dense_{i}")
            h = nn.swish(h + dense(nn.swish(embedding), width, name=f"noise_{i}"))
        out = Dense(size, nn.initializers.zeros, name="out")
        return out(h).reshape(x.shape).astype(x.dtype)
