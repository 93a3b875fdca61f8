"""Rows and the page of a comparison by exact laws, from laws that are written out by hand."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.evaluation import law_comparison
from score_sde.evaluation.law_comparison import Compared, LawRow
from score_sde.evaluation.sampler_law import Budget, Normal
from score_sde.evaluation.spectrum import Spectrum
from score_sde.processes import VP

# two frequencies, each in two channels
FREQUENCY = np.array([0.0, 0.0, 0.25, 0.25])
DATA = Normal(jnp.zeros(4), jnp.array([4.0, 4.0, 1.0, 3.0]))


def row(solver, budget, error, grid="uniform"):
    steps = None if budget is None else budget - 1
    parts = (0.3 * error, 0.4 * error, 0.5 * error)
    return LawRow(
        solver, grid, budget, steps, 1.0 * (budget or 7), error, 0.0, 0.0, *parts, 2.0, ()
    )


def test_a_row_is_the_root_of_the_mean_square_of_the_dimensions():
    compared = Compared(VP(), Spectrum(DATA, FREQUENCY), denoise=True)
    parts = Budget(*(jnp.array([a, 0.0, 0.0, 0.0]) for a in (4.0, 16.0, 36.0, 64.0)))
    end = Normal(jnp.zeros(4), jnp.array([1.0, 1.0, 2.0, 2.0]))
    found = compared.row(("ddim", "uniform", 11, 10), 11, (parts, end))
    assert (found.solver, found.grid, found.budget, found.steps) == ("ddim", "uniform", 11, 10)
    assert found.nfe == 11
    # sqrt(4/4), and nothing is drawn
    assert (found.error, found.standard_error, found.seconds) == (1.0, 0.0, 0.0)
    assert (found.prior, found.truncation, found.discretisation) == (2.0, 3.0, 4.0)
    # KL(N(0, l) | N(0, v)) = (l/v - 1 - ln(l/v))/2 of each dimension, nats
    ratio = np.array([4, 4, 0.5, 1.5])
    assert found.kl == pytest.approx(np.sum(ratio - 1 - np.log(ratio)) / 2, rel=1e-6)
    # standard deviations over those of the data, by the variance of a band: 1/4, and 4/4
    assert found.std == pytest.approx((0.5, 1.0))
    assert compared.frequencies() == [0.0, 0.25]
    assert compared.stds() == pytest.approx([2.0, math.sqrt(2.0)])


def test_the_best_at_each_budget():
    rows = [
        row("heun", 11, 0.5),
        row("ddim", 11, 0.25),
        row("ddim", 3, 1.0),
        row("bad", 3, math.nan),
    ]
    assert [(r.solver, r.budget) for r in law_comparison.best(rows)] == [("ddim", 3), ("ddim", 11)]
    assert law_comparison.best([row("bad", 3, math.nan)]) == []


def test_the_page_has_the_parts_of_the_best_error():
    rows = [row("ddim", 3, 1.0), row("ddim", 11, 0.5), row("heun", 11, 0.25, "karras")]
    about = {"data": "digits", "process": "VP()", "dims": 1024, "examples": 50_000}
    page = law_comparison.page(about, rows)
    assert page.startswith("# Solvers for the spectrum of digits\n")
    assert "each of the 1,024 cosine coefficients of 50,000 examples" in page
    cells = [
        [c.strip() for c in line.split("|")[1:-1]] for line in page.splitlines() if "|" in line
    ]
    assert cells[0][0] == "NFE"
    assert set(cells[1][0]) == {"-"}
    assert cells[2] == [
        "3",
        "`ddim`",
        "`uniform`",
        "1.0e+0",
        "3.0e-1",
        "4.0e-1",
        "5.0e-1",
        "2.0e+0",
    ]
    assert cells[3] == [
        "11",
        "`heun`",
        "`karras`",
        "2.5e-1",
        "7.5e-2",
        "1.0e-1",
        "1.2e-1",
        "2.0e+0",
    ]
    # then all errors by budget, the least of a budget bold
    assert cells[4] == ["solver", "grid", "NFE 3", "NFE 11"]
    assert cells[6:] == [
        ["`ddim`", "`uniform`", "**1.0e+0**", "5.0e-1"],
        ["`heun`", "`karras`", "", "**2.5e-1**"],
    ]
