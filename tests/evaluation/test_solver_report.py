"""The page and the figure of a comparison of solvers, and the numbers in them."""

import math
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest

from score_sde.evaluation import figures, solver_error, solver_report
from score_sde.evaluation.solver_comparison import Measure
from score_sde.evaluation.solver_error import Row


def test_the_error_of_one_number_is_not_known():
    """It is NaN, and nobody is warned; that of two is half their distance."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one, two = solver_error.mean([3.0]), solver_error.mean([1.0, 2.0])
    assert one.value == 3
    assert math.isnan(one.standard_error)
    assert two == pytest.approx((1.5, 0.5))


def test_solvers_with_a_budget_have_a_table_and_adaptive_ones_another():
    measure = Measure(lambda x: solver_error.mean([0.0]), 1e-9, "The distance; at least")
    about = {"problem": "ring", "process": "VP()", "dtype": "float64"}
    fixed = Row("ddim", "log_snr", 11, 10, 11.0, 0.25, 0.01, 1.0)
    adaptive = Row("dpm_adaptive", solver_report.ADAPTIVE, None, None, 42.0, 0.125, 0.01, 1.0)
    rows = {"both": [fixed, adaptive], "fixed": [fixed], "adaptive": [adaptive]}
    page = solver_report.page(about, dict.fromkeys(rows, measure), rows)
    both, only_fixed, only_adaptive = page.split("\n## ")[1:]
    for part, has in ((both, (True, True)), (only_fixed, (True, False))):
        assert ("ddim" in part, "`dpm_adaptive`  | 42" in part) == has
    assert "ddim" not in only_adaptive
    assert "`dpm_adaptive`  | 42" in only_adaptive


@pytest.mark.parametrize("slope", [1, 2, 3])
def test_a_guide_has_the_slope_that_it_is_named_by(slope):
    """In logarithms, from half of the lowest of the first errors; its name stands on it."""
    errors = [1.0, 0.1, 1e-4]
    curve = figures.Curve("a", [10, 20, 40], errors, [0.0] * 3)
    _, axes = plt.subplots()
    figures.error_panel(axes, figures.Panel("error", [curve], slopes=(slope,)))
    (guide,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    (x, y), name = (np.log(a) for a in guide.get_data()), axes.texts[0]
    plt.close()
    assert (y[1] - y[0]) / (x[1] - x[0]) == pytest.approx(-slope)
    assert y[0] == pytest.approx(math.log(0.5))
    assert name.get_text() == f"slope {slope}"
    at, height = np.log(name.get_position())
    assert x[0] < at < x[1]
    assert height == pytest.approx(y[0] - slope * (at - x[0]))
