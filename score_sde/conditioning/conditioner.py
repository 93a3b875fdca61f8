"""What a conditioner is: it makes what a network is told, of raw parts or of a user's wish."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array

from score_sde.types import Cond, Feature

Raw = Mapping[str, Any]
"""Raw parts by name, each [b, ...]."""


@runtime_checkable
class Conditioner(Protocol):
    """Makes conditions of the raw parts that are not x.

    features: the raw parts that it reads.
    nothing: the raw parts of one example of which nothing is known.
    """

    features: Mapping[str, Feature]
    nothing: Raw

    def encode(self, raw: Raw) -> Cond:
        """What the network is told of these examples. Other parts may be in `raw`."""
        ...

    def request(self, wanted: Any) -> Callable[[Array, Array], Raw]:
        """From what a user asks for to `(keys [b], numbers int [b]) -> raw parts` of the samples of
        these numbers; anything at random where nothing is asked for.

        Raises:
          ValueError: there is no such thing.
        """
        ...

    def check(self, raw: Raw) -> None:
        """Raises a ValueError for raw parts that no example has."""
        ...


def unknown(conditioner: Conditioner, size: int) -> dict[str, Array]:
    """The raw parts of `size` examples of which nothing is known."""
    return {
        name: jnp.broadcast_to(value, (size, *jnp.shape(value)))
        for name, value in conditioner.nothing.items()
    }


def null(conditioner: Conditioner, cond: Cond) -> Cond:
    """The condition that says nothing, for as many examples as `cond` has. An unconditional model
    is the conditional one with it, which it learns by losing its conditions now and then in
    training (Ho & Salimans 2022, arXiv:2207.12598)."""
    parts = list(cond.values())
    size = len(parts[0]) if parts else 0
    return conditioner.encode(unknown(conditioner, size))
