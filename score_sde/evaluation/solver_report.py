"""The page, the figure and the JSON of a comparison of solvers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from score_sde.evaluation import figures, solver_error
from score_sde.evaluation.solver_comparison import Measure
from score_sde.evaluation.solver_error import Row

ADAPTIVE = "(adaptive)"
"""Stands for the grid of a solver that chooses its own steps."""


def as_json(row: Row) -> dict[str, Any]:
    """The fields of a row, with null in the place of NaN, which JSON does not have."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in dataclasses.asdict(row).items()
    }


def page(
    about: Mapping[str, Any], measures: Mapping[str, Measure], rows: Mapping[str, list[Row]]
) -> str:
    """Markdown: what was compared (`problem`, `process` and `dtype` of about), and tables of the
    rows by each measure."""
    lines = [f"# Solvers: {about['problem']}", "", f"`{about['process']}`, {about['dtype']}."]
    lines += ["NFE counts the evaluation that ends a sample, E[x_0 | x] at t_min."]
    for name, found in rows.items():
        floor = solver_error.short(measures[name].floor)
        lines += ["", f"## {name}", "", f"{measures[name].about} {floor}.", ""]
        budgeted = [row for row in found if row.budget is not None]
        adaptive = [row for row in found if row.budget is None]
        if budgeted:
            lines += [solver_error.table(budgeted)]
        if adaptive:
            cells = [
                [f"`{row.solver}`", f"{row.nfe:.0f}", solver_error.short(row.error)]
                for row in adaptive
            ]
            lines += ["", solver_error.markdown(["adaptive solver", "mean NFE", "error"], cells)]
    return "\n".join(lines) + "\n"


def panel(name: str, measure: Measure, rows: Sequence[Row]) -> figures.Panel:
    """The errors of each solver on the grid that suits it best."""
    curves = [
        figures.Curve(
            solver if grid == ADAPTIVE else f"{solver}, {grid}",
            [row.nfe for row in found],
            [row.error for row in found],
            [row.standard_error for row in found],
        )
        for (solver, grid), found in solver_error.at_best_grid(rows).items()
    ]
    return figures.Panel(f"{name} (units of the data)", curves, measure.floor, measure.slopes)
