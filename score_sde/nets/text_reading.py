"""A network that holds the encoders of its text, so that they can be trained with it."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Real

from score_sde.nets.text_states import TextStates
from score_sde.types import Cond, PyTree


class TextReading(nn.Module):
    """A network and the text encoders whose states it reads.

    It is called as the network is: `net.apply({"params": p}, x, noise, cond, train)`, with
    cond["tokens"], int [b, l], in the place of cond["context"] and cond["vector"]. Its parameters
    are {"net": ..., "encoders_0": ...} (`joined`). An example of tokens below 0 has no text: it
    reads zeros.

    Fields:
        net: the network.
        encoders: of text, such as `CLIPText`.
        lengths: how many tokens each of them reads. Those of one stand after those of the other.
        hidden, pooled: which of their states are read (`TextStates.read`).
    """

    net: nn.Module
    encoders: tuple[nn.Module, ...]
    lengths: tuple[int, ...]
    hidden: int = 0
    pooled: int | None = None

    @property
    def numbers(self) -> tuple[str, ...]:
        """Those that the network reads."""
        return getattr(self.net, "numbers", ())

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b ..."],
        noise: Real[Array, "b ..."],
        cond: Cond | None = None,
        train: bool = False,
    ) -> Float[Array, "b ..."]:
        others = dict(cond or {})
        return self.net(x, noise, {**others, **self._read(others.pop("tokens"))}, train)

    def _read(self, tokens: Int[Array, "b l"]) -> Cond:
        ends = np.cumsum(self.lengths)[:-1].tolist()
        there, known = tokens[:, 0] >= 0, jnp.split(jnp.maximum(tokens, 0), ends, axis=1)
        states: list[TextStates] = [
            encoder(ids) for encoder, ids in zip(self.encoders, known, strict=True)
        ]
        read = states[0].read(states[1:], self.hidden, self.pooled)
        return {
            name: jnp.where(there.reshape(-1, *[1] * (part.ndim - 1)), part, 0)
            for name, part in read.items()
        }


def joined(net: PyTree, encoders: Sequence[PyTree]) -> PyTree:
    """The parameters of a `TextReading`, from those of its parts."""
    return {"net": net, **{f"encoders_{i}": each for i, each in enumerate(encoders)}}


def parted(params: PyTree) -> tuple[PyTree, tuple[PyTree, ...]]:
    """The parameters of the network and of each encoder; the inverse of `joined`."""
    count = len(params) - 1
    return params["net"], tuple(params[f"encoders_{i}"] for i in range(count))
