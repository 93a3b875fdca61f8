"""Runge-Kutta methods: several evaluations a step, nothing remembered between steps.

A tableau says where the stages stand, and through which earlier ones each is interpolated. From it
`solvers/exponential.py` derives the coefficients in any prediction and variable. The letters of the
equations are those of `score_sde.solvers`.
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
    """A stage, or an end of the step: its place as a part of the step in lambda (the end: 1), the
    stages that it is interpolated from (0 is the start), and its `Interpolation.slope`."""

    c: float
    nodes: tuple[int, ...]
    slope: str = "exact"


Tableau = tuple[Row, ...]
"""A row for each stage after the first, then one for the end of the step. An embedded pair has two
of the end: the result, and another whose distance from it estimates the error."""

EULER: Tableau = (Row(1.0, (0,)),)
TRAPEZOID: Tableau = (Row(1.0, (0,)), Row(1.0, (0, 1)))
MIDPOINT: Tableau = (Row(0.5, (0,)), Row(1.0, (1,)))
THIRD: Tableau = (Row(1 / 3, (0,)), Row(2 / 3, (0, 1)), Row(1.0, (0, 2)))
BY_ORDER = {1: EULER, 2: MIDPOINT, 3: THIRD}
# The second ends are those of DPM-Solver-1 and of DPM-Solver-2 with r_1 = 1/3.
PAIRS = {2: (*MIDPOINT, Row(1.0, (0,))), 3: (*THIRD, Row(1.0, (0, 1), "bh2"))}


def heun(sde: SDE) -> Solver:
    """Heun's method on dx~ = eps drho (Karras et al. 2022, arXiv:2206.00364, alg. 1):

        x~' = x~_t + (rho_s - rho_t) eps
        x~_s = x~_t + (rho_s - rho_t) (eps + eps(x', s))/2

    Order 2, two evaluations a step, deterministic. For 30 evaluations and more.
    """
    return runge_kutta(sde, TRAPEZOID, "eps", "rho")


def dpm2(sde: SDE) -> Solver:
    """DPM-Solver-2 (Lu et al. 2022, arXiv:2206.00927, alg. 1), "DPM2" of k-diffusion. With m the
    time of the middle in lambda, where rho_m = sqrt(rho_t rho_s),

        x~_m = x~_t + (rho_m - rho_t) eps
        x~_s = x~_t + (rho_s - rho_t) eps(x_m, m)

    Order 2, two evaluations a step, deterministic. As `heun`, with a smaller error where the noise
    is large.
    """
    return dpm_solver(sde, order=2)


def dpm_solver(sde: SDE, order: int = 3, tau: float | Array = 0.0) -> Solver:
    """DPM-Solver-k (Lu et al. 2022, arXiv:2206.00927, alg. 1, 2). Order 1 is `ddim`, 2 is `dpm2`,
    and 3, with u and v the times at 1/3 and 2/3 of the step in lambda,

        x~_u = x~_t + (rho_u - rho_t) eps
        x~_v = x~_t + (rho_v - rho_t) eps - 2 rho_v ((e^{2h/3} - 1)/(2h/3) - 1) (eps(x_u, u) - eps)
        x~_s = x~_t + (rho_s - rho_t) eps - (3/2) rho_s ((e^h - 1)/h - 1) (eps(x_v, v) - eps)

    Orders 1 to 3, as many evaluations a step as its order; deterministic at tau 0, else the reverse
    SDE. Order 3 for 20 evaluations and more of an unguided model.
    """
    return singlestep(sde, order, "eps", noise=exponential.tau(tau))


def dpmpp_singlestep(sde: SDE, order: int = 2, tau: float | Array = 0.0) -> Solver:
    """DPM-Solver++ kS (Lu et al. 2022, arXiv:2211.01095, alg. 1). Order 1 is `ddim`, and 2, with m
    the time of the middle in lambda,

        x_m = (sigma_m/sigma_t) x_t + alpha_m (1 - e^{-h/2}) D
        x_s = (sigma_s/sigma_t) x_t + alpha_s (1 - e^-h) D(x_m, m)

    Order 3 has the stages of `dpm_solver`, with D in the place of eps.

    Orders 1 to 3, as many evaluations a step as its order; deterministic at tau 0, else the reverse
    SDE. It needs no history: for guided models in few, large steps.
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

        rho^ = (1 + gamma) rho_t
        x~^ = x~_t + s_noise sqrt((rho^)^2 - rho_t^2) z
        x~_s by `heun` from x^ at rho^
        gamma = min(s_churn / N, sqrt(2) - 1) if s_min <= rho_t <= s_max, else 0

    N is the number of times of the grid: the paper's N steps are those of the grid and `denoise`,
    the step to sigma = 0. The default constants are those published for ImageNet-64.

    Order 2 at s_churn 0, two evaluations a step, stochastic. The best quality for 50 evaluations
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

    All stages of a step take their noise from one path of the reverse SDE.
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
    """The evaluations of a step."""
    return 1 + max(node for row in tableau for node in row.nodes)


def coefficients(
    sde: SDE,
    tableau: Tableau,
    method: Interpolation,
    start: NoiseLevel,
    end: NoiseLevel,
    g: Array | None = None,
) -> list[tuple[NoiseLevel, Step]]:
    """The noise level and the coefficients of every row, for a step between two noise levels []."""
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
    """The states at the end of a step: one, or two of an embedded pair.

    rows: the tableau's `coefficients`. These, and start, are of the whole batch or of each sample.
    paths: the noise at each place c.
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
    """The noise of one path of the SDE at each place of a step, by c."""
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
