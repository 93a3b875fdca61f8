"""What a codec is: the map between a raw part of an example and the network's space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float

from score_sde.types import Feature, Key, Levels


@runtime_checkable
class Codec(Protocol):
    """From a raw part, such as an image of 8 bits, to the network's x, and back. A pytree of its
    frozen parameters, if it has any: so they are arguments of compiled programs, and not constants
    of them.

    `quantize(decode(encode(key, raw)))` is `raw` again. Every method takes arrays of one example
    or of a batch.

    part: the name of the raw part, such as "image".
    feature: its shape and values.
    shape: of x, without the batch.
    bounds: the least and the greatest x that `encode` gives; None where there are none.
    medium: how shown values are written and looked at (`score_sde.media`).
    tokens: how many values a number of x has, if x is of tokens; None where it is real.
    noise_width: the width of the uniform noise that `encode` adds to x; 0 for none.
    levels: the values that numbers of `middle` have; None where x has no such values.
    inner: the codec that this one is around, such as that of the images of an autoencoder; itself
        where there is none. Its `shape` is that of what is shown.
    digests: SHA-256 of the frozen networks that make its x, by what they are.
    """

    part: str
    feature: Feature
    shape: tuple[int, ...]
    bounds: tuple[float, float] | None
    medium: str
    tokens: int | None
    noise_width: float
    levels: Levels | None
    inner: Any
    digests: Mapping[str, str]

    def encode(self, key: Key, raw: Any) -> Float[Array, "..."]:
        """The x that a network is trained on."""
        ...

    def dequantize(self, key: Key, raw: Any) -> Float[Array, "..."]:
        """An x that has a density, for likelihoods: `encode` plus the noise that it needs."""
        ...

    def middle(self, raw: Any) -> Float[Array, "..."]:
        """The mean of `encode` over keys."""
        ...

    def decode(self, x: Any) -> Float[Array, "..."]:
        """The raw part as real numbers; differentiable."""
        ...

    def quantize(self, reals: Any) -> Array:
        """The nearest raw part."""
        ...

    def show(self, reals: Any) -> Array:
        """What is saved, scored and looked at."""
        ...

    def show_raw(self, raw: Any) -> Array:
        """What `show` gives for the raw part itself."""
        ...

    def raw_of(self, shown: Any) -> Array:
        """The raw part nearest to a shown one: the inverse of `show_raw`."""
        ...

    def locate(self, shown: Any) -> Float[Array, "..."]:
        """The middle of all x that `show(decode(x))` takes to `shown`."""
        ...

    def stored(self, raw: Any) -> dict[str, Array]:
        """What mode `encode` keeps of raw parts, by name: of them the same codec makes the same x,
        without its encoder."""
        ...

    def bits_per_dim(self, log_prob: Any) -> Float[Array, "..."] | None:
        """Bits per dimension of raw parts whose dequantised x has this log-density (nats); None for
        a raw part of real numbers."""
        ...


def feature_of(features: Mapping[str, Feature], part: str) -> Feature:
    """The feature of a part.

    Raises:
      ValueError: the data set has no such part.
    """
    if part not in features:
        raise ValueError(f"the data set has no part {part!r}, only {', '.join(features)}")
    return features[part]
