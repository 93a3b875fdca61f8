"""Averages of parameters over training: with constant decay, or with a power-function profile.

A power-function average of exponent gamma is (Karras et al. 2023, arXiv:2312.02696, sec. 3)

    theta_gamma(t) = (gamma + 1) / t^(gamma + 1) int_0^t tau^gamma theta(tau) dtau

Its length is the standard deviation of that profile relative to t. After the training, a linear
combination of stored averages of a few lengths is an average of any other length (app. C).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64

Average = Callable[[Array], Float[Array, ""]]
"""`(step, int [], from 0) -> float32 []`, the weight in the average of the parameters after it."""

MAX_LENGTH = 0.28  # the plain mean, gamma = 0, has 12^-1/2 = 0.289


def constant(rate: float, warmup: bool, ramp: float = 0.0) -> Average:
    """Decay by `rate`, and by less in the beginning, so that a short run forgets its random start.

    warmup: by at most (1 + n) / (10 + n) at step n (as in the PyTorch code of Song et al. 2021).
    ramp: by at most 2^(-1 / (ramp n)), whose half-life is this share of the steps so far (Karras et
        al. 2022, arXiv:2206.00364, whose share is 0.05); 0 for no limit.
    """

    def share(step):
        n = step.astype(jnp.float32)
        decay = jnp.minimum(rate, (1 + n) / (10 + n)) if warmup else jnp.float32(rate)
        # 2^-inf is 0: the first average is the parameters themselves
        return 1 - (jnp.minimum(decay, jnp.exp2(-1 / (ramp * n))) if ramp else decay)

    return share


def power(length: float) -> Average:
    """The power-function average of a length: decay by (1 - 1/t)^(gamma + 1) at t = step + 1.

    It is the exact integral for parameters that are theta_i on (i - 1, i].

    Raises:
      ValueError: no length between 0 and MAX_LENGTH.
    """
    gamma = gamma_of(length)

    def share(step):
        t = step.astype(jnp.float32) + 1
        # 1 - decay, without the cancellation where the decay is near 1
        return -jnp.expm1(jnp.float32(gamma + 1) * jnp.log1p(-1 / t))

    return share


def length_of(gamma: float) -> float:
    """The length of exponent gamma: sqrt(gamma + 1) / ((gamma + 2) sqrt(gamma + 3))."""
    return math.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2)


def gamma_of(length: float) -> float:
    """The exponent of a length: the largest root of (gamma + 2)^2 (gamma + 3) = (gamma + 1) /
    length^2.

    Raises:
      ValueError: no length between 0 and MAX_LENGTH.
    """
    if not 0 < length < MAX_LENGTH:
        raise ValueError(f"the length of an average is between 0 and {MAX_LENGTH}, not {length}")
    square = length**-2
    return float(np.max(np.roots([1, 7, 16 - square, 12 - square]).real))


class Profiles(NamedTuple):
    """Profiles of power-function averages: the exponents, and the steps after which they are 0."""

    gamma: Float64[np.ndarray, " n"]
    end: Float64[np.ndarray, " n"]


def inner_products(a: Profiles, b: Profiles) -> Float64[np.ndarray, "n m"]:
    """int p_i(tau) q_j(tau) dtau of profiles p_i of a and q_j of b."""
    p, s = a.gamma[:, None] + 1, a.end[:, None]
    q, t = b.gamma + 1, b.end
    low = np.minimum(s, t)
    return p * q / ((p + q - 1) * low) * (low / s) ** p * (low / t) ** q


class Combination(NamedTuple):
    """weights [n], which sum to 1; error: the L2 norm of the combined profile minus the wanted one,
    over the norm of the wanted one."""

    weights: Float64[np.ndarray, " n"]
    error: float


def combine(stored: Profiles, wanted: Profiles) -> Combination:
    """The weights with which the stored profiles, all different, come nearest in L2 to the one
    wanted profile.

    They sum to 1, so that parameters which training did not change stay what they are. The two
    averages then differ by at most the norm of the difference of the profiles times the norm of
    theta - c, for any constant c.
    """
    gram = inner_products(stored, stored)
    with_wanted = inner_products(stored, wanted)[:, 0]
    square = inner_products(wanted, wanted)[0, 0]
    # profiles of norm 1 condition the system better: early ones are tall and narrow
    unit = 1 / np.sqrt(np.diag(gram))
    sides = unit[:, None] * np.stack([with_wanted, np.ones_like(unit)], axis=1)
    free, towards = (unit[:, None] * np.linalg.solve(unit[:, None] * gram * unit, sides)).T
    weights = free + towards * (1 - free.sum()) / towards.sum()
    weights[np.abs(weights) < 1e-9] = 0.0  # zero, up to rounding
    weights /= weights.sum()
    rest = weights @ gram @ weights - 2 * weights @ with_wanted + square
    return Combination(weights, math.sqrt(max(rest, 0.0) / square))
