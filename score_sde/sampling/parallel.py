"""Parallel-in-time sampling: fewer network calls in a row, for more evaluations in total.

Picard iteration over a sliding window (ParaDiGMS, Shih et al. 2023, arXiv:2305.16317), on the
denoiser's values. Let u_j be the inputs at which step j of a solver evaluates the denoiser, and v_j
the values that it gets there:

    v_j <- D(u_j)          for all steps of the window at once, one batched call
    u_j <- Phi_j(x, v)     the solver itself, from the state x at the start of the window

Only what the network adds is iterated: the linear part of a step, its noise and the history of a
multistep method are exact. The fixed point is the sequential sample.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from score_sde.sampling.loop import Sample
from score_sde.sampling.paths import BrownianPath
from score_sde.types import (
    Denoiser,
    Grid,
    Keys,
    Noise,
    PyTree,
    Solver,
    as_noise,
    counted,
    real_dtype,
)


class _Run(NamedTuple):
    """What stays the same over all iterations. calls: evaluations of a step, c below."""

    solver: Solver
    noise: Noise | BrownianPath  # that of the sequential sampler
    times: Grid
    tolerance: Float[Array, ""]
    window: int
    calls: int

    @property
    def steps(self) -> int:
        return len(self.times) - 1


class _Window(NamedTuple):
    """Where the iteration stands: the steps before `position` are final."""

    position: Int[Array, ""]
    x: Float[Array, "b ..."]  # at times[position], with the solver's state there
    state: PyTree
    inputs: Float[Array, "window c b ..."]  # to be evaluated next, at the times ts
    ts: Float[Array, "window c b"]
    waited: Int[Array, ""]  # evaluations since the window last moved
    depth: Int[Array, ""]


def sample(
    key: Keys | Noise | BrownianPath,
    solver: Solver,
    denoiser: Denoiser,
    x: Float[Array, "b ..."],
    times: Grid,
    *,
    window: int,
    tolerance: float | Float[Array, ""],
    denoise: bool = False,
    sharding: NamedSharding | None = None,
) -> Sample:
    """The result of `sampling.sample` for the same key (or noise), solver and grid, by iteration in
    a window.

    window: steps that are iterated together. Where it reaches past the end of the grid, the last
        step is repeated; nfe counts these repetitions too.
    tolerance: the window moves past a step when, in every sample, the inputs of the step have
        changed since their evaluation by at most this: the RMS of the change relative to the RMS of
        the input. (The flow of centred Gaussian data keeps relative errors, so they need no other
        scale in time.) The result is a sequential sample whose denoiser was evaluated at inputs
        that are off by at most `tolerance`; with 0 it is the sequential sample to rounding.
    denoise: as in `sampling.sample`; one more in depth and nfe.
    sharding: how a network call [window * c, b, ...] lies over devices, with c evaluations a step:
        `P("data")` splits it by steps, `P(None, "data")` by samples. The mesh's axes are of type
        Auto. Each call gathers its values over the steps.

    Every call makes one more evaluation of the window's first step final. So depth is at most the
    number of evaluations of the sequential sampler; window 1 and tolerance 0 reach it. `vmap` maps
    the denoiser over the steps: it sees the same b samples as in sequence, so conditions [b] that
    it has closed over need no change. Memory grows with window * c. The solver must call the
    denoiser directly, not from a traced loop or branch.

    Raises:
      ValueError: the solver's number of evaluations is not fixed (adaptive ones), or it asks for
        the variance; window is below 1; window * c or b does not divide over the sharding's
        devices.
    """
    _check(solver, window)
    x = x.astype(real_dtype(x))
    times = times.astype(x.dtype)
    state = solver.init(x, times)
    value = jax.eval_shape(denoiser, x, times[0])
    noise = as_noise(key)
    calls = _calls(solver, noise, x, times, state, value)
    run = _Run(solver, noise, times, jnp.asarray(tolerance, x.dtype), window, calls)
    evaluate = _batched(denoiser, window * calls, len(x), sharding)

    def iterate(at: _Window) -> _Window:
        return _sweep(run, at, evaluate(at.inputs, at.ts))._replace(depth=at.depth + 1)

    # The first inputs come from a denoiser of zero: nothing has been evaluated yet.
    zeros = jnp.zeros((window, calls, *value.shape), value.dtype)
    start = _sweep(run, _before(run, x, state), zeros)
    end = jax.lax.while_loop(lambda at: at.position < run.steps, iterate, start)
    x, depth, nfe = end.x, end.depth, end.depth * (window * calls)
    if denoise:
        x, depth, nfe = denoiser(x, times[-1]), depth + 1, nfe + 1
    return Sample(x, nfe, depth, None)


def _check(solver: Solver, window: int) -> None:
    if solver.nfe is not None:
        raise ValueError(
            "parallel.sample needs a solver with a fixed number of evaluations a step: "
            "use sampling.sample with this one"
        )
    if solver.asks != "denoiser":
        raise ValueError(
            "parallel.sample iterates the denoiser's values alone, and this solver asks for "
            f"{solver.asks}: use sampling.sample with it"
        )
    if window < 1:
        raise ValueError(f"window must be 1 or more, not {window}")


def _calls(
    solver: Solver,
    noise: Noise | BrownianPath,
    x: Array,
    times: Grid,
    state: PyTree,
    value: jax.ShapeDtypeStruct,
) -> int:
    """The evaluations of a step."""
    zero, count = counted(lambda x_t, t: jnp.zeros(value.shape, value.dtype))
    jax.eval_shape(lambda: solver.step(noise, zero, x, times[0], times[1], state))
    return count()


def _before(run: _Run, x: Float[Array, "b ..."], state: PyTree) -> _Window:
    """The window before the first sweep, whose inputs are close to none."""
    shape = (run.window, run.calls, *x.shape)
    return _Window(
        position=jnp.zeros((), jnp.int32),
        x=x,
        state=state,
        inputs=jnp.full(shape, jnp.inf, x.dtype),
        ts=jnp.zeros(shape[:3], x.dtype),
        waited=jnp.full((), -1, jnp.int32),
        depth=jnp.zeros((), jnp.int32),
    )


def _sweep(run: _Run, at: _Window, values: Float[Array, "window c b ..."]) -> _Window:
    """Runs the solver on these values, accepts what it can of the window and moves it.

    It runs twice the window, the second half on the values of the window's last step: the steps
    that enter the window have their inputs from there.
    """

    def body(carry, j):
        x, state, (accept, moved, latest) = carry
        # Past its end the grid's last step is repeated from where it began, so that all inputs are
        # finite.
        i = jnp.minimum(at.position + j, run.steps - 1)
        k = jnp.minimum(j, run.window - 1)
        after, inputs, ts = _step_on(run, i, x, state, values[k])

        change, size = _mean_square(inputs - at.inputs[k]), _mean_square(inputs)
        close = change <= run.tolerance**2 * size
        # The window's start is final, so each call makes one more evaluation of its first step
        # final. The comparison may miss this: rounding may break it, and NaN does.
        final = (j == 0) & (at.waited + 1 >= run.calls)
        accept &= (jnp.all(close) | final) & (j < run.window) & (at.position + j < run.steps)
        latest = _select(accept, after, latest)
        accepted = (accept, moved + accept.astype(jnp.int32), latest)
        x, state = _select(at.position + j < run.steps - 1, after, (x, state))
        return (x, state, accepted), (inputs, ts)

    start = (jnp.asarray(True), jnp.zeros((), jnp.int32), (at.x, at.state))
    (_, _, accepted), (inputs, ts) = jax.lax.scan(
        body, (at.x, at.state, start), jnp.arange(2 * run.window, dtype=jnp.int32)
    )
    _, moved, (x, state) = accepted
    return _Window(
        at.position + moved,
        x,
        state,
        jax.lax.dynamic_slice_in_dim(inputs, moved, run.window),
        jax.lax.dynamic_slice_in_dim(ts, moved, run.window),
        jnp.where(moved > 0, 0, at.waited + 1),
        at.depth,
    )


def _step_on(
    run: _Run, i: Int[Array, ""], x: Array, state: PyTree, values: Float[Array, "c b ..."]
) -> tuple[tuple[Array, PyTree], Float[Array, "c b ..."], Float[Array, "c b"]]:
    """Step i with these values in the place of the denoiser's: x and state after it, and the inputs
    and times at which it asked for them."""
    asked = []

    def lookup(x_t, t):
        asked.append((x_t, jnp.broadcast_to(t, x_t.shape[:1])))
        return values[len(asked) - 1]

    after = run.solver.step(run.noise, lookup, x, run.times[i], run.times[i + 1], state)
    inputs, ts = (jnp.stack(a) for a in zip(*asked, strict=True))
    return after, inputs, ts


def _batched(
    denoiser: Denoiser, size: int, batch: int, sharding: NamedSharding | None
) -> Callable[[Array, Array], Array]:
    """The denoiser of inputs [window, c, b, ...] at ts [window, c, b], size = window * c.

    Raises:
      ValueError: size or b does not divide over the devices of the sharding.
    """
    gathered = sharding
    if sharding is not None:
        try:
            sharding.shard_shape((size, batch))
        except ValueError:
            raise ValueError(
                f"window * c = {size} evaluations of {batch} samples do not divide over "
                f"{sharding.spec} of {dict(sharding.mesh.shape)} devices: change the window"
            ) from None
        gathered = NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec[1:]))

    def place(a, sharding):
        return a if sharding is None else jax.lax.with_sharding_constraint(a, sharding)

    def evaluate(inputs, ts):
        flat, flat_ts = (place(a.reshape(size, *a.shape[2:]), sharding) for a in (inputs, ts))
        values = place(jax.vmap(denoiser)(flat, flat_ts), sharding)
        return place(values, gathered).reshape(inputs.shape)

    return evaluate


def _select(condition, new: PyTree, old: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def _mean_square(inputs: Float[Array, "c b ..."]) -> Float[Array, "c b"]:
    return jnp.mean(inputs**2, axis=tuple(range(2, inputs.ndim)))
