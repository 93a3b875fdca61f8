"""The linear multistep method: one evaluation a step, and the predictions of earlier steps.

`multistep` takes its coefficients from `solvers/exponential.py`, `linear_multistep` from anywhere.
The methods by name are in `solvers/first_order.py` and `solvers/adams.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from score_sde.processes import SDE
from score_sde.solvers import exponential
from score_sde.solvers.compose import start_with
from score_sde.solvers.exponential import (
    PREDICTIONS,
    Interpolation,
    Nodes,
    Stochasticity,
    noise_level,
)
from score_sde.solvers.runge_kutta import singlestep
from score_sde.types import Grid, Solver, expand


class Coefficients(NamedTuple):
    """The coefficients of every step of a grid of n steps, with k predictions y.

        x_{i+1} = linear_i x_i + sum_j predict_ij y_{i-j} + noise_i z

    A corrector first adds sum_j correct_ij y_{i-j} - sum_j predict_{i-1,j} y_{i-1-j} to x_i.
    """

    linear: Float[Array, " n"]
    predict: Float[Array, "n k"]
    noise: Float[Array, " n"]
    correct: Float[Array, "n k"]


class _State(NamedTuple):
    """The number of the step; the predictions y_{i-j}, newest first; and what they added to x_i."""

    index: Int[Array, ""]
    history: Float[Array, "k b ..."]
    predicted: Float[Array, "b ..."]


def multistep(
    sde: SDE,
    order: int = 2,
    prediction: str = "x0",
    variable: str = "log_rho",
    *,
    corrector: int = 0,
    noise: Stochasticity | None = None,
    slope: str = "exact",
    start_order: int = 1,
    end_order: int | None = None,
) -> Solver:
    """The linear multistep method of an order in a prediction and a variable.

    order: that of the predictor, 1 to 4: the number of nodes of its interpolation.
    prediction, variable, slope: see `solvers/exponential.py`.
    corrector: the number of earlier nodes that, with the newest, correct the state at which the
        newest was taken; 0 for no correction. The corrector's order is one more. The last state is
        not corrected, which would cost an evaluation.
    noise: the stochasticity of the reverse SDE, or None for the ODE.
    start_order: the first steps lack a history. With 1 they have the orders 1, 2, ..., and their
        errors lower the order of the whole. With 2 or 3 the Runge-Kutta method of that order takes
        them, at 1 or 2 evaluations more each, and their states are not corrected.
    end_order: the order of the last step; the step before has an order higher by one, and so on.

    Raises:
      ValueError: an option is out of its range.
    """
    _check_one_of("order", order, (1, 2, 3, 4))
    _check_one_of("corrector", corrector, (0, 1, 2, 3, 4))
    _check_one_of("start_order", start_order, (1, 2, 3))
    _check_one_of("end_order", end_order, (None, 1, 2, 3, 4))
    method = Interpolation(prediction, variable, slope)
    exponential.check(sde, method, noise)

    def coefficients(times):
        steps = len(times) - 1
        left = jnp.arange(steps)[::-1] + (order if end_order is None else end_order)
        known = jnp.arange(steps) + 1
        predictors = jnp.minimum(jnp.minimum(order, left), known)
        # Step i + 1 applies the corrector of step i.
        correctors = jnp.minimum(jnp.minimum(corrector, left), known) + 1
        correctors = correctors if corrector else None
        return coefficients_on_grid(sde, method, times, noise, predictors, correctors, size)

    size = max(order, corrector + 1 if corrector else 0)
    start_steps = 0 if start_order == 1 else max(order, corrector) - 1
    solver = linear_multistep(
        sde,
        prediction,
        coefficients,
        corrected_from=start_steps + 1 if corrector else None,
        stochastic=noise is not None,
    )
    if start_steps == 0:
        return solver
    start = singlestep(sde, start_order, prediction, variable, noise)
    return start_with(start, start_steps, solver)


def _check_one_of(name: str, value: int | None, allowed: tuple[int | None, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}: one of {', '.join(map(str, allowed))}")


def linear_multistep(
    sde: SDE,
    prediction: str,
    coefficients: Callable[[Grid], Coefficients],
    *,
    corrected_from: int | None = None,
    stochastic: bool = False,
) -> Solver:
    """The linear multistep method with the coefficients that `coefficients(times)` gives a grid.

    corrected_from: the first step that corrects the state from which it starts; None for no step.
    """

    def init(x, times):
        on_grid = coefficients(times)
        history = jnp.zeros((on_grid.predict.shape[1], *x.shape), x.dtype)
        return on_grid, _State(jnp.zeros((), jnp.int32), history, jnp.zeros_like(x))

    def step(noise, denoiser, x, t, s, carry):
        on_grid, state = carry
        now = jax.tree.map(lambda a: a[state.index], on_grid)
        y = PREDICTIONS[prediction].y(x, denoiser(x, t), sde.alpha(t), sde.sigma(t))
        history = jnp.concatenate([y[None], state.history[:-1]])
        if corrected_from is not None:
            corrected = x + _combine(now.correct, history) - state.predicted
            x = jnp.where(state.index >= corrected_from, corrected, x)
        predicted = _combine(now.predict, history)
        x = now.linear * x + predicted
        if stochastic:
            x = x + now.noise * noise(t, s, x.shape)
        return x, (on_grid, _State(state.index + 1, history, predicted))

    return Solver(init, step)


def _combine(weights: Float[Array, " k"], history: Float[Array, "k b ..."]) -> Array:
    return jnp.sum(expand(weights, history) * history, axis=0)


def coefficients_on_grid(
    sde: SDE,
    method: Interpolation,
    times: Grid,
    noise: Stochasticity | None,
    predictors: Int[Array, " n"],
    correctors: Int[Array, " n"] | None,
    size: int,
) -> Coefficients:
    """The coefficients of a grid, given the number of nodes, at most `size`, of every step's
    predictor and corrector."""
    levels = noise_level(sde, times)
    back = jnp.arange(size)

    def one(i, newest, base, count):
        start, end = (jax.tree.map(lambda a, j=j: a[j], levels) for j in (i, i + 1))
        nodes = Nodes(levels.lam[jnp.maximum(newest - back, 0)], back < count, base)
        g = None if noise is None else noise(start.lam, end.lam)
        return exponential.step(sde, method, start, end, nodes, g)

    steps = jnp.arange(len(times) - 1)
    predict = jax.vmap(lambda i, count: one(i, i, 0, count))(steps, predictors)
    correct = jnp.zeros_like(predict.weights)
    if size > 1 and correctors is not None:
        rows = jax.vmap(lambda i, count: one(i, i + 1, 1, count))(steps, correctors)
        correct = correct.at[1:].set(rows.weights[:-1])
    return Coefficients(predict.linear, predict.weights, predict.noise, correct)
