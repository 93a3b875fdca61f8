"""How a difference between two predictions counts: constructors `(**options) -> Distance`.

Only `squared` has the mean as its minimum. The others weigh large differences less, which steadies
the training, and moves what it ends at where the target is noisy: docs/guides/few_steps.md shows by
how much.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

__all__ = ["adaptive", "elementwise_huber", "huber", "norm", "squared"]  # what a config can name

Distance = Callable[[Float[Array, "b ..."]], Float[Array, " b"]]
"""`difference [b, ...] -> [b]`; 0 for no difference, where its gradient is 0 too."""


def squared() -> Distance:
    """The mean square over the dimensions of an example."""
    return lambda d: jnp.mean(_flat(d) ** 2, axis=1)


def norm() -> Distance:
    """|d|, the Euclidean norm over the dimensions of an example (Geng et al. 2024,
    arXiv:2406.14548)."""
    return lambda d: _root(jnp.sum(_flat(d) ** 2, axis=1))


def huber(scale: float = 0.00054) -> Distance:
    """sqrt(|d|^2 + c^2) - c with c = scale sqrt(dimensions), pseudo-Huber (Song & Dhariwal 2023,
    arXiv:2310.14189, eq. 5). For |d| far below c it is |d|^2 / (2 c).

    Raises:
      ValueError: scale is not positive.
    """
    _check_positive("scale", scale)

    def distance(d):
        square, c = jnp.sum(_flat(d) ** 2, axis=1), scale * _flat(d).shape[1] ** 0.5
        return square / (jnp.sqrt(square + c**2) + c)  # keeps its digits where d is small

    return distance


def elementwise_huber(scale: float = 0.001) -> Distance:
    """The mean over dimensions of sqrt(d_i^2 + scale^2) - scale (Luo et al. 2023,
    arXiv:2310.04378).

    Raises:
      ValueError: scale is not positive.
    """
    _check_positive("scale", scale)

    def distance(d):
        square = _flat(d) ** 2
        return jnp.mean(square / (jnp.sqrt(square + scale**2) + scale), axis=1)

    return distance


def adaptive(power: float = 1.0, constant: float = 1e-3) -> Distance:
    """|d|^2 / stop_gradient(|d|^2 + constant)^power, the sum over dimensions: power 1 is that of
    mean flows (Geng et al. 2025, arXiv:2505.13447, eq. 22), 0 is the square.

    Raises:
      ValueError: constant is not positive.
    """
    _check_positive("constant", constant)

    def distance(d):
        square = jnp.sum(_flat(d) ** 2, axis=1)
        return square / lax.stop_gradient((square + constant) ** power)

    return distance


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} must be above 0, not {value}")


def _flat(d: Array) -> Array:
    return d.reshape(len(d), -1)


def _root(square: Array) -> Array:
    """The square root, with the gradient 0 at 0."""
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)
