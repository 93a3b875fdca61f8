"""The one loop that runs a solver along a grid of times."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from score_sde.types import (
    Denoiser,
    FlowMap,
    Grid,
    Keys,
    Noise,
    PyTree,
    Solver,
    counted,
    real_dtype,
)


class Sample(NamedTuple):
    """x [b, ...]; nfe, network evaluations a sample: [] or, where samples differ, [b]; depth,
    network calls one after another; trajectory [n + 1, b, ...] with the start, or None."""

    x: Float[Array, "b ..."]
    nfe: Int[Array, ""] | Int[Array, " b"]
    depth: Int[Array, ""]
    trajectory: Float[Array, "n_plus_1 b ..."] | None


def sample(
    key: Keys,
    solver: Solver,
    denoiser: Denoiser | FlowMap,
    x: Float[Array, "b ..."],
    times: Grid,
    *,
    denoise: bool = False,
    trajectory: bool = False,
) -> Sample:
    """Carries x from times[0] to times[-1] by a solver, in one `scan`.

    denoiser: a FlowMap if the solver's step gives it two times.
    key: that of the noise; one, or a typed one for each sample, which then does not depend on the
        others of its batch.
    denoise: replaces the last state by its posterior mean E[x_0 | x], one evaluation more: the
        step to a noise level of zero. It takes the place of "noise removal" in Song et al. 2021.
    trajectory: also returns the states at all times (before the denoising).

    An adaptive solver takes the grid as one interval, unless a trajectory is asked for.

    x is carried, and the solver's coefficients are computed, in at least float32 whatever the
    dtype of the network, and in float64 when x has it.
    """
    x = x.astype(real_dtype(x))
    times = times.astype(x.dtype)
    if solver.adaptive and not trajectory:
        times = times[np.array([0, -1])]  # every interval costs a step at least
    calls = 0

    def precise(x_t, *times):
        return denoiser(x_t, *times).astype(x_t.dtype)

    def body(carry, ends):
        nonlocal calls
        x, state = carry
        counting, count = counted(precise)
        x, state = solver.step(noise, counting, x, *ends, state)
        calls = count()  # tracing runs this once or more, with the same result
        return (x, state), x if trajectory else None

    steps = len(times) - 1
    noise = Noise(key)
    start = (x, solver.init(x, times))
    (end, state), path = jax.lax.scan(body, start, (times[:-1], times[1:]))
    nfe = solver.nfe(state) if solver.nfe else jnp.asarray(steps * calls, jnp.int32)
    if trajectory:
        path = jnp.concatenate([x[None], path])
    if denoise:
        end, nfe = precise(end, times[-1]), nfe + 1
    return Sample(end, nfe, jnp.max(nfe), path)


def sweep(draw: Callable[..., PyTree], **values: PyTree) -> PyTree:
    """`draw(name=value, ...)` for every combination of the values, in one compiled program.

    values: for each argument of draw an array whose first axis is swept (keys, eta, tau, guidance
        weights, grids of one length), or a tree of such arrays, swept together. An option of a
        solver can be swept if it enters by arithmetic alone: `ddim(sde, eta=eta)`.

    Every array of the result has one leading axis for each argument, in the order in which they
    are given. The denoiser is traced as often as by one draw, and sees all of them in one call.
    """
    names = list(values)

    def every(*point):
        return draw(**dict(zip(names, point, strict=True)))

    for name in reversed(names):  # the first is mapped last, and so leads
        every = jax.vmap(every, in_axes=[0 if other == name else None for other in names])
    return jax.jit(every)(*values.values())
