"""Sweeps of a solver's options, from a spec of a config."""

import functools

import jax.numpy as jnp
import pytest

from score_sde.errors import ConfigError
from score_sde.evaluation.solver_variants import Variants
from score_sde.processes import VP
from score_sde.sampling import grids

SDE = VP(t_min=1e-3)
GRID = functools.partial(grids.uniform, SDE)


def read(text):
    return Variants.read(text, SDE)


def test_points_of_a_sweep_are_all_combinations():
    """The last option changes fastest; the other options are in every label."""
    found = read("dpm_adaptive(rtol=(0.5, 0.25), order=2, atol=[1.0, 2.0])")
    assert found.options == {"order": 2}
    assert [*found.swept] == ["rtol", "atol"]
    assert [(p["rtol"], p["atol"]) for p in found.points()] == [
        (0.5, 1.0),
        (0.5, 2.0),
        (0.25, 1.0),
        (0.25, 2.0),
    ]
    assert found.label(found.points()[1]) == "dpm_adaptive(order=2, rtol=0.5, atol=2.0)"


def test_a_solver_without_a_sweep_is_one_point():
    found = read("ddim")
    assert found.points() == [{}]
    assert found.label({}) == "ddim"
    assert read("ddim(eta=1.0)").label({}) == "ddim(eta=1.0)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ddim(eta=())", r"eta=\(\) is not a sweep of numbers"),
        ("ddim(eta=(0.5, '1'))", r"eta=\(0.5, '1'\) is not a sweep of numbers"),
        ("dpmpp(order=(2, 3))", "order cannot be swept: list a solver for each value"),
        ("ddim(eta=(-1.0,))", "eta must be at least 0"),
    ],
)
def test_what_cannot_be_swept_is_one_line(text, message):
    with pytest.raises(ConfigError, match=message):
        read(text)


def test_what_kind_of_solver_it_is():
    assert read("dpm_adaptive").is_adaptive(SDE)
    assert not read("ddim").is_adaptive(SDE)
    times = [GRID(1)]
    assert not read("ddim").is_stochastic(SDE, times)
    assert read("ddim(eta=1.0)").is_stochastic(SDE, times)
    # at one of its points is enough
    assert read("ddim(eta=(0.0, 1.0))").is_stochastic(SDE, times)


def test_a_budget_has_room_for_a_step_and_the_last_evaluation():
    """`ddim` takes one evaluation a step, `heun` two; one more ends a sample."""
    for name, least in (("ddim", 2), ("heun", 3)):
        assert read(name).fits(SDE, GRID, least), name
        assert not read(name).fits(SDE, GRID, least - 1), name
    assert read("dpm_adaptive").fits(SDE, GRID, 1)  # which chooses its own


def test_adaptive_solvers_take_the_tolerances_that_they_do_not_state():
    found = read("dpm_adaptive(order=2)").at_tolerances([0.1, 0.01])
    assert [each.options for each in found] == [
        {"order": 2, "rtol": 0.1, "atol": 0.1},
        {"order": 2, "rtol": 0.01, "atol": 0.01},
    ]
    for stated in ("rtol", "atol"):
        own = read(f"dpm_adaptive({stated}=0.5)")
        assert own.at_tolerances([0.1, 0.01]) == [own]


def test_a_point_is_built_with_all_of_its_options(x64):
    """`ddim` with eta = 1 is ancestral: it draws sigma_s^2 (1 - SNR_t/SNR_s) afresh."""
    found = read("ddim(eta=(0.0, 1.0))")
    t, s = jnp.asarray(0.5), jnp.asarray(0.25)

    def noise(t, s, shape):
        return jnp.ones(shape)

    x, ends = jnp.zeros((1, 1)), []
    for point in found.points():
        solver = found.build(SDE, point)
        start = solver.init(x, jnp.stack([t, s]))
        ends.append(solver.step(noise, lambda x, t: x, x, t, s, start)[0])
    fresh = -jnp.expm1(SDE.log_snr(t) - SDE.log_snr(s))
    assert float(ends[0][0, 0]) == 0
    assert float(ends[1][0, 0]) == pytest.approx(float(SDE.sigma(s) * jnp.sqrt(fresh)), rel=1e-12)
