"""Captions as conditions: their tokens, or what frozen encoders make of these."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_sde.conditioning.conditioner import Raw, in_turn
from score_sde.conditioning.tokenizers import Tokenizer
from score_sde.types import Cond, Feature, Key

TOKENIZER = "tokenizer"  # what `digests` call it
MOST_EXAMPLES = 1024  # whose captions stand in where nothing is asked for


def text(
    features: Mapping[str, Feature],
    *,
    tokenizer: Tokenizer,
    part: str = "caption",
    drop_tokens: float = 0.0,
) -> Text:
    """The tokens of captions, for a network that learns to read them (`net.vocabulary`).

    tokenizer: one of `conditioning.tokenizers`, such as "words(names=('red', 'circle'))".
    part: the raw part that holds the captions.
    drop_tokens: the probability that training loses a token of a caption, each independently. The
        network then learns what each word says without the others, and joins words that it never
        saw together.

    Raises:
        ValueError: drop_tokens is not in [0, 1), or the part holds no text.
    """
    if not 0 <= drop_tokens < 1:
        raise ValueError(f"drop_tokens must be in [0, 1), not {drop_tokens}")
    return Text(tokenizer, part, captions_of(features, part), drop_tokens)


def captions_of(features: Mapping[str, Feature], part: str) -> int:
    """How many captions each example has; 1 for a data set without, whose model can still be asked.

    Raises:
      ValueError: the part holds no text.
    """
    if "token" in features:  # which were made of the captions already
        return features["token"].shape[0]
    if part not in features:
        return 1
    if not features[part].text:
        raise ValueError(f"the part {part!r} of the data set holds no text")
    return features[part].shape[0]


@dataclasses.dataclass(frozen=True)
class Text:
    """The tokens of a caption, int [b, length]; the padding is -1. The empty caption says nothing.

    captions: how many each example has. drop_tokens: the share of tokens that training loses.
    """

    tokenizer: Tokenizer
    part: str = "caption"
    captions: int = 1
    drop_tokens: float = 0.0

    field = "prompts"

    @property
    def digests(self) -> dict[str, str]:
        """That of the tokenizer."""
        return {TOKENIZER: self.tokenizer.digest}

    @property
    def features(self) -> dict[str, Feature]:
        """The tokens of each caption of an example."""
        shape = (self.captions, self.tokenizer.length)
        return {"token": Feature(shape, self.tokenizer.vocabulary)}

    @property
    def sizes(self) -> dict[str, int]:
        """The number of different tokens."""
        return {"tokens": self.tokenizer.vocabulary}

    @property
    def nothing(self) -> Raw:
        """The tokens of the empty caption."""
        return {"token": self.tokenizer([""])}

    def read(self, example: Raw) -> dict[str, Any]:
        """The tokens of its captions."""
        if self.part not in example:
            return {}
        return {"token": self.tokenizer([str(caption) for caption in example[self.part]])}

    def encode(self, raw: Raw, key: Key | None = None) -> Cond:
        """The tokens of one caption of each example; some are lost if there is a key."""
        token = one_of(key, jnp.asarray(raw["token"]))
        lost = token == self.tokenizer.pad
        if key is not None and self.drop_tokens:
            lost |= jax.random.bernoulli(jax.random.fold_in(key, 1), self.drop_tokens, token.shape)
        return {"tokens": jnp.where(lost, -1, token)}

    def stored(self, raw: Raw) -> dict[str, Array]:
        """The tokens of each caption."""
        return {"token": jnp.asarray(raw["token"])}

    def request(self, wanted: Sequence[Any], examples: Any = ()) -> Callable[[Array, Array], Raw]:
        """The prompts asked for in turn; the captions of the examples if there are none.

        Raises:
          ValueError: one of them is no text.
        """
        return request(self, wanted, examples)

    def told(self, raw: Raw) -> dict[str, np.ndarray]:
        """The texts of the tokens."""
        return told(self, raw)

    def check(self, raw: Raw) -> None:
        """Raises a ValueError for a token that there is not."""
        found = np.asarray(raw["token"])
        if found.size and not -1 <= found.min() <= found.max() < self.tokenizer.vocabulary:
            raise ValueError(f"tokens are 0 to {self.tokenizer.vocabulary - 1}, or -1 for none")


def one_of(key: Key | None, parts: Array) -> Array:
    """One of the k parts [b, k, ...] of each example: at random, or the first without a key."""
    if key is None or parts.shape[1] == 1:
        return parts[:, 0]
    chosen = jax.random.randint(key, parts.shape[:1], 0, parts.shape[1])
    return parts[jnp.arange(len(parts)), chosen]


def request(
    conditioner: Any, wanted: Sequence[Any], examples: Any
) -> Callable[[Array, Array], Raw]:
    """As `Conditioner.request`, for one that reads the raw part "token" [captions, length].

    Raises:
      ValueError: one of the prompts is no text.
    """
    for prompt in wanted:
        if not isinstance(prompt, str):
            raise ValueError(f"{prompt!r} is no text: prompts are strings, such as ('a red cat',)")
    if wanted:
        found = {"token": conditioner.tokenizer([*wanted])[:, None]}
    elif len(examples) and conditioner.features.keys() <= examples[0].keys():
        few = [examples[i] for i in range(min(len(examples), MOST_EXAMPLES))]
        found = {name: np.stack([e[name][:1] for e in few]) for name in conditioner.features}
    else:
        found = {"token": conditioner.tokenizer([""])[:, None]}

    return in_turn(found)


def told(conditioner: Any, raw: Raw) -> dict[str, np.ndarray]:
    """As `Conditioner.told`: the text of the first caption of each example, as the tokenizer tells;
    nothing of features that are no tokens."""
    if "token" not in raw:
        return {}
    texts = conditioner.tokenizer.texts(np.asarray(raw["token"])[:, 0])
    return {"prompts": np.array([text.strip() for text in texts])}
