"""What a conditional network is told, `Cond`, and the value of each part of it that says nothing.

`{"label": int [b], "vector": float [b, d], "image": float [b, h, w, c]}`, any of them. Nothing is
known of an example whose label is -1 and whose vector and image are zeros. An unconditional model
is the conditional one with that value, which it learns by losing its conditions now and then in
training (Ho & Salimans 2022, arXiv:2207.12598).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from score_sde.types import Cond, Key, expand

_NOTHING = {"label": -1, "vector": 0, "image": 0}


def null(cond: Cond) -> Cond:
    """The condition of the same parts that says nothing.

    Raises:
      ValueError: a part that is none of label, vector and image.
    """
    if unknown := sorted(cond.keys() - _NOTHING):
        raise ValueError(f"unknown condition {unknown[0]!r}: one of {', '.join(_NOTHING)}")
    return {name: jnp.full_like(value, _NOTHING[name]) for name, value in cond.items()}


def drop(key: Key, cond: Cond, rate: float) -> Cond:
    """Each example loses all of its conditions with probability `rate`."""
    size = len(next(iter(cond.values())))
    lost = jax.random.bernoulli(key, rate, (size,))
    return {
        name: jnp.where(expand(lost, cond[name]), nothing, cond[name])
        for name, nothing in null(cond).items()
    }


def interleave(*conds: Cond) -> Cond:
    """One batch of several of equal parts and sizes: those of the first example, then those of the
    second, and so on, so that what belongs together lies on one device."""
    return {
        name: jnp.stack([cond[name] for cond in conds], axis=1).reshape(-1, *value.shape[1:])
        for name, value in conds[0].items()
    }


def log_prob(logits: Float[Array, "b n"], label: Int[Array, " b"]) -> Float[Array, " b"]:
    """ln p(label), nats, of a classifier's logits; 0, which is certain, where there is none."""
    chosen = jnp.maximum(label, 0)[:, None]
    of_label = jnp.take_along_axis(jax.nn.log_softmax(logits), chosen, axis=1)[:, 0]
    return jnp.where(label < 0, 0, of_label)


def check_labels(labels: Sequence[Any], num_classes: int) -> None:
    """Labels of a user, where they are still numbers: -1 is no class.

    Raises:
      ValueError: one of them is not of a class.
    """
    for label in labels:
        if not isinstance(label, int) or not -1 <= label < num_classes:
            raise ValueError(
                f"label {label!r} is none of the {num_classes} classes 0 to {num_classes - 1}, nor "
                "-1 for no class"
            )
