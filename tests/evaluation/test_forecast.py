"""Scores of forecasts against closed form, and forecasts of an AR(2) process against its law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import ndtr

from score_sde import inverse, solvers
from score_sde.config import build
from score_sde.data.series import AR2
from score_sde.editing import tasks
from score_sde.evaluation.metrics.forecast import coverage, crps, crps_normal
from score_sde.processes import VP
from score_sde.processes.exact import Gaussian
from score_sde.sampling import grids


@pytest.mark.parametrize(("mean", "std", "y"), [(0.0, 1.0, 0.3), (2.0, 0.5, 0.0), (-1.0, 3.0, 4.0)])
def test_the_normal_score_is_the_integral_of_its_definition(mean, std, y):
    """int (F(x) - 1[x >= y])^2 dx (Matheson & Winkler 1976)."""
    below = quad(lambda x: ndtr((x - mean) / std) ** 2, -np.inf, y)[0]
    above = quad(lambda x: ndtr((mean - x) / std) ** 2, y, np.inf)[0]
    found = crps_normal(np.array(mean), np.array(std), np.array(y))
    assert found == pytest.approx(below + above, rel=1e-7)


def test_the_score_of_samples_is_its_definition_and_without_bias():
    random = np.random.default_rng(0)
    samples, truth = random.normal(size=(5, 3)), random.normal(size=3)
    between = np.abs(samples[:, None] - samples[None]).sum(axis=(0, 1)) / (5 * 4)
    plain = np.abs(samples - truth).mean(axis=0) - between / 2
    np.testing.assert_allclose(crps(samples, truth), plain, rtol=1e-12)

    # of three samples each, 100,000 times: within five standard errors of the closed form
    many = crps(random.normal(1.0, 2.0, (3, 100_000)), np.full(100_000, 0.5))
    exact = crps_normal(np.array(1.0), np.array(2.0), np.array(0.5))
    assert abs(many.mean() - exact) < 5 * many.std() / np.sqrt(100_000)


def test_the_law_itself_has_the_least_score():
    """E of it is std / sqrt(pi); wider, narrower and shifted laws have more."""
    y = np.random.default_rng(1).normal(size=200_000)
    one = np.ones(1)
    best = crps_normal(0 * one, one, y).mean()
    assert best == pytest.approx(1 / np.sqrt(np.pi), rel=5e-3)
    for mean, std in ((0.0, 1.3), (0.0, 0.7), (0.3, 1.0)):
        assert crps_normal(mean * one, std * one, y).mean() > best + 0.01


def test_a_perfect_forecast_covers_what_it_should():
    random = np.random.default_rng(0)
    for k, level, ideal in ((39, 0.9, 0.9), (9, 0.8, 0.8), (20, 0.9, 1 - 2 / 21)):
        samples, truth = random.normal(size=(k, 50_000)), random.normal(size=50_000)
        found, told = coverage(samples, truth, level)
        assert told == pytest.approx(ideal)
        assert abs(found - ideal) < 5 * np.sqrt(0.25 / 50_000)
        assert coverage(0.5 * samples, truth, level)[0] < ideal - 0.1


def test_scores_need_enough_samples():
    with pytest.raises(ValueError, match="needs at least 2 samples, not 1"):
        crps(np.zeros((1, 3)), np.zeros(3))
    with pytest.raises(ValueError, match=r"4 samples have no interval of level 0\.9: take more"):
        coverage(np.zeros((4, 3)), np.zeros(3))


def test_forecasts_of_a_series_are_the_law_of_the_process(x64):
    """The exact denoiser, and the method mmps with as many iterations as numbers are known: means,
    covariances and scores of 2,000 forecasts, each within five standard errors."""
    process, length, known, k = AR2(1.6, -0.8), 16, 12, 2000
    law = Gaussian(jnp.zeros(length), jnp.asarray(process.covariance(length)))
    past = process.sample(np.random.default_rng(3), 1, length)
    sde = VP(t_min=1e-5)
    tools = tasks.Tools(
        shape=(length, 1),
        sde=sde,
        solver=solvers.dpmpp(sde),
        grid=lambda sde: grids.log_snr(sde, 60),
        method=lambda observation: inverse.mmps(sde, observation, iterations=known),
        completions=k,
    )
    edit = build("editing.tasks", f"forecast(known={known / length})", tools)
    source = jnp.asarray(past)[..., None]
    run = jax.jit(lambda key, x: edit.run(key, lambda k: law.denoiser(sde), x))
    out = jax.device_get(run(jax.random.key(0), source))
    np.testing.assert_array_equal(
        out.x[0, :, :known], np.broadcast_to(source, (k, 16, 1))[:, :known]
    )
    found = out.x[0, :, known:, 0]
    mean, cov = process.forecast(past[0, :known], length - known)
    std = np.sqrt(np.diag(cov))
    assert np.all(np.abs(found.mean(axis=0) - mean) < 5 * std / np.sqrt(k))
    error = np.sqrt((np.outer(std, std) ** 2 + cov**2) / k)
    assert np.all(np.abs(np.cov(found.T) - cov) < 5 * error)
    truth = past[0, known:]
    spread = np.abs(found - truth).std(axis=0) + std
    assert np.all(
        np.abs(crps(found, truth) - crps_normal(mean, std, truth)) < 5 * spread / np.sqrt(k)
    )


@pytest.mark.parametrize("known", [0.0, 0.01, 1.0])
def test_a_forecast_needs_a_past_and_a_future(known):
    tools = tasks.Tools((16, 1), VP(), solvers.ddim(VP()), lambda sde: grids.uniform(sde, 4), None)
    with pytest.raises(ValueError, match="known must be a share that leaves some of 16 times"):
        build("editing.tasks", f"forecast(known={known})", tools)
