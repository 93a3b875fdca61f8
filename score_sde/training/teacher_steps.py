"""Where a solver leads with a teacher, from times and to times of each example's own."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from score_sde.types import Denoiser, Key, Noise, PyTree, Solver


def solve(
    solver: Solver,
    denoiser_of: Callable[[PyTree], Denoiser],
    key: Key,
    x_t: Float[Array, "b ..."],
    times: Float[Array, "n_plus_1 b"],
    given: PyTree,
) -> Float[Array, "b ..."]:
    """x at times[-1], from x_t at times[0], by n steps of a solver on the grid of each example. A
    multistep method begins on it, without a history. Where two times are equal, x stays.

    denoiser_of: the denoiser of what is given with one example, such as its condition.
    given: a tree of arrays [b, ...], or None.
    key: for the noise of a solver that has some.
    """

    def one(key, x, times, given):
        noise, denoiser = Noise(key), denoiser_of(jax.tree.map(lambda a: a[None], given))

        def step(carry, ends):
            x, state = carry
            moved, state = solver.step(noise, denoiser, x, *ends, state)
            # methods of higher order divide by the length of the step
            return (jnp.where(ends[0] == ends[1], x, moved), state), None

        start = (x[None], solver.init(x[None], times))
        (x, _), _ = lax.scan(step, start, (times[:-1], times[1:]))
        return x[0]

    keys = jax.random.split(key, len(x_t))
    return jax.vmap(one, in_axes=(0, 0, 1, 0))(keys, x_t, times, given)


def check_asks_denoiser(solver: Solver) -> None:
    """Raises a ValueError of a solver that a denoiser cannot serve."""
    if solver.asks != "denoiser":
        raise ValueError(
            f"objective.solver asks for {solver.asks}, and the teacher is a denoiser: take another "
            "solver, such as heun or ddim"
        )
