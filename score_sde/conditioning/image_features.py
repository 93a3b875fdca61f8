"""What images are compared by: their pixels, or the latents of an autoencoder.

Each is `raw [b, ...] -> features [b, d]`, and a pytree of its frozen parameters.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.conditioning.image_encoder import ImageEncoder
from score_sde.types import real_dtype


@dataclasses.dataclass(frozen=True)
class Numbers:
    """The numbers of a raw part itself, in one row: those of 0..values-1 as -1 to 1, and real ones
    (values None) as they are."""

    values: int | None

    @property
    def digests(self) -> dict[str, str]:
        """None."""
        return {}

    def __call__(self, raw: Any) -> Float[Array, "b d"]:
        """The features of raw parts."""
        raw = jnp.asarray(raw)
        flat = raw.reshape(len(raw), -1).astype(real_dtype(raw))
        return flat if self.values is None else 2 * flat / (self.values - 1) - 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Latents:
    """The mean of the posterior of an autoencoder, in one row."""

    encoder: ImageEncoder

    @property
    def digests(self) -> dict[str, str]:
        """That of the autoencoder."""
        return {"autoencoder of the condition": self.encoder.digest}

    def __call__(self, raw: Any) -> Float[Array, "b d"]:
        """The features of raw parts."""
        return self.encoder.mean(raw).reshape(len(raw), -1)
