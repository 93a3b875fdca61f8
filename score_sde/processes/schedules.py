"""How fast discrete processes lose their tokens: alpha(t), from 1 at t = 0 to 0 at t = 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

__all__ = ["cosine", "linear", "polynomial"]  # what a config can name

Time = Float[Array, "*b"]


class Schedule(NamedTuple):
    """alpha and noise = 1 - alpha, each with all its digits where it is small, and the inverse of
    noise. All are functions of arrays of any shape."""

    alpha: Callable[[Time], Time]
    noise: Callable[[Time], Time]
    t_of_noise: Callable[[Time], Time]


def linear() -> Schedule:
    """alpha = 1 - t (Sahoo et al. 2024, arXiv:2406.07524): masks are revealed at an even pace."""
    return Schedule(lambda t: 1 - t, lambda t: t, lambda noise: noise)


def polynomial(power: float = 2.0) -> Schedule:
    """alpha = 1 - t^power (Shi et al. 2024, arXiv:2406.04329, tab. 4).

    Raises:
      ValueError: the power is not positive.
    """
    if not power > 0:
        raise ValueError(f"power must be above 0, not {power}")
    return Schedule(
        lambda t: -jnp.expm1(power * jnp.log(t)),
        lambda t: t**power,
        lambda noise: noise ** (1 / power),
    )


def cosine() -> Schedule:
    """alpha = 1 - cos((1 - t) pi/2) = 1 - sin(t pi/2) (Shi et al. 2024, arXiv:2406.04329, tab. 4):
    few tokens are revealed at first, when little is known."""
    quarter = np.pi / 4
    return Schedule(
        lambda t: 2 * jnp.sin(quarter * (1 - t)) ** 2,
        lambda t: jnp.sin(2 * quarter * t),
        lambda noise: jnp.arcsin(noise) / (2 * quarter),
    )
