"""The law of a few tokens, as a table of all probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from score_sde.processes.discrete import Discrete
from score_sde.types import Denoiser, Key


@dataclass(frozen=True, eq=False)
class Table:
    """A law of l tokens of v values each.

    probs: [v, ..., v] with l axes, not negative, of sum 1.

    Raises:
      ValueError: the axes differ in length.
    """

    probs: Float[Array, "..."]

    def __post_init__(self):
        if self.probs.ndim < 1 or len(set(self.probs.shape)) != 1:
            raise ValueError(f"probs must be [v, ..., v], not of shape {self.probs.shape}")

    @property
    def values(self) -> int:
        """v."""
        return self.probs.shape[0]

    def sample(self, key: Key, n: int) -> Int[Array, "n l"]:
        """Draws n sequences."""
        logits = jnp.log(self.probs.reshape(-1))
        index = jax.random.categorical(key, logits, shape=(n,), mode="high")
        return jnp.stack(jnp.unravel_index(index, self.probs.shape), axis=1).astype(jnp.int32)

    def log_prob(self, x: Int[Array, "b l"]) -> Float[Array, " b"]:
        """ln p(x), nats."""
        return jnp.log(self.probs[tuple(jnp.moveaxis(x, 1, 0))])

    def denoiser(self, process: Discrete) -> Denoiser:
        """The exact posterior of each token, `(x_t [b, l], t) -> [b, l, v]`:

        p(x_0 | x_t) = p(x_0) prod_i q(x_t^i | x_0^i) / sum, of which the others are summed out.
        """
        axes = range(self.probs.ndim)

        def one(evidence):
            joint = self.probs
            for i in axes:
                shape = [1] * self.probs.ndim
                shape[i] = self.values
                joint = joint * evidence[i].reshape(shape)
            joint = joint / jnp.sum(joint)
            return jnp.stack([jnp.sum(joint, axis=[j for j in axes if j != i]) for i in axes])

        def denoise(x_t, t):
            evidence = process.evidence(x_t, t, self.values)
            return jax.vmap(one)(evidence.astype(self.probs.dtype))

        return denoise
