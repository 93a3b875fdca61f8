"""The ids of captions, for a network that holds the encoders which read them."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from score_sde.conditioning.conditioner import Raw
from score_sde.conditioning.encoded_text import EncodedText, sizes_of
from score_sde.conditioning.text import Text, one_of
from score_sde.types import Cond, Key


@dataclasses.dataclass(frozen=True)
class TextIds(Text):
    """What a `TextReading` reads in the place of the features of an `EncodedText`: cond["tokens"].

    encoders: the digests of the encoders as they were at first, by name. cond_sizes, zeros: as
    those of `encoded_text`; where nothing is 0, its ids are -1.
    """

    encoders: tuple[tuple[str, str], ...] = ()
    cond_sizes: tuple[float, ...] = ()
    zeros: bool = False

    @property
    def digests(self) -> dict[str, str]:
        """Those of the encoded text."""
        return dict(self.encoders)

    @property
    def nothing(self) -> Raw:
        """The ids of the empty caption, or -1."""
        ids = self.tokenizer([""])
        return {"token": np.full_like(ids, -1) if self.zeros else ids}

    def encode(self, raw: Raw, key: Key | None = None) -> Cond:
        """The ids of one caption of each example."""
        tokens = one_of(key, jnp.asarray(raw["token"]))
        return {"tokens": tokens, **sizes_of(len(tokens), self.cond_sizes)}


def ids_of(text: EncodedText) -> TextIds:
    """The ids of an encoded text.

    Raises:
      ValueError: the data set holds features in their place.
    """
    if text.cached:
        raise ValueError(
            "the data set holds what the encoders made of its captions, and their training needs "
            "the captions: run --mode encode with this adapter, which keeps the tokens"
        )
    tokenizer: Any = text.tokenizer
    return TextIds(
        tokenizer,
        text.part,
        text.captions,
        encoders=tuple(text.digests.items()),
        cond_sizes=text.cond_sizes,
        zeros=text.zeros,
    )
