"""What a conditioner is: from raw parts, or from what a user asks for, to conditions."""

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
    """From the raw parts that are not x to conditions.

    features: the raw parts that it reads.
    nothing: the raw parts of one example that mean "unknown".
    """

    features: Mapping[str, Feature]
    nothing: Raw

    def encode(self, raw: Raw) -> Cond:
        """The conditions of these examples. `raw` may have other parts too."""
        ...

    def request(self, wanted: Any) -> Callable[[Array, Array], Raw]:
        """What a user asks for, as `(keys [b], numbers int [b]) -> raw parts` of the samples with
        these numbers. If nothing is asked for, they are random.

        Raises:
          ValueError: no example has what is asked for.
        """
        ...

    def check(self, raw: Raw) -> None:
        """Raises a ValueError for raw parts that no example has."""
        ...


def unknown(conditioner: Conditioner, size: int) -> dict[str, Array]:
    """The raw parts that mean "unknown", of `size` examples."""
    return {
        name: jnp.broadcast_to(value, (size, *jnp.shape(value)))
        for name, value in conditioner.nothing.items()
    }


def null(conditioner: Conditioner, cond: Cond) -> Cond:
    """The condition that says nothing, for as many examples as `cond` has. With it a conditional
    model is an unconditional one, if training dropped conditions now and then (Ho & Salimans 2022,
    arXiv:2207.12598)."""
    parts = list(cond.values())
    size = len(parts[0]) if parts else 0
    return conditioner.encode(unknown(conditioner, size))
