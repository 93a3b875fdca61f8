"""Captions as what frozen encoders make of them, such as those of CLIP."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_sde.conditioning.conditioner import Raw
from score_sde.conditioning.text import TOKENIZER, captions_of, one_of, request, told
from score_sde.conditioning.tokenizers import Tokenizer, check_vocabulary, load
from score_sde.types import Cond, Feature, Frozen, Key, Needs, PyTree

__all__ = ["encoded_text"]  # what a config can name

ENCODERS = "text encoders"  # what `digests` call them


def encoded_text(
    features: Mapping[str, Feature],
    *,
    encoders: tuple[str, ...],
    tokenizers: tuple[str, ...],
    part: str = "caption",
    hidden: int = 0,
    pooled: int | None = None,
    sizes: tuple[float, ...] = (),
    zeros: bool = False,
) -> Needs:
    """The features of captions, by one or several encoders, side by side in each token.

    encoders, tokenizers: folders, one of each for an encoder.
    hidden: 0 for the normalised states after the last block; or, of all states, the one with this
        number, not normalised, such as -2.
    pooled: the number of the encoder whose state at the end of the text is cond["vector"]; None for
        no vector.
    sizes: six numbers that SDXL reads as cond["sizes"]: the height and width of the image that an
        example was made of, the row and column at which it was cut out, and the height and width
        that are asked for. () for a network that reads none.
    zeros: whether the condition that says nothing is 0, as SDXL has it, or else that of the empty
        caption.
    """
    read = tuple(load(folder) for folder in tokenizers)
    if len(read) != len(encoders):
        raise ValueError(f"there are {len(encoders)} encoders and {len(read)} tokenizers")

    def make(*frozen: Frozen) -> EncodedText:
        for tokenizer, each in zip(read, frozen, strict=True):
            check_vocabulary(tokenizer, each.module.vocabulary)
        cached = {n: features[n] for n in ("context", "vector") if n in features}
        text = EncodedText(
            tuple(each.params for each in frozen),
            {},
            tuple(each.module for each in frozen),
            tuple(each.digest for each in frozen),
            Joined(read),
            part,
            next(iter(cached.values())).shape[0] if cached else captions_of(features, part),
            bool(cached),
            hidden,
            pooled,
            sizes,
            zeros,
        )
        return dataclasses.replace(text, empty=text.none())

    return Needs(encoders, make)


@dataclasses.dataclass(frozen=True)
class Joined:
    """Several tokenizers, the tokens of one after those of the other."""

    tokenizers: tuple[Tokenizer, ...]

    @property
    def length(self) -> int:
        """Of all together."""
        return sum(t.length for t in self.tokenizers)

    @property
    def digest(self) -> str:
        """Of all together."""
        return hashlib.sha256("".join(t.digest for t in self.tokenizers).encode()).hexdigest()

    @property
    def vocabulary(self) -> int:
        """The largest."""
        return max(t.vocabulary for t in self.tokenizers)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """The tokens of each text, int32 [n, length]."""
        return np.concatenate([tokenizer(texts) for tokenizer in self.tokenizers], axis=1)

    def texts(self, rows: np.ndarray) -> list[str]:
        """The texts of rows, as the first tokenizer tells."""
        return self.tokenizers[0].texts(rows[:, : self.tokenizers[0].length])

    def split(self, tokens: Array) -> list[Array]:
        """Those of each tokenizer."""
        ends = np.cumsum([t.length for t in self.tokenizers])[:-1]
        return jnp.split(tokens, ends.tolist(), axis=-1)


_STATIC = {"static": True}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EncodedText:
    """The features of captions (`encoded_text`).

    params: those of the encoders. empty: the condition that says nothing, of one example. These are
    the leaves of the pytree.
    encoders: the SHA-256 of each encoder's parameters.
    """

    params: tuple[PyTree, ...] = dataclasses.field(compare=False, repr=False)
    empty: dict[str, Any] = dataclasses.field(compare=False, repr=False)
    modules: tuple[Any, ...] = dataclasses.field(repr=False, metadata=_STATIC)
    encoders: tuple[str, ...] = dataclasses.field(metadata=_STATIC)
    tokenizer: Joined = dataclasses.field(repr=False, metadata=_STATIC)
    part: str = dataclasses.field(default="caption", metadata=_STATIC)
    captions: int = dataclasses.field(default=1, metadata=_STATIC)
    cached: bool = dataclasses.field(default=False, metadata=_STATIC)
    hidden: int = dataclasses.field(default=0, metadata=_STATIC)
    pooled: int | None = dataclasses.field(default=None, metadata=_STATIC)
    cond_sizes: tuple[float, ...] = dataclasses.field(default=(), metadata=_STATIC)
    zeros: bool = dataclasses.field(default=False, metadata=_STATIC)

    field = "prompts"

    @property
    def digests(self) -> dict[str, str]:
        """Of the encoders, with the number of the states that are taken of them, and of the
        tokenizers."""
        whole = repr((self.encoders, self.hidden, self.pooled))
        of_encoders = hashlib.sha256(whole.encode()).hexdigest()
        return {ENCODERS: of_encoders, TOKENIZER: self.tokenizer.digest}

    @property
    def features(self) -> dict[str, Feature]:
        """The tokens of each caption of an example; or their features, where the data set has
        them."""
        if self.cached:
            return {
                name: Feature((self.captions, *np.shape(value)[1:]))
                for name, value in self.empty.items()
            }
        shape = (self.captions, self.tokenizer.length)
        return {"token": Feature(shape, self.tokenizer.vocabulary)}

    @property
    def nothing(self) -> Raw:
        """The features of nothing."""
        return self.empty

    @property
    def sizes(self) -> dict[str, int]:
        """The numbers of a token, of the vector and of the sizes."""
        found = {name: np.shape(value)[-1] for name, value in self.empty.items()}
        return found | ({"sizes": len(self.cond_sizes)} if self.cond_sizes else {})

    def read(self, example: Raw) -> dict[str, Any]:
        """The tokens of its captions."""
        if self.part not in example:
            return {}
        return {"token": self.tokenizer([str(caption) for caption in example[self.part]])}

    def encode(self, raw: Raw, key: Key | None = None) -> Cond:
        """The features of one caption of each example: those that are known, or those that the
        encoders make of the tokens."""
        if "context" in raw:
            found = {name: one_of(key, jnp.asarray(raw[name])) for name in self.empty}
        else:
            found = self.features_of(one_of(key, jnp.asarray(raw["token"])))
        return found | sizes_of(len(found["context"]), self.cond_sizes)

    def features_of(self, tokens: Array) -> Cond:
        """What the encoders make of tokens [b, length]."""
        first, *others = [
            module.apply({"params": params}, ids)
            for module, params, ids in zip(
                self.modules, self.params, self.tokenizer.split(tokens), strict=True
            )
        ]
        return first.read(others, self.hidden, self.pooled)

    def none(self) -> dict[str, Any]:
        """The features of the empty caption, or 0, of one example."""
        found = jax.jit(self.features_of)(jnp.asarray(self.tokenizer([""])))
        return {name: jnp.zeros_like(v) if self.zeros else v for name, v in found.items()}

    def stored(self, raw: Raw) -> dict[str, Array]:
        """The features of each caption."""
        if "context" in raw:
            return {name: jnp.asarray(raw[name]) for name in self.empty}
        tokens = jnp.asarray(raw["token"])
        each = [self.features_of(tokens[:, i]) for i in range(tokens.shape[1])]
        return jax.tree.map(lambda *parts: jnp.stack(parts, axis=1), *each)

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
        """Anything goes."""


def sizes_of(count: int, sizes: tuple[float, ...]) -> Cond:
    """cond["sizes"] of so many examples, if there are sizes."""
    one = jnp.asarray(sizes, jnp.float32)
    return {"sizes": jnp.broadcast_to(one, (count, len(sizes)))} if sizes else {}


def text_of(conditioner: Any) -> EncodedText:
    """The encoded text of a conditioner, itself or within it.

    Raises:
      ValueError: it has none.
    """
    if isinstance(conditioner, EncodedText):
        return conditioner
    if not hasattr(conditioner, "text"):
        raise ValueError("the conditioner has no text encoders")
    return text_of(conditioner.text)


def with_text(conditioner: Any, text: Any) -> Any:
    """The conditioner with another in the place of its encoded text."""
    if isinstance(conditioner, EncodedText):
        return text
    return dataclasses.replace(conditioner, text=with_text(conditioner.text, text))
