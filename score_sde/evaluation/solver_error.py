"""Errors of solvers against their network evaluations, and tables of them.

The truth for a deterministic solver is the end of the probability-flow ODE from the same start, at
a tight tolerance. Both end with E[x_0 | x] at the process's t_min, whatever the solver's grid. So
the error includes that of a grid that starts late or stops early. A stochastic solver has no true
end; its samples are compared with a distribution (`metrics/wasserstein.py`).
"""

from __future__ import annotations

import bisect
import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde import sampling, solvers
from score_sde.processes import SDE, Tilt
from score_sde.sampling import grids
from score_sde.types import Denoiser, Grid, Key, Solver


class Estimate(NamedTuple):
    """A number and its standard error from the finite number of samples."""

    value: float
    standard_error: float


def reference(
    sde: SDE,
    denoiser: Denoiser,
    x: Float[Array, "b ..."],
    tolerance: Float[Array, ""] | float = 1e-10,
) -> sampling.Sample:
    """The end of the probability-flow ODE from x at t_max, and E[x_0 | x] there.

    tolerance: both relative and absolute, in the units of the data; float32 reaches about 1e-5. A
        sample that does not converge is NaN.
    """
    tight = solvers.probability_flow(sde, rtol=tolerance, atol=tolerance, method="Dopri8")
    key = jax.random.key(0)  # nothing is drawn
    return sampling.sample(key, tight, denoiser, x, grids.uniform(sde, 1), denoise=True)


def rms_error(
    x: Float[Array | np.ndarray, "b ..."], truth: Float[Array | np.ndarray, "b ..."]
) -> Estimate:
    """The RMS of x - truth over samples and coordinates, in the units of the data."""
    difference = np.asarray(x, np.float64) - np.asarray(truth, np.float64)
    squares = np.mean(np.square(difference).reshape(len(x), -1), axis=1)
    mean_square, spread = mean(squares.tolist())
    root = math.sqrt(mean_square)
    return Estimate(root, spread / (2 * root) if root else 0.0)


def mean(values: Sequence[float]) -> Estimate:
    """The mean of independent numbers. The standard error of a single number is NaN."""
    spread = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Estimate(float(np.mean(values)), float(spread))


# Properties of a solver, found by running it


def evaluations(solver: Solver, times: Grid) -> int:
    """The evaluations of a sample on this grid, including the last one (`denoise=True`)."""
    return int(jnp.max(_without_network(solver, jax.random.key(0), times).nfe)) + 1


def steps_within(solver: Solver, grid: Callable[[int], Grid], budget: int) -> int | None:
    """The largest n for which `grid(n)` takes at most `budget` evaluations; None if there is none.

    Not for adaptive solvers. Steps may differ in their evaluations, as in the start-up of a
    multistep method.
    """
    if solver.nfe is None:  # all steps are alike
        return max(budget - 1, 0) // (evaluations(solver, grid(1)) - 1) or None
    candidates = range(1, budget)
    return bisect.bisect(candidates, budget, key=lambda n: evaluations(solver, grid(n))) or None


def is_stochastic(solver: Solver, times: Grid) -> bool:
    """Whether two keys lead from the same start to different ends."""
    a, b = (_without_network(solver, jax.random.key(seed), times).x for seed in range(2))
    return not np.array_equal(a, b)


def without_network(solver: Solver, key: Key, times: Grid) -> sampling.Sample:
    """A sample with a denoiser that is always 0, as all else is that a solver asks for."""

    def denoiser(x_t, t, *s) -> Any:
        if s and solver.asks == "tilt":
            return Tilt(jnp.zeros_like(x_t))
        two = bool(s) and solver.asks in ("moments", "ends")
        return jnp.zeros((*x_t.shape[:-1], (1 + two) * x_t.shape[-1]), x_t.dtype)

    x = jnp.ones((solver.particles, 1), times.dtype)
    return sampling.sample(key, solver, denoiser, x, times)


_without_network = jax.jit(without_network, static_argnums=0)


def order(steps: Sequence[int], errors: Sequence[float]) -> float:
    """The fitted slope p of `error = c n^-p`, by least squares of the logarithms."""
    return -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


# Results


@dataclasses.dataclass(frozen=True)
class Row:
    """The error of a solver on a grid, within a budget of evaluations.

    budget, steps: None for adaptive solvers. nfe: the mean evaluations of a sample. error,
    standard_error: in the units of the data; NaN where the solver did not converge. seconds: for
    one batch, without compilation.
    """

    solver: str
    grid: str
    budget: int | None
    steps: int | None
    nfe: float
    error: float
    standard_error: float
    seconds: float


R = TypeVar("R", bound=Row)


def by_pair(rows: Iterable[R]) -> dict[tuple[str, str], list[R]]:
    """The rows of each solver and grid, in their order."""
    pairs: dict[tuple[str, str], list[R]] = {}
    for row in rows:
        pairs.setdefault((row.solver, row.grid), []).append(row)
    return pairs


def at_best_grid(rows: Iterable[R]) -> dict[tuple[str, str], list[R]]:
    """For each solver the rows on the grid with the smallest geometric mean of the errors.

    A grid with fewer finite errors than another is worse.
    """

    def merit(rows):
        errors = [row.error for row in rows if math.isfinite(row.error)]
        return -len(errors), sum(math.log(max(error, 1e-300)) for error in errors)

    best: dict[str, tuple[str, str]] = {}
    pairs = by_pair(rows)
    for pair in sorted(pairs, key=lambda pair: merit(pairs[pair])):
        best.setdefault(pair[0], pair)
    return {pair: pairs[pair] for pair in pairs if best[pair[0]] == pair}


def table(rows: Sequence[Row]) -> str:
    """A Markdown table with a row for each solver and grid, and a column for each budget. The
    smallest error of a column is bold."""
    budgets = sorted({row.budget for row in rows})  # pyright: ignore[reportArgumentType]
    smallest = {
        budget: min(
            (row.error for row in rows if row.budget == budget and math.isfinite(row.error)),
            default=math.nan,
        )
        for budget in budgets
    }

    def cell(row: Row | None) -> str:
        if row is None:
            return ""
        bold = "**" if row.error == smallest[row.budget] else ""
        return f"{bold}{short(row.error)}{bold}"

    lines = []
    for (solver, grid), found in by_pair(rows).items():
        of_budget = {row.budget: row for row in found}
        lines.append([f"`{solver}`", f"`{grid}`", *(cell(of_budget.get(b)) for b in budgets)])
    return markdown(["solver", "grid", *(f"NFE {budget}" for budget in budgets)], lines)


def short(value: float) -> str:
    """A number with two digits, as 1.3e-2."""
    return re.sub(r"e([+-])0", r"e\1", f"{value:.1e}")


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns are aligned in plain text too."""
    cells = [list(header), *map(list, lines)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(header))]
    cells.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in cells
    )
