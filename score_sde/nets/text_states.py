"""What encoders of text give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.types import Cond


class TextStates(NamedTuple):
    """What an encoder of depth n makes of texts of l tokens.

    hidden: the embeddings of the tokens, then what each of the n blocks gives; all before the last
        normalisation. (The entry n of `hidden_states` in transformers is normalised for T5, and is
        not for CLIP.) A compiled program that does not use them does not store them.
    last: what the last block gives, normalised.
    pooled: one vector for each text; None if the encoder has none.
    """

    hidden: Float[Array, "n_plus_1 b l d"]
    last: Float[Array, "b l d"]
    pooled: Float[Array, "b p"] | None

    def read(self, others: Sequence[TextStates], hidden: int, pooled: int | None) -> Cond:
        """What a network reads of several encoders, of these states and others: the states side by
        side, cond["context"].

        hidden: 0 for the states `last`, else the number of one of `hidden`.
        pooled: the number of the encoder whose `pooled` is cond["vector"]; None for no vector.
        """
        states = (self, *others)
        parts = [s.hidden[hidden] if hidden else s.last for s in states]
        found = {"context": jnp.concatenate(parts, axis=-1)}
        vector = None if pooled is None else states[pooled].pooled
        return found if vector is None else {**found, "vector": vector}
