"""What encoders of text give."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Array, Float


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
