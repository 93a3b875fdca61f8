"""Where samples begin: examples of another data set in the place of noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_sde.conditioning.beside_text import BesideText
from score_sde.conditioning.conditioner import Conditioner, Raw, request_beside
from score_sde.types import Cond, Feature, Key, Needs, as_tree

__all__ = ["starts"]  # what a config can name

START = "start"
"""The condition that says where a sample begins, in the network's space: x at t_max."""
MOST_EXAMPLES = 1024  # which stand in where no images are given


def starts(
    features: Mapping[str, Feature],
    *,
    text: Conditioner | Needs,
    codec: Any,
    part: str = "source",
    given: bool = False,
) -> Starts | Needs:
    """What `text` gives, and cond["start"]: x_1, where the paths of an objective of two data sets
    end and samples begin.

    text: a conditioner of text or labels, such as "labels", or "nothing".
    codec: that of x, which the config names.
    part: the raw part that x_1 is made of, of the shape of x's.
    given: whether the network reads x_1 too, as cond["image"], with `net.cond_channels`. Only then
        a bridge keeps the pairing of the data.

    Raises:
        ValueError: the data set has no such part, or one of another shape.
    """
    feature = features.get(part)
    if feature is None or feature.shape != codec.inner.feature.shape:
        raise ValueError(
            f"samples begin at the part {part!r}, which must have the shape "
            f"{codec.inner.feature.shape} of {codec.inner.part!r}; the data set has "
            + (", ".join(features) if feature is None else f"{feature.shape}")
        )

    def make(inner: Any) -> Starts:
        return Starts(as_tree(inner), codec, part, feature, given)

    if isinstance(text, Needs):
        return Needs(text.folders, lambda *frozen: make(text.make(*frozen)))
    return make(text)


_STATIC = {"static": True}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Starts(BesideText):
    """A conditioner of text or labels, and x_1 (`starts`). It stays where guidance or dropping asks
    for nothing."""

    text: Any
    codec: Any
    part: str = dataclasses.field(metadata=_STATIC)
    feature: Feature = dataclasses.field(metadata=_STATIC)
    given: bool = dataclasses.field(metadata=_STATIC)

    @property
    def features(self) -> dict[str, Feature]:
        """Those of the text, and the part that x_1 is made of."""
        return {**self.text.features, self.part: self.feature}

    @property
    def sizes(self) -> dict[str, int]:
        """Those of the text, and the channels of x_1."""
        channels = self.codec.shape[-1]
        return {**self.text.sizes, START: channels, **({"image": channels} if self.given else {})}

    def encode(self, raw: Raw, key: Key | None = None) -> Cond:
        """The conditions of the text, and x_1, if there is one; with a key as `Codec.encode`, else
        its mean."""
        cond = self.text.encode(raw, key)
        if self.part not in raw:
            return cond
        value = raw[self.part]
        x_1 = self.codec.middle(value) if key is None else self.codec.encode(key, value)
        return {**cond, START: x_1, **({"image": x_1} if self.given else {})}

    def stored(self, raw: Raw) -> dict[str, Array]:
        """What is stored of the text, and the part."""
        return {**self.text.stored(raw), self.part: jnp.asarray(raw[self.part])}

    def request(self, wanted: Sequence[Any], examples: Any = ()) -> Callable[[Array, Array], Raw]:
        """What the text asks for, and x_1 of the examples in turn. Of images that a user gives,
        which lack the part, those themselves.

        Raises:
          ValueError: as the text.
        """
        few = [examples[i] for i in range(min(len(examples), MOST_EXAMPLES))]
        names = (self.part, self.codec.inner.part)
        name = next((name for name in names if few and name in few[0]), None)
        found = {} if name is None else {self.part: jnp.asarray(np.stack([e[name] for e in few]))}
        return request_beside(self.text, wanted, examples, found)
