"""Solvers compared by the exact law of their output on Gaussian data: rows, page and figure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from score_sde.evaluation import figures, plots, solver_error
from score_sde.evaluation.sampler_law import Budget, Normal, affine, budget_of, prior_of
from score_sde.evaluation.solver_error import Row
from score_sde.evaluation.solver_variants import Variants
from score_sde.evaluation.spectrum import Spectrum
from score_sde.processes import SDE
from score_sde.types import Grid

DISTANCE = "Wasserstein-2 distance"
BANDS = 9


@dataclasses.dataclass(frozen=True)
class LawRow(Row):
    """A row whose error is the Wasserstein-2 distance of the output from the data, as the RMS of a
    dimension. prior, truncation, discretisation: its parts (`sampler_law.Budget`), so as well. kl:
    KL(data | output), nats. std [bands]: the output's standard deviation over that of the data, by
    frequency."""

    prior: float
    truncation: float
    discretisation: float
    kl: float
    std: tuple[float, ...]


class Compared:
    """What solvers do to data of one spectrum. `denoise`: whether samples end with E[x_0 | x]."""

    def __init__(self, sde: SDE, spectrum: Spectrum, denoise: bool):
        self.sde, self.spectrum, self.denoise = sde, spectrum, denoise
        self.bands = spectrum.bands(BANDS)

    def program(self, variants: Variants) -> Any:
        """`(times, point, data) -> (budget, law of the output)`, compiled."""

        def found(times: Grid, point: dict[str, Any], data: Normal) -> tuple[Budget, Normal]:
            denoiser, denoise = data.denoiser(self.sde), self.denoise
            solver = variants.build(self.sde, point)
            run = affine(solver, denoiser, times, len(data.mean), denoise=denoise)
            parts = budget_of(run, self.sde, times, data, denoise=denoise)
            return parts, run(prior_of(self.sde, data))

        return jax.jit(found, compiler_options={"xla_backend_optimization_level": 0})

    def row(
        self, where: tuple[str, str, int, int], nfe: int, found: tuple[Budget, Normal]
    ) -> LawRow:
        """where: solver, grid, budget and steps."""
        data = self.spectrum.law
        parts, end = jax.tree.map(np.asarray, found)
        whole, prior, truncation, steps = (math.sqrt(np.mean(part)) for part in parts)
        ratio = [
            math.sqrt(np.mean(end.variance[band]) / max(np.mean(data.variance[band]), 1e-300))
            for band in self.bands
        ]
        kl = float(np.sum(end.kl(data)))
        exact = (whole, 0.0, 0.0)  # nothing is drawn
        return LawRow(*where, nfe, *exact, prior, truncation, steps, kl, tuple(ratio))

    def frequencies(self) -> list[float]:
        """The mean frequency of each band."""
        return [float(self.spectrum.frequency[band].mean()) for band in self.bands]

    def stds(self) -> list[float]:
        """The standard deviation of the data in each band."""
        variance = np.asarray(self.spectrum.law.variance)
        return [math.sqrt(variance[band].mean()) for band in self.bands]


def best(rows: Sequence[LawRow]) -> list[LawRow]:
    """The row of the smallest distance at each budget."""
    at: dict[int | None, LawRow] = {}
    for row in sorted(rows, key=lambda row: row.error):
        if math.isfinite(row.error):
            at.setdefault(row.budget, row)
    return [at[budget] for budget in sorted(at)]  # pyright: ignore[reportArgumentType]


def page(about: Mapping[str, Any], rows: Sequence[LawRow]) -> str:
    """Markdown: the best solver at each budget and the parts of its error, and all distances."""
    lines = [
        f"# Solvers for the spectrum of {about['data']}",
        "",
        f"`{about['process']}`, float64.",
    ]
    lines += [
        f"The law of each solver's output is exact for a Gaussian with the mean and variance of "
        f"each of the {about['dims']:,} cosine coefficients of {about['examples']:,} examples. The "
        "distance is Wasserstein-2, as the RMS of a dimension, in the units of the network's x.",
        "",
        "## The best at each number of evaluations",
        "",
    ]
    short = solver_error.short
    cells = [
        [str(row.budget), f"`{row.solver}`", f"`{row.grid}`"]
        + [short(x) for x in (row.error, row.prior, row.truncation, row.discretisation, row.kl)]
        for row in best(rows)
    ]
    header = ["NFE", "solver", "grid", "distance", "prior", "truncation", "discretisation"]
    lines += [solver_error.markdown([*header, "KL (nats)"], cells)]
    lines += ["", "## All distances", "", solver_error.table(rows)]
    return "\n".join(lines) + "\n"


def figure(path: Path, compared: Compared, rows: Sequence[LawRow]) -> None:
    """Distance by evaluations, each solver on the grid that suits it best, and below it the
    standard deviation by frequency at the middle budget."""
    shown = solver_error.at_best_grid(rows)
    names = {pair: f"{pair[0]}, {pair[1]}" for pair in shown}
    curves = [
        figures.Curve(
            names[pair], [r.nfe for r in found], [r.error for r in found], [0.0] * len(found)
        )
        for pair, found in shown.items()
    ]
    floor = min(math.hypot(row.prior, row.truncation) for row in rows)
    budgets = sorted({row.budget for row in rows if row.budget is not None})
    middle = budgets[len(budgets) // 2]
    panel = figures.Panel(f"{DISTANCE} (units of x)", curves, floor, (1, 2), "prior and last time")
    with plots.figure(path, 6.8, (2, 1)) as ((above,), (below,)):
        figures.error_panel(above, panel)
        for i, (pair, found) in enumerate(shown.items()):
            colour, marker = plots.COLOURS[i % len(plots.COLOURS)], plots.MARKERS[i % 10]
            at = [row for row in found if row.budget == middle]
            if at:
                label = names[pair]
                below.plot(
                    compared.frequencies(), at[0].std, color=colour, marker=marker, label=label
                )
        below.axhline(1, color=plots.GREY, linewidth=0.8)
        below.set(xlabel="frequency (cycles per step of x)", ylabel=f"std / data's, NFE {middle}")
        below.legend(loc="center left", bbox_to_anchor=(1, 0.5))
