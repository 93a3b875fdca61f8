"""What a solver with weights asks of a law that no process has as its marginals."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["mean", "spread", "value", "gradient"],
    meta_fields=["total"],
)
@dataclasses.dataclass(frozen=True)
class Tilt:
    """At x_t, a law that no process has as its marginals:
    `pi_t(x_t) ~ e^V(x_t, t) prod_i p_i,t(x_t)^beta_i`, each p_i the law of x_t for data of its own.

    mean: sum_i beta_i D_i / B [b, ...]. spread: sum_i beta_i |D_i - mean|^2 [b], below 0 where a
        power is; None for 0. total: B, the sum of the powers, above 0.
    value: V(x_t, t) [b], a log-reward, finite; None for 0. gradient: that of V by x_t [b, ...].
    """

    mean: Array
    spread: Array | None = None
    value: Array | None = None
    gradient: Array | None = None
    total: float = 1.0


Tilted = Callable[..., Any]
"""A Denoiser of a law which is reached with weights: `(x_t, t) -> D`, whose score is that of pi_t,
and `(x_t, t, s) -> Tilt`, the law itself, for a step to s. A solver that asks for a Denoiser takes
the score of pi_t for that of marginals, and so draws from another law."""
