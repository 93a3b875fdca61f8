"""Runs of solvers on one problem, and the two measures of their error."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_sde import sampling
from score_sde.config import at
from score_sde.errors import ConvergenceError
from score_sde.evaluation import solver_error
from score_sde.evaluation.metrics.wasserstein import sliced_wasserstein
from score_sde.evaluation.solver_error import Estimate
from score_sde.evaluation.solver_variants import Variants
from score_sde.processes import SDE
from score_sde.types import Denoiser, Grid, Key, PyTree


class Problem(NamedTuple):
    """What is sampled, in batches [n, ...] that are each made from a key.

    start: x at t_max. denoiser: of the batch. data: samples of the true distribution, or None where
    nobody has them. compiler: options of XLA.
    """

    name: str
    sde: SDE
    params: PyTree
    start: Callable[[Key], Array]
    denoiser: Callable[[PyTree, Key], Denoiser]
    data: Callable[[Key], Array] | None
    compiler: dict[str, Any] | None = None

    def batch(self, params: PyTree, key: Key) -> tuple[Denoiser, Array, Key]:
        """The denoiser and the start of a batch, and the key of its solver."""
        key_start, key_denoiser, key_solver = jax.random.split(key, 3)
        return self.denoiser(params, key_denoiser), self.start(key_start), key_solver


class Run(NamedTuple):
    """The samples of a solver: x [batches, n, ...], evaluations a sample, and seconds a batch."""

    x: np.ndarray
    nfe: float
    seconds: float


def program(problem: Problem, variants: Variants, keys: Array) -> Callable[[Grid], list[Run]]:
    """`times -> runs`, one for each point of the sweep, with all batches in one call. It is
    compiled once for each length of grid."""
    points = variants.points()
    swept = {key: jnp.asarray(values, float) for key, values in variants.swept.items()}
    compiled = {}

    @jax.jit
    def every(params, times, keys, swept):
        def one(key, **point):
            solver = variants.build(problem.sde, point)
            denoiser, x, key_solver = problem.batch(params, key)
            return sampling.sample(key_solver, solver, denoiser, x, times, denoise=True)

        return sampling.sweep(one, key=keys, **swept)

    def run(times):
        arguments = problem.params, times, keys, swept
        if len(times) not in compiled:
            compiled[len(times)] = every.lower(*arguments).compile(problem.compiler)
        begin = time.perf_counter()
        out = jax.block_until_ready(compiled[len(times)](*arguments))
        seconds = (time.perf_counter() - begin) / (len(keys) * len(points))
        x = np.asarray(out.x).reshape(len(keys), len(points), *out.x.shape[1 + len(swept) :])
        nfe = np.asarray(out.nfe).reshape(len(keys), len(points), -1).mean(axis=(0, 2))
        return [Run(x[:, i], float(nfe[i]), seconds) for i in range(len(points))]

    return run


class Measure(NamedTuple):
    """of: the error of samples [batches, n, ...]. floor: the least error that it can tell. about:
    a sentence on the measure that ends before the floor. slopes: the orders of convergence that a
    figure has guides for."""

    of: Callable[[np.ndarray], Estimate]
    floor: float
    about: str
    slopes: Sequence[int] = ()


def endpoint_error(problem: Problem, keys: Array, tolerance: float) -> Measure:
    """The RMS distance to the ends of the probability-flow ODE, from the same starts.

    The floor is the error of the ODE itself at ten times the tolerance.
    """
    ode = _ode(problem)
    truth, rough = ode(keys, tolerance), ode(keys, 10 * tolerance)

    def of(x):
        return solver_error.rms_error(np.concatenate(x), np.concatenate(truth))

    about = (
        f"Distance from the probability-flow ODE at tolerance {tolerance}, over "
        f"{len(truth) * truth.shape[1]} starts; that of the ODE itself is below"
    )
    return Measure(of, of(rough).value, about, slopes=(1, 2, 3))


def distance(problem: Problem, key: Key, batches: int, tolerance: float) -> Measure:
    """The sliced Wasserstein distance to true samples: data, or else ends of the ODE.

    The floor is the distance between two sets of true samples.
    """
    if problem.data:
        data: Callable[[Array], Any] = jax.jit(jax.vmap(problem.data))
    else:
        data = functools.partial(_ode(problem), tolerance=tolerance)
    keys = jax.random.split(key, (3, batches))
    truth, again = data(keys[0]), data(keys[1])
    sliced = jax.jit(jax.vmap(sliced_wasserstein))

    def of(x):
        return solver_error.mean(sliced(keys[2], x, truth).tolist())

    about = (
        f"Mean over {batches} batches of {truth.shape[1]} samples; that of two sets of true "
        "samples is"
    )
    return Measure(of, of(again).value, about)


def _ode(problem: Problem) -> Callable[..., np.ndarray]:
    """`(keys, tolerance) -> x [batches, n, ...]`, the ends of the ODE."""

    @jax.jit
    def ends(params, keys, tolerance):
        def one(key):
            denoiser, x, _ = problem.batch(params, key)
            return solver_error.reference(problem.sde, denoiser, x, tolerance).x

        return sampling.sweep(one, key=keys)

    def checked(keys, tolerance):
        with at("solvers"):  # the ODE needs a finite log-SNR
            x = np.asarray(ends(problem.params, keys, jnp.asarray(tolerance, float)))
        if not np.all(np.isfinite(x)):
            raise ConvergenceError(
                f"the ODE that is the truth did not converge to {tolerance}: raise "
                "solvers.reference_tolerance (float32 reaches about 1e-5)"
            )
        return x

    return checked
