"""Hints: what a ControlNet sees of an image, such as its outline, beside text or labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.conditioning.beside_text import BesideText
from score_sde.conditioning.conditioner import Conditioner, Raw, request_beside
from score_sde.types import Cond, Feature, Key, Needs, as_tree

__all__ = ["hints"]  # what a config can name

MOST_EXAMPLES = 1024  # whose hints stand in where no images are given
_EDGE = 0.25  # how much of the range an outline differs from one side to the other


def hints(
    features: Mapping[str, Feature],
    *,
    text: Conditioner | Needs,
    of: Sequence[str] = ("outline",),
    part: str = "image",
    guess: bool = False,
) -> Hints | Needs:
    """What `text` gives, and a condition for each hint, by its name.

    text: a conditioner of text or labels, such as "labels".
    of: names of HINTS.
    part: the raw part that holds the images, 0..values-1. A data set that has a part of a hint's
        name, as mode `encode` writes it, needs no images.
    guess: whether guidance leads away from "no hint", too; else both of its calls have the hint.

    Raises:
        ValueError: there is no such hint; the data set has neither the images nor the hint.
    """
    for name in of:
        if name not in HINTS:
            raise ValueError(f"there is no hint {name!r}: one of {', '.join(HINTS)}")
        if not {name, part} & set(features):
            raise ValueError(f"the data set has no part {part!r}, of which {name!r} is made")

    def make(inner: Any) -> Hints:
        stored = tuple((name, features[name]) for name in of if name in features)
        return Hints(as_tree(inner), tuple(of), part, features.get(part), stored, guess)

    if isinstance(text, Needs):
        return Needs(text.folders, lambda *frozen: make(text.make(*frozen)))
    return make(text)


def outline(shown: Float[Array, "b h w c"]) -> Float[Array, "b h w 1"]:
    """1 where a channel differs by a quarter of its range among a pixel and its eight neighbours,
    else 0."""
    windows = {"window_dimensions": (1, 3, 3, 1), "window_strides": (1,) * 4, "padding": "SAME"}
    most = jax.lax.reduce_window(shown, -jnp.inf, jax.lax.max, **windows)
    least = jax.lax.reduce_window(shown, jnp.inf, jax.lax.min, **windows)
    return jnp.any(most - least > _EDGE, axis=-1, keepdims=True).astype(shown.dtype)


def picture(shown: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """The image itself: a hint that was made elsewhere."""
    return shown


HINTS: dict[str, Callable[[Array], Array]] = {"outline": outline, "picture": picture}
"""`shown [b, h, w, c] -> hint [b, h, w, d]`, both from 0 to 1."""


_STATIC = {"static": True}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hints(BesideText):
    """A conditioner of text or labels, and hints (`hints`). A hint of -1 is none.

    images: what the images are, if there are any. known: the hints that the data set has, by name.
    """

    text: Any
    of: tuple[str, ...] = dataclasses.field(metadata=_STATIC)
    part: str = dataclasses.field(metadata=_STATIC)
    images: Feature | None = dataclasses.field(metadata=_STATIC)
    known: tuple[tuple[str, Feature], ...] = dataclasses.field(metadata=_STATIC)
    guess: bool = dataclasses.field(default=False, metadata=_STATIC)

    @property
    def features(self) -> dict[str, Feature]:
        """Those of the text, and the hints that the data set has; the image, if it lacks one."""
        known = dict(self.known)
        made = {self.part: self.images} if self.images and {*self.of} - {*known} else {}
        return {**self.text.features, **known, **made}

    @property
    def nothing(self) -> Raw:
        """That of the text; in the guess mode no hint either."""
        if not self.guess:
            return self.text.nothing
        none = {name: np.full(shape, -1, np.float32) for name, shape in self._shapes.items()}
        return {**self.text.nothing, **none}

    @property
    def sizes(self) -> dict[str, int]:
        """Those of the text, and the channels of each hint."""
        return {**self.text.sizes, **{name: shape[-1] for name, shape in self._shapes.items()}}

    def encode(self, raw: Raw, key: Key | None = None) -> Cond:
        """The conditions of the text, and the hints that raw parts have or images give."""
        return {**self.text.encode(raw, key), **self._hints(raw)}

    def stored(self, raw: Raw) -> dict[str, Array]:
        """What is stored of the text, and the hints."""
        return {**self.text.stored(raw), **self._hints(raw)}

    def request(self, wanted: Sequence[Any], examples: Any = ()) -> Callable[[Array, Array], Raw]:
        """What the text asks for, and the hints of the examples in turn; none without examples.

        Raises:
          ValueError: as the text.
        """
        few = [examples[i] for i in range(min(len(examples), MOST_EXAMPLES))]
        parts = {self.part, *self.of}
        raw = {name: np.stack([e[name] for e in few]) for name in parts if few and name in few[0]}
        found = self._hints(raw) if few else {}
        none = {
            name: jnp.full((1, *shape), -1.0)
            for name, shape in self._shapes.items()
            if name not in found
        }

        return request_beside(self.text, wanted, examples, {**found, **none})

    @property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Of each hint."""
        shapes = {name: feature.shape for name, feature in dict(self.known).items()}
        for name in self.of:
            if name not in shapes and self.images is not None:
                like = jax.ShapeDtypeStruct((1, *self.images.shape), jnp.float32)
                shapes[name] = jax.eval_shape(HINTS[name], like).shape[1:]
        return shapes

    def _hints(self, raw: Raw) -> dict[str, Array]:
        """By name; those for which there is nothing are left out."""
        found = {name: jnp.asarray(raw[name]) for name in self.of if name in raw}
        if self.part in raw and self.images is not None:
            shown = jnp.asarray(raw[self.part], jnp.float32) / self._largest
            found |= {name: HINTS[name](shown) for name in self.of if name not in found}
        return found

    @property
    def _largest(self) -> int:
        """The largest number of an image."""
        values = 256 if self.images is None else self.images.values
        return (values or 2) - 1
