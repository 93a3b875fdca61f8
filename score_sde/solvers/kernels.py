"""The Gaussian transitions of a sampler's steps, for those who need their densities."""

from __future__ import annotations

from typing import NamedTuple

import jax
from jaxtyping import Array

from score_sde.processes import SDE
from score_sde.solvers import exponential
from score_sde.solvers.exponential import Interpolation
from score_sde.types import Grid

__all__ = []  # a config can name none of it


class Kernels(NamedTuple):
    """Of n steps, `x_s = linear x_t + weight D(x_t, t) + noise z`, each [n].

    start, end: their times t and s.
    """

    start: Array
    end: Array
    linear: Array
    weight: Array
    noise: Array


def kernels(sde: SDE, times: Grid, tau: float = 1.0) -> Kernels:
    """Those of the reverse SDE of stochasticity tau on a grid, with D constant in a step
    (`exponential`, order 1): of `ddim(eta=1)` where tau is 1.

    Raises:
      ValueError: tau is not above 0, so that there is no noise.
    """
    if not tau > 0:
        raise ValueError(f"tau must be above 0, not {tau}: without noise there is no density")

    def one(t, s):
        start, end = exponential.noise_level(sde, t), exponential.noise_level(sde, s)
        g = tau**2 * (end.lam - start.lam)
        nodes = exponential.at_start(start)
        found = exponential.step(sde, Interpolation(), start, end, nodes, g)
        return found.linear, found.weights[0], found.noise

    return Kernels(times[:-1], times[1:], *jax.vmap(one)(times[:-1], times[1:]))
