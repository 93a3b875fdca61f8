"""Parallel-in-time sampling: fewer network calls in a row, for more evaluations in total.

Picard iteration over a sliding window (ParaDiGMS, Shih et al. 2023, arXiv:2305.16317), on the
denoiser's values. With u_j the inputs at which step j of a solver evaluates the denoiser and v_j
the values that it is told,

    v_j <- D(u_j)          for all steps of the window at once, one batched call
    u_j <- Phi_j(x, v)     the solver itself, run from the window's start x on those values

so that only what the network adds is iterated: the linear part of a step, its noise and the
history of a multistep method are exact. The fixed point is the sequential sample.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from score_sde.sampling.loop import Sample
from score_sde.types import Denoiser, Grid, Keys, Noise, PyTree, Solver, counted, real_dtype


class _Window(NamedTuple):
    """Where the iteration stands: the steps before `position` are final. c is the number of
    evaluations of a step."""

    position: Int[Array, ""]
    x: Float[Array, "b ..."]  # at times[position], with the solver's state there
    state: PyTree
    inputs: Float[Array, "window c b ..."]  # to be evaluated next, at the times ts
    ts: Float[Array, "window c b"]
    waited: Int[Array, ""]  # evaluations since the window last moved
    depth: Int[Array, ""]


def sample(
    key: Keys,
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
    """What `sampling.sample` gives for the same key, solver and grid, by iteration in a window.

    window: steps that are iterated together. Where it reaches past the end of the grid, the last
        step is repeated; nfe counts those repetitions like all that is evaluated.
    tolerance: a step is accepted, and the window moves past it, when in every sample the inputs
        of its evaluations have moved since they were evaluated by no more than this: the RMS of
        the change, over the elements of the sample, relative to the RMS of the input. (The flow
        of Gaussian data of mean 0 keeps relative errors as they are, hence no other scale with
        time.) What comes back is thus exactly a sequential sample whose denoiser was evaluated at
        inputs that are off by at most `tolerance`. With tolerance 0 it is the sequential sample
        to rounding.
    denoise: as in `sampling.sample`; one more in depth and nfe.
    sharding: how a network call [window * c, b, ...] lies over devices, c the evaluations of a
        step: `P("data")` splits it by steps, `P(None, "data")` by samples. The mesh's axes are of
        type Auto. The values are gathered over the steps once a call.

    Every call makes one evaluation more of the window's first step final, so depth is never above
    the number of evaluations of the sequential sampler, which it is with window 1 and tolerance 0.
    The denoiser is mapped over the steps (`vmap`): it is shown the same b samples as in sequence,
    and one that has closed over conditions [b] needs no change. Memory grows with window * c. The
    solver must call the denoiser directly, not from a traced loop or branch.

    Raises:
      ValueError: the solver's number of evaluations is known to the run alone (adaptive ones);
        window is below 1; window * c or b does not divide over the sharding's devices.
    """
    if solver.nfe is not None:
        raise ValueError(
            "parallel.sample needs a solver with a fixed number of evaluations a step: "
            "use sampling.sample with this one"
        )
    if window < 1:
        raise ValueError(f"window must be 1 or more, not {window}")
    x = x.astype(real_dtype(x))
    times = times.astype(x.dtype)
    tolerance = jnp.asarray(tolerance, x.dtype)
    steps = len(times) - 1
    noise = Noise(key)  # that of the sequential sampler
    state = solver.init(x, times)

    value = jax.eval_shape(denoiser, x, times[0])
    zero, count_calls = counted(lambda x_t, t: jnp.zeros(value.shape, value.dtype))
    jax.eval_shape(lambda: solver.step(noise, zero, x, times[0], times[1], state))
    calls = count_calls()
    evaluate = _batched(denoiser, window * calls, len(x), sharding)

    def sweep(at: _Window, values: Float[Array, "window c b ..."]) -> _Window:
        """Runs the solver on these values, accepts what it can of the window and moves it.

        Twice the window is run, the second half on the values of the window's last step: from
        there come the inputs of the steps that enter.
        """

        def body(carry, j):
            x, state, accepted = carry
            # Past its end the grid's last step is repeated from where it began, so that all that
            # is evaluated is finite.
            i = jnp.minimum(at.position + j, steps - 1)
            k = jnp.minimum(j, window - 1)
            asked = []

            def lookup(x_t, t):
                asked.append((x_t, jnp.broadcast_to(t, x_t.shape[:1])))
                return values[k, len(asked) - 1]

            after = solver.step(noise, lookup, x, times[i], times[i + 1], state)
            inputs, ts = (jnp.stack(a) for a in zip(*asked, strict=True))

            close = _mean_square(inputs - at.inputs[k]) <= tolerance**2 * _mean_square(inputs)
            # As the window's start is final, so is one evaluation more of its first step with
            # every call. The comparison would not do: rounding may break it, and NaN does.
            final = (j == 0) & (at.waited + 1 >= calls)
            accept, moved, latest = accepted
            accept &= (jnp.all(close) | final) & (j < window) & (at.position + j < steps)
            latest = _select(accept, after, latest)
            accepted = (accept, moved + accept.astype(jnp.int32), latest)
            x, state = _select(at.position + j < steps - 1, after, (x, state))
            return (x, state, accepted), (inputs, ts)

        start = (jnp.asarray(True), jnp.zeros((), jnp.int32), (at.x, at.state))
        (_, _, accepted), (inputs, ts) = jax.lax.scan(
            body, (at.x, at.state, start), jnp.arange(2 * window, dtype=jnp.int32)
        )
        _, moved, (x, state) = accepted
        return _Window(
            at.position + moved,
            x,
            state,
            jax.lax.dynamic_slice_in_dim(inputs, moved, window),
            jax.lax.dynamic_slice_in_dim(ts, moved, window),
            jnp.where(moved > 0, 0, at.waited + 1),
            at.depth,
        )

    def iterate(at: _Window) -> _Window:
        return sweep(at, evaluate(at.inputs, at.ts))._replace(depth=at.depth + 1)

    # Nothing has been evaluated yet: the first inputs come from a denoiser of zero, and none that
    # went before is close to them.
    start = _Window(
        position=jnp.zeros((), jnp.int32),
        x=x,
        state=state,
        inputs=jnp.full((window, calls, *x.shape), jnp.inf, x.dtype),
        ts=jnp.zeros((window, calls, *x.shape[:1]), x.dtype),
        waited=jnp.full((), -1, jnp.int32),
        depth=jnp.zeros((), jnp.int32),
    )
    start = sweep(start, jnp.zeros((window, calls, *value.shape), value.dtype))
    end = jax.lax.while_loop(lambda at: at.position < steps, iterate, start)
    x, depth, nfe = end.x, end.depth, end.depth * (window * calls)
    if denoise:
        x, depth, nfe = denoiser(x, times[-1]), depth + 1, nfe + 1
    return Sample(x, nfe, depth, None)


def _batched(denoiser: Denoiser, size: int, batch: int, sharding: NamedSharding | None):
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
