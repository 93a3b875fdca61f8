"""The law of a solver with weights in the limit of many particles, on Gaussians of one number.

There a step is affine in x and the noise, and its log-weight is quadratic in both. So the weighted
law is a Gaussian times a number at every time, and both follow exactly from six particles.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.processes import Tilted
from score_sde.processes.exact import Gaussian
from score_sde.processes.exact_tilted import tilted
from score_sde.types import Grid, Solver

# of (x, z): where a quadratic is known by its values
_AT = np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1], [1, 1]], float)


class Law(NamedTuple):
    """e^log_z N(mean, variance)."""

    mean: Float[Array, ""]
    variance: Float[Array, ""]
    log_z: Float[Array, ""]


class _Given:
    """Noise that is given; keys are not used, since nothing is dealt anew."""

    def __init__(self, z: Array):
        self.z, self.key = z, jax.random.key(0)

    def __call__(self, t: Array, s: Array, shape: tuple[int, ...]) -> Array:
        return self.z

    def fold(self, number: int | Array) -> _Given:
        return self

    def at(self, t: Array, s: Array) -> _Given:
        return self


def weighted_law(solver: Solver, denoiser: Tilted, prior_std: float, times: Grid) -> Law:
    """Of x at the end, for x of N(0, prior_std^2) at the start.

    solver: with six particles, which are never dealt anew: `feynman_kac(sde, 6, threshold=0.0,
        deal=False)`. denoiser: of x [b, 1], with affine means and a quadratic V.
    """
    at = jnp.asarray(_AT, times.dtype)
    start = solver.init(at[:, :1], times)

    def step(law, ends):
        index, t, s = ends
        # about the law itself, so that its digits count
        std = jnp.sqrt(law.variance)
        x, noise = law.mean + std * at[:, :1], _Given(at[:, 1:])
        state = start._replace(done=index, left=start.left - index)
        given: Any = noise
        x, state = solver.step(given, denoiser, x, t, s, state)
        value, line = state.log_weights[0], x[:, 0]
        linear = (value[1::2][:2] - value[2::2][:2]) / 2  # by x and z
        square = (value[1::2][:2] + value[2::2][:2]) - 2 * value[0]
        mixed = value[5] - value[0] - jnp.sum(linear) - jnp.sum(square) / 2
        hessian = jnp.diag(square) + mixed * (1 - jnp.eye(2, dtype=x.dtype))
        both = tilted(Gaussian(jnp.zeros(2, x.dtype), jnp.eye(2, dtype=x.dtype)), linear, -hessian)
        slope = (line[1::2][:2] - line[2::2][:2]) / 2
        mean, cov = both.law.means[0], both.law.covs[0]
        found = Law(line[0] + slope @ mean, slope @ cov @ slope, law.log_z + value[0] + both.log_z)
        return found, None

    zero = jnp.zeros((), times.dtype)
    begin = Law(zero, zero + prior_std**2, zero)
    index = jnp.arange(len(times) - 1, dtype=jnp.int32)
    return jax.lax.scan(step, begin, (index, times[:-1], times[1:]))[0]
