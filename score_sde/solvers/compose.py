"""Solvers made from solvers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.types import Solver, counted


def chain(*solvers: Solver) -> Solver:
    """Runs each solver in turn over the same step; correctors come before the predictor."""

    def init(x, times):
        return tuple(solver.init(x, times) for solver in solvers)

    def step(noise, denoiser, x, t, s, states):
        new_states = []
        for i, (solver, state) in enumerate(zip(solvers, states, strict=True)):
            x, state = solver.step(noise.fold(i), denoiser, x, t, s, state)
            new_states.append(state)
        return x, tuple(new_states)

    return Solver(init, step)


def start_with(first: Solver, steps: int, then: Solver) -> Solver:
    """Takes the first steps with one solver and the rest with another, which runs along from the
    start and so has its history: for a multistep method after a Runge-Kutta method.

    Both begin a step with the denoiser's value at (x, t), which is evaluated once.
    """

    def init(x, times):
        zero = jnp.zeros((), jnp.int32)
        return zero, zero, first.init(x, times), then.init(x, times)

    def step(noise, denoiser, x, t, s, state):
        index, nfe, first_state, then_state = state
        value = denoiser(x, t)

        def known(x_t, time):
            return value if x_t is x and time is t else denoiser(x_t, time)

        then_x, then_state = then.step(noise, known, x, t, s, then_state)

        def take_first():
            counting, count = counted(known)
            first_x, first_state_ = first.step(noise, counting, x, t, s, first_state)
            return first_x, first_state_, jnp.asarray(count(), jnp.int32)

        def take_then():
            return then_x, first_state, jnp.ones((), jnp.int32)

        x, first_state, used = jax.lax.cond(index < steps, take_first, take_then)
        return x, (index + 1, nfe + used, first_state, then_state)

    return Solver(init, step, nfe=lambda state: state[1])


def exact_start(solver: Solver, path: Float[Array, "k b ..."]) -> Solver:
    """Replaces the solver's states at the first k times by those of a known path.

    The error is then that of the method, without that of its start: to measure orders of
    convergence. k is the order. A corrector needs one more, since step k still adds the difference
    between corrector and predictor of the step before.
    """

    def init(x, times):
        return jnp.zeros((), jnp.int32), solver.init(x, times)

    def step(noise, denoiser, x, t, s, state):
        index, inner = state
        x = jnp.where(index < len(path), path[jnp.minimum(index, len(path) - 1)], x)
        x, inner = solver.step(noise, denoiser, x, t, s, inner)
        return x, (index + 1, inner)

    nfe = solver.nfe
    return Solver(init, step, nfe and (lambda state: nfe(state[1])))
