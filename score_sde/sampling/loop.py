"""The one loop that runs a solver along a grid of times."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Shaped

from score_sde.sampling.paths import BrownianPath
from score_sde.types import (
    Denoiser,
    FlowMap,
    Grid,
    Keys,
    Noise,
    PyTree,
    Solver,
    as_noise,
    counted,
    real_dtype,
)


class Sample(NamedTuple):
    """nfe: network evaluations of a sample, of all its particles together, [] or, where samples
    differ, [b]. depth: network calls
    one after another. trajectory: the states at all times of the grid, the start included. state:
    what the solver ended with."""

    x: Shaped[Array, "b ..."]
    nfe: Int[Array, ""] | Int[Array, " b"]
    depth: Int[Array, ""]
    trajectory: Shaped[Array, "n_plus_1 b ..."] | None
    state: PyTree = ()


def sample(
    key: Keys | Noise | BrownianPath,
    solver: Solver,
    denoiser: Denoiser | FlowMap,
    x: Shaped[Array, "b ..."],
    times: Grid,
    *,
    denoise: bool = False,
    trajectory: bool = False,
) -> Sample:
    """Carries x from times[0] to times[-1] by a solver, in one `scan`.

    key: for the noise. One, or a typed key for each sample, which then does not depend on the
        other samples of its batch. Or the noise itself: with that of `sampling.paths` a finer grid
        refines the same sample.
    denoiser: a FlowMap for a solver whose step gives it two times.
    denoise: replaces the last state by the denoiser's value there, E[x_0 | x], at one evaluation
        more; of tokens these are probabilities. This is the step to a noise level of zero, the
        "noise removal" of Song et al. 2021.
    trajectory: also returns the states at all times (before the denoising).

    An adaptive solver takes the grid as one interval, unless a trajectory is asked for.

    Whatever the dtype of the network, x and the solver's coefficients are float32, or float64 if x
    is. An x of integers, tokens, keeps its dtype; coefficients then have that of the times.
    """
    dtype = real_dtype(x)
    if jnp.issubdtype(x.dtype, jnp.floating):
        x = x.astype(dtype)
    else:
        dtype = real_dtype(times)
    times = times.astype(dtype)
    if solver.adaptive and not trajectory:
        times = times[np.array([0, -1])]  # every interval costs at least one step
    calls = 0

    def precise(x_t, *times):
        return jax.tree.map(lambda a: a.astype(dtype), denoiser(x_t, *times))

    def body(carry, ends):
        nonlocal calls
        x, state = carry
        counting, count = counted(precise)
        x, state = solver.step(noise, counting, x, *ends, state)
        calls = count()  # tracing runs this once or more, with the same result
        return (x, state), x if trajectory else None

    steps = len(times) - 1
    noise = as_noise(key)
    start = (x, solver.init(x, times))
    (end, state), path = jax.lax.scan(body, start, (times[:-1], times[1:]))
    nfe = solver.nfe(state) if solver.nfe else jnp.asarray(steps * calls, jnp.int32)
    if path is not None:
        path = jnp.concatenate([x[None], path])
    if denoise:
        end, nfe = precise(end, times[-1]), nfe + 1
    return Sample(end, nfe * solver.particles, jnp.max(nfe), path, state)


def sweep(draw: Callable[..., PyTree], **values: PyTree) -> PyTree:
    """`draw(name=value, ...)` for every combination of the values, in one compiled program.

    values: for each argument of draw an array whose first axis is swept (keys, eta, tau, guidance
        weights, grids of one length), or a tree of arrays that are swept together. An option of a
        solver can be swept if it enters by arithmetic alone: `ddim(sde, eta=eta)`.

    Every array of the result has a leading axis for each argument, in the order of the arguments.
    The denoiser is traced as often as by one draw, and each of its calls has all combinations.
    """
    names = list(values)

    def every(*point):
        return draw(**dict(zip(names, point, strict=True)))

    for name in reversed(names):  # the first is mapped last, and so leads
        every = jax.vmap(every, in_axes=[0 if other == name else None for other in names])
    return jax.jit(every)(*values.values())
