"""Observations `y = A(x_0) + noise z`."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from score_sde.inverse.operators import SVD, Operator, inverse_values
from score_sde.types import Key, real_dtype


class Observation(NamedTuple):
    """What an operator measured: y [b, ...], or [1, ...] for all examples. noise: the standard
    deviation of the errors of y, in its units. `observed` makes one with checks."""

    operator: Operator
    y: Float[Array, "b ..."]
    noise: float


def observed(operator: Operator, y: ArrayLike, noise: float) -> Observation:
    """The observation y [b, ...], checked.

    Raises:
      ValueError: y has another shape than the operator gives, or numbers that are not finite, or
        the noise is negative or not finite.
    """
    _check_noise(noise)
    y = np.asarray(y)
    if y.shape[1:] != operator.y_shape or not y.ndim:
        raise ValueError(
            f"an observation of this operator has the shape [b, "
            f"{', '.join(map(str, operator.y_shape))}], not {list(y.shape)}"
        )
    wrong = int(np.sum(~np.isfinite(y)))
    if wrong:
        raise ValueError(
            f"{wrong} of the {y.size} observed numbers are NaN or infinite: leave unknown ones out "
            "with a mask"
        )
    y = jnp.asarray(y)
    return Observation(operator, y.astype(real_dtype(y)), noise)


def observe(key: Key, operator: Operator, x: Float[Array, "b ..."], noise: float) -> Observation:
    """Measures x: A(x) + noise z.

    Raises:
      ValueError: x is not of the operator's shape, or the noise is negative or not finite.
    """
    _check_noise(noise)
    if x.shape[1:] != operator.shape:
        raise ValueError(f"the operator is for examples of {operator.shape}, not {x.shape[1:]}")
    y = operator.apply(x)
    return Observation(operator, y + noise * jax.random.normal(key, y.shape, y.dtype), noise)


def _check_noise(noise: float) -> None:
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise is a standard deviation, 0 or more, not {noise}")


class Known(NamedTuple):
    """What y tells of the coefficients c = V^T x_0. Where `known`, y measures c as `mean` with
    errors N(0, std^2). Elsewhere the singular value is 0, and so are mean and std."""

    svd: SVD
    mean: Float[Array, "b ..."]
    std: Float[Array, "1 ..."]
    known: Bool[Array, "1 ..."]

    def put(self, x: Float[Array, "b ..."], c: Array) -> Float[Array, "b ..."]:
        """x with its known coefficients replaced by c, [b, ...] or [1, ...]. The result is exact
        where a coefficient is a single number of x."""
        own, c = (jnp.where(self.known, a, 0) for a in (self.svd.right(x), c))
        return x - self.svd.right_t(own) + self.svd.right_t(c)


def known(observation: Observation, method: str) -> Known:
    """What y tells of the coefficients.

    method: for the error.

    Raises:
      ValueError: the operator has no SVD.
    """
    svd = observation.operator.svd
    if svd is None:
        raise ValueError(f"{method} is for linear operators: take dps for others")
    y = observation.y
    inverse = inverse_values(svd, y.dtype)
    return Known(svd, inverse * svd.left_t(y), observation.noise * inverse, inverse > 0)


def consistent(observation: Observation, x: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
    """x with its known coefficients replaced by those of y. For noise 0, at the end of sampling.

    Raises:
      ValueError: the observation is noisy, or its operator not linear.
    """
    if observation.noise:
        raise ValueError(f"y has errors of {observation.noise}: x should not agree with it exactly")
    seen = known(observation, "consistent")
    return seen.put(x, seen.mean)
