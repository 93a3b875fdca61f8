"""What a conditioner is: from raw parts, or from what a user asks for, to conditions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_sde.types import Cond, Feature, Key, as_pytree

Raw = Mapping[str, Any]
"""Raw parts by name, each [b, ...]."""


@runtime_checkable
class Conditioner(Protocol):
    """From the raw parts that are not x to conditions. A pytree of its frozen parameters, if it has
    any: so they are arguments of compiled programs, and not constants of them.

    features: the raw parts that it reads.
    nothing: the raw parts of one example that mean "unknown".
    sizes: of the conditions that it gives, by name: how many classes or words there are, or how
        many numbers each has.
    field: of `config.sampling`, the one that asks for conditions, such as "labels".
    digests: SHA-256 of what makes the raw parts that it reads, or keeps (`stored`), of others: of
        tokenizers and frozen encoders, by what they are.
    """

    features: Mapping[str, Feature]
    nothing: Raw
    sizes: Mapping[str, int]
    field: str
    digests: Mapping[str, str]

    def read(self, example: Raw) -> dict[str, Any]:
        """The numbers that it makes of the text of one example, by the name of the raw part. It
        runs on the host, before examples are put into batches; {} if it reads no text."""
        ...

    def encode(self, raw: Raw, key: Key | None = None) -> Cond:
        """The conditions of these examples. `raw` may have other parts too.

        key: for examples that have several, such as captions, takes one at random; without it the
            first.
        """
        ...

    def stored(self, raw: Raw) -> dict[str, Array]:
        """What mode `encode` keeps of raw parts, by name: of them the same conditioner makes the
        same conditions, without its encoders."""
        ...

    def request(self, wanted: Any, examples: Any = ()) -> Callable[[Array, Array], Raw]:
        """What a user asks for, as `(keys [b], numbers int [b]) -> raw parts` of the samples with
        these numbers. If nothing is asked for, they are random, or those of the
        examples in turn.

        examples: of the data set, as `Source`; () where it is not there.

        Raises:
          ValueError: no example has what is asked for.
        """
        ...

    def told(self, raw: Raw) -> dict[str, np.ndarray]:
        """What these raw parts ask for, as a user would have asked, by the name of a field: such as
        {"labels": int [b]} or {"prompts": texts [b]}."""
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


def null(conditioner: Conditioner, cond: Cond, raw: Raw | None = None) -> Cond:
    """The condition that says nothing, for as many examples as `cond` has. With it a conditional
    model is an unconditional one, if training dropped conditions now and then (Ho & Salimans 2022,
    arXiv:2207.12598). Parts of `cond` that "unknown" does not replace stay, such as an image beside
    x.

    raw: raw parts that are asked for in the place of nothing, for guidance to lead away from.
    """
    parts = list(cond.values())
    nothing = conditioner.encode(unknown(conditioner, len(parts[0]) if parts else 0))
    replaced = nothing if raw is None else conditioner.encode(raw)
    return {**cond, **{name: replaced[name] for name in nothing}}


def in_turn(parts: Mapping[str, Any]) -> Callable[[Array, Array], Raw]:
    """As `Conditioner.request`: the rows [n, ...] of each part in turn.

    A pytree of the rows and their number. The rows are filled up to a power of 2, so that as an
    argument of a program 3 rows or 5 are the same program.
    """
    n = len(next(iter(parts.values())))
    filled = {
        name: jnp.asarray(np.resize(a, (max(16, 1 << (n - 1).bit_length()), *np.shape(a)[1:])))
        for name, a in parts.items()
    }
    return jax.tree_util.Partial(_in_turn, filled, jnp.int32(n))


def _in_turn(parts: Mapping[str, Array], n: Array, keys: Array, numbers: Array) -> Raw:
    return {name: a[numbers % n] for name, a in parts.items()}


def request_beside(
    text: Any, wanted: Sequence[Any], examples: Any, parts: Mapping[str, Array]
) -> Callable[[Array, Array], Raw]:
    """As `Conditioner.request`: what `text` asks for, and beside it the rows of each part in turn.
    Examples that lack what the text reads have no words for it.

    Raises:
      ValueError: as the text.
    """
    whole = examples if len(examples) and text.features.keys() <= examples[0].keys() else ()
    return jax.tree_util.Partial(_beside, as_pytree(text.request(wanted, whole)), parts)


def _beside(of_text: Callable, parts: Mapping[str, Array], keys: Array, numbers: Array) -> Raw:
    chosen = {name: a[numbers % len(a)] for name, a in parts.items()}
    return {**of_text(keys, numbers), **chosen}
