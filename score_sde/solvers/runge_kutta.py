"""Runge-Kutta methods: several evaluations a step, nothing remembered between steps.

A tableau here says where the stages stand and which earlier ones each is interpolated from; the
coefficients follow, in any prediction and variable, from `solvers/exponential.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.processes import SDE
from score_sde.solvers import exponential
from score_sde.solvers.exponential import (
    PREDICTIONS,
    Interpolation,
    Nodes,
    NoiseLevel,
    Step,
    Stochasticity,
    at_start,
    noise_level,
    noise_level_at,
)
from score_sde.types import Denoiser, Solver, expand

__all__ = ["dpm2", "dpm_solver", "dpmpp_singlestep", "edm", "heun"]


class Row(NamedTuple):
    """Where a state stands, as a part of the step in log-SNR (the end: 1), the stages that it is
    interpolated from (0 is the start), and the slope of `Interpolation`."""

    c: float
    nodes: tuple[int, ...]
    slope: str = "exact"


Tableau = tuple[Row, ...]
"""A row for each stage after the first, then for the end of the step: one, or two of an embedded
pair, the second of which estimates the error of the first."""

EULER: Tableau = (Row(1.0, (0,)),)
TRAPEZOID: Tableau = (Row(1.0, (0,)), Row(1.0, (0, 1)))
MIDPOINT: Tableau = (Row(0.5, (0,)), Row(1.0, (1,)))
THIRD: Tableau = (Row(1 / 3, (0,)), Row(2 / 3, (0, 1)), Row(1.0, (0, 2)))
BY_ORDER = {1: EULER, 2: MIDPOINT, 3: THIRD}
# With the results of DPM-Solver-1 and, with r_1 = 1/3, DPM-Solver-2.
PAIRS = {2: (*MIDPOINT, Row(1.0, (0,))), 3: (*THIRD, Row(1.0, (0, 1), "bh2"))}


def heun(sde: SDE) -> Solver:
    """Heun's method on dx~ = eps ds (Karras et al. 2022, arXiv:2206.00364, alg. 1): order 2.

    Two evaluations a step, deterministic. For 30 evaluations and more.
    """
    return runge_kutta(sde, TRAPEZOID, "eps", "rho")


def dpm2(sde: SDE) -> Solver:
    """DPM-Solver-2 (Lu et al. 2022, arXiv:2206.00927, alg. 1), "DPM2" of k-diffusion: order 2.

    Two evaluations a step, deterministic: dx~ = eps ds with the eps of the middle in log-SNR. As
    `heun`, with a smaller error where the noise is large.
    """
    return dpm_solver(sde, order=2)


def dpm_solver(sde: SDE, order: int = 3, tau: float | Array = 0.0) -> Solver:
    """DPM-Solver-k (Lu et al. 2022, arXiv:2206.00927, alg. 1, 2): orders 1 to 3, in the noise.

    As many evaluations a step as its order; deterministic at tau 0, else the reverse SDE. Order 3
    for 20 evaluations and more of an unguided model.
    """
    return singlestep(sde, order, "eps", noise=exponential.tau(tau))


def dpmpp_singlestep(sde: SDE, order: int = 2, tau: float | Array = 0.0) -> Solver:
    """DPM-Solver++ kS (Lu et al. 2022, arXiv:2211.01095, alg. 1): orders 1 to 3, in the data.

    As many evaluations a step as its order; deterministic at tau 0, else the reverse SDE. Needs no
    history: for guided models in few, large steps.
    """
    return singlestep(sde, order, "x0", noise=exponential.tau(tau))


def edm(
    sde: SDE,
    s_churn: float = 40.0,
    s_min: float = 0.05,
    s_max: float = 50.0,
    s_noise: float = 1.003,
) -> Solver:
    """EDM's stochastic sampler (Karras et al. 2022, alg. 2): Heun's method after a churn.

    Two evaluations a step. Where sigma/alpha is in [s_min, s_max], noise of scale s_noise first
    raises it by the factor `1 + min(s_churn / N, sqrt(2) - 1)`, N the number of times of the grid:
    the paper's N steps are those of the grid and `denoise`, the step to sigma = 0. The published
    constants of ImageNet-64 are the default. Order 2 at s_churn 0; best quality for 50 evaluations
    and more.
    """
    return churn(sde, heun(sde), s_churn, s_min, s_max, s_noise)


def singlestep(
    sde: SDE,
    order: int,
    prediction: str,
    variable: str = "log_rho",
    noise: Stochasticity | None = None,
) -> Solver:
    """The exponential Runge-Kutta method of order 1, 2 or 3.

    Raises:
      ValueError: another order.
    """
    if order not in BY_ORDER:
        raise ValueError(f"order is {order!r}: one of 1, 2, 3")
    return runge_kutta(sde, BY_ORDER[order], prediction, variable, noise=noise)


def runge_kutta(
    sde: SDE,
    tableau: Tableau,
    prediction: str = "x0",
    variable: str = "log_rho",
    *,
    noise: Stochasticity | None = None,
) -> Solver:
    """The method of a tableau in a prediction and a variable; noise as in `multistep`.

    The noise of a stage is that of one path of the reverse SDE, so the stages agree on it.
    """
    method = Interpolation(prediction, variable)
    exponential.check(sde, method, noise)

    def step(draw, denoiser, x, t, s, state):
        start, end = noise_level(sde, t), noise_level(sde, s)
        g = None if noise is None else noise(start.lam, end.lam)
        rows = coefficients(sde, tableau, method, start, end, g)
        paths = {}
        if g is not None:
            places = {row.c: at for row, (at, _) in zip(tableau, rows, strict=True)}
            paths = _paths(sde, method, draw, x, start, places, g)
        (x,) = results(tableau, rows, prediction, denoiser, x, start, paths)
        return x, state

    return Solver(lambda x, times: (), step)


def stages(tableau: Tableau) -> int:
    """How many evaluations a step takes."""
    return 1 + max(node for row in tableau for node in row.nodes)


def coefficients(
    sde: SDE,
    tableau: Tableau,
    method: Interpolation,
    start: NoiseLevel,
    end: NoiseLevel,
    g: Array | None = None,
) -> list[tuple[NoiseLevel, Step]]:
    """The place and the coefficients of every row, for a step between two noise levels []."""
    h = end.lam - start.lam
    places = {
        row.c: end if row.c == 1.0 else noise_level_at(sde, start.lam + row.c * h)
        for row in tableau
    }
    count = stages(tableau)
    lams = jnp.stack([start.lam, *(start.lam + row.c * h for row in tableau[: count - 1])])

    def of(row: Row) -> tuple[NoiseLevel, Step]:
        nodes = Nodes(lams, np.isin(np.arange(count), row.nodes), row.nodes[0])
        part = None if g is None else row.c * g
        how, at = method._replace(slope=row.slope), places[row.c]
        return at, exponential.step(sde, how, start, at, nodes, part)

    return [of(row) for row in tableau]


def results(
    tableau: Tableau,
    rows: list[tuple[NoiseLevel, Step]],
    prediction: str,
    denoiser: Denoiser,
    x: Float[Array, "b ..."],
    start: NoiseLevel,
    paths: dict[float, Array] | None = None,
) -> list[Float[Array, "b ..."]]:
    """The states at the end of a step, one for each of the tableau's last rows.

    rows: its `coefficients`, for the whole batch or [b], for each sample its own; so start.
    paths: the noise at each place.
    """
    count = stages(tableau)

    def value(x, at: NoiseLevel):
        x_0 = denoiser(x, at.t)
        return PREDICTIONS[prediction].y(x, x_0, expand(at.alpha, x), expand(at.sigma, x))

    values, states = [value(x, start)], []
    for row, (at, step) in zip(tableau, rows, strict=True):
        weighted = [expand(step.weights[..., j], x) * values[j] for j in row.nodes]
        state = expand(step.linear, x) * x + sum(weighted)
        states.append(state + paths[row.c] if paths else state)
        if len(values) < count:
            values.append(value(states[-1], at))
    return states[count - 1 :]


def _paths(
    sde: SDE,
    method: Interpolation,
    draw: Callable[..., Array],
    x: Array,
    start: NoiseLevel,
    places: dict[float, NoiseLevel],
    g: Array,
) -> dict[float, Array]:
    """The noise that one path of the SDE has brought to each place of a step."""
    total, last, last_c, paths = jnp.zeros_like(x), start, 0.0, {}
    for c in sorted(places):
        part = exponential.step(sde, method, last, places[c], at_start(last), (c - last_c) * g)
        z = draw(last.t, places[c].t, x.shape)
        total = part.linear * total + part.noise * z
        paths[c], last, last_c = total, places[c], c
    return paths


def churn(
    sde: SDE, solver: Solver, s_churn: float, s_min: float, s_max: float, s_noise: float
) -> Solver:
    """Raises the noise before each step of a Runge-Kutta method (Karras et al. 2022, alg. 2)."""
    if not s_churn:
        return solver

    def init(x, times):
        gamma = min(s_churn / len(times), math.sqrt(2) - 1)
        return jnp.asarray(gamma, times.dtype), solver.init(x, times)

    def step(noise, denoiser, x, t, s, state):
        gamma, inner = state
        z = noise.fold(1)(t, s, x.shape)
        before = noise_level(sde, t)
        start = jnp.exp(-before.lam)
        inside = (s_min <= start) & (start <= s_max)
        gamma_t = jnp.where(inside, gamma, 0.0)
        t = jnp.where(inside, sde.t_of_log_snr(2 * (before.lam - jnp.log1p(gamma_t))), t)
        added = s_noise * start * jnp.sqrt(gamma_t * (2 + gamma_t)) * z
        x = sde.alpha(t) * (x / before.alpha + added)
        x, inner = solver.step(noise, denoiser, x, t, s, inner)
        return x, (gamma, inner)

    return Solver(init, step)
