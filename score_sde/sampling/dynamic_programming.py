"""GITS: times of least local error, by dynamic programming (Chen et al. 2024, arXiv:2405.11326)."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from score_sde import sampling
from score_sde.processes import SDE
from score_sde.sampling import grids
from score_sde.solvers.runge_kutta import singlestep
from score_sde.types import Denoiser, Grid, real_dtype


def dynamic_programming(
    sde: SDE,
    denoiser: Denoiser,
    x: Float[Array, "b ..."],
    n: int,
    *,
    candidates: int = 64,
    free_start: bool = False,
) -> Grid:
    """The n + 1 times with the least sum of DDIM's local errors.

    The cost of a step is the RMS distance, in x/alpha, between DDIM's step from the true state and
    the true state at its end (eq. 10 and alg. 1 there). The
    states are those of the flows from x at t_max, on `candidates + 1` times equal in log-SNR.

    free_start: also chooses the first time, which is t_max otherwise. Its cost is that of x_T
        scaled down to it, the step of a denoiser that returns 0, which needs no evaluation
        (Dockhorn et al. 2022, arXiv:2210.05475, sec. 3.2). Only a learned sampler starts so.

    Raises:
      ValueError: n is not from 1 to the number of candidates.
    """
    if not 1 <= n <= candidates:
        raise ValueError(f"n must be from 1 to candidates={candidates}, not {n}")
    grid = grids.log_snr(sde, candidates).astype(real_dtype(x))
    cost, jump = jax.jit(functools.partial(_local_errors, sde, denoiser))(x, grid)
    from_start = np.asarray(jump) if free_start else np.r_[0.0, np.full(candidates, np.inf)]
    return grid[_shortest_path(np.asarray(cost, np.float64), n, from_start)]


def _local_errors(sde, denoiser, x, grid):
    """`cost[i, j]` of DDIM's step from time i to time j, infinite unless j > i; and `jump[j]` from
    x at time 0 to time j without evaluation."""
    key = jax.random.key(0)  # nothing is drawn
    reference = singlestep(sde, 3, "x0")
    path: Any = sampling.sample(key, reference, denoiser, x, grid, trajectory=True).trajectory
    data = jax.lax.map(lambda at: denoiser(*at).astype(path.dtype), (path, grid))
    path = path / sde.alpha(grid).reshape(-1, *[1] * x.ndim)
    noise = jnp.exp(-sde.log_snr(grid) / 2)

    def errors(i, value):
        def to(j):
            keep = noise[j] / noise[i]
            error = keep * path[i] + (1 - keep) * value - path[j]
            return jnp.sqrt(jnp.mean(error**2))

        return jax.lax.map(to, jnp.arange(len(grid)))

    index = jnp.arange(len(grid))
    cost = jax.lax.map(lambda i: errors(i, data[i]), index)
    later = index[None, :] > index[:, None]
    return jnp.where(later, cost, jnp.inf), errors(0, jnp.zeros_like(path[0]))


def _shortest_path(
    cost: Float[np.ndarray, "m m"], n: int, from_start: Float[np.ndarray, " m"]
) -> Int[np.ndarray, " n_plus_1"]:
    """The path of n steps to the last node of least cost, with the cost of its first node."""
    best, previous = from_start, []
    for _ in range(n):
        through = best[:, None] + cost
        previous.append(np.argmin(through, axis=0))
        best = np.min(through, axis=0)
    path = [len(cost) - 1]
    for row in reversed(previous):
        path.append(row[path[-1]])
    return np.array(path[::-1])
