"""The variance of a step from the posterior covariance: closed forms, and exact samplers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sampling, solvers
from score_sde.config import build
from score_sde.errors import ConfigError, DataError
from score_sde.evaluation.sampler_law import Normal, law_after
from score_sde.models import covariance
from score_sde.models.model import Model
from score_sde.models.parametrization import eps, time
from score_sde.processes import DDPM, EDM, VP, Flow, posterior
from score_sde.processes.exact import Gaussian, three_gaussians
from score_sde.sampling import grids
from score_sde.training.objectives.hybrid import bound_terms

pytestmark = pytest.mark.usefixtures("x64")
SDE = EDM(t_min=0.002, t_max=80.0)
LOG_SNR = tuple(np.linspace(-12, 14, 400))


def spread(sde, n, scales, variance=None, grid=grids.karras):
    """The std of ancestral samples of N(0, scales), over that of x at the last time."""
    data = Normal(jnp.zeros(len(scales)), jnp.asarray(scales))
    times = jnp.asarray(grid(sde, n), float)
    denoiser, solver = data.denoiser(sde), solvers.ancestral(sde)
    if variance is not None:
        denoiser, solver = variance(denoiser), solvers.ancestral(sde, "learned")
    found = law_after(solver, denoiser, times, data.noised(sde, times[0]))
    return np.sqrt(np.asarray(found.variance / data.noised(sde, times[-1]).variance))


@pytest.mark.parametrize("name", ["diagonal", "hutchinson(probes=1)"])
@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_ancestral_sampling_is_exact_on_a_gaussian_at_any_number_of_steps(name, n):
    """.443 at 5 steps without. One probe is exact too, where the Jacobian is diagonal."""
    scales = np.array([0.25, 4.0, 1e-3])
    found = spread(SDE, n, scales, build("models.covariance", name, SDE))
    np.testing.assert_allclose(found, 1, rtol=0, atol=1e-12)
    if n == 5:
        assert spread(SDE, n, scales)[0] == pytest.approx(0.443, abs=6e-4)


@pytest.mark.parametrize("sde", [VP(t_min=1e-3), Flow(t_min=1e-3, t_max=0.999)])
def test_it_is_exact_for_other_processes(sde):
    found = spread(sde, 4, np.array([0.25, 2.0]), covariance.diagonal(sde), grids.log_snr)
    np.testing.assert_allclose(found, 1, rtol=0, atol=1e-12)


def test_a_variance_by_level_is_exact_on_data_of_one_variance():
    """The noise error of N(0, l) is SNR l/(1 + SNR l). Of other data it keeps the mean of the
    variances of a step."""
    snr = np.exp(LOG_SNR)
    error = snr * 0.25 / (1 + snr * 0.25)
    found = spread(SDE, 5, np.array([0.25]), covariance.by_level(SDE, LOG_SNR, tuple(error)))
    # a line between two of 400 levels is off by 1/8 of their distance squared, times e'' < .1
    np.testing.assert_allclose(found, 1, rtol=0, atol=1e-3)


def test_the_diagonal_is_that_of_a_mixture():
    """Cov(x_0 | x_t) = sum_k r_k (S_k + m_k m_k') - D D', with S_k, m_k and r_k of component k."""
    law, sde = three_gaussians(), VP()
    x, t, s = jnp.array([[0.3, -0.4], [1.5, 2.0], [-1.0, 0.1]]), jnp.asarray(0.4), jnp.asarray(0.2)
    alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
    truth = []
    for point in np.asarray(x):
        log_r, first, second = [], [], []
        for w, m, c in zip(
            *(np.asarray(a) for a in (law.weights, law.means, law.covs)), strict=True
        ):
            whole = alpha**2 * c + sigma**2 * np.eye(2)
            gain = alpha * c @ np.linalg.inv(whole)
            away = point - alpha * m
            log_r.append(np.log(w) - (away @ np.linalg.solve(whole, away)) / 2)
            log_r[-1] -= np.linalg.slogdet(whole)[1] / 2
            mean = m + gain @ away
            first.append(mean)
            second.append(np.diag(c - alpha * gain @ c) + mean**2)
        r = np.exp(log_r - np.logaddexp.reduce(log_r))
        truth.append(r @ np.array(second) - (r @ np.array(first)) ** 2)
    step = posterior(sde, t, s)
    whole = np.exp(step.log_variance) + float(step.from_x0) ** 2 * np.array(truth)
    denoiser = law.denoiser(sde)
    found = covariance.diagonal(sde)(denoiser)(x, t, s)
    np.testing.assert_allclose(found[:, :2], denoiser(x, t), rtol=1e-12)
    np.testing.assert_allclose(np.exp(found[:, 2:]), whole, rtol=1e-10)

    # probes have no bias: the mean of 4,000 is within 1/sqrt(4000) of the other entry of a row
    many = covariance.hutchinson(sde, probes=4000)(denoiser)(x, t, s)
    scale = float(step.from_x0) ** 2 * sigma**2 / alpha
    jacobian = jax.vmap(jax.jacfwd(lambda x: denoiser(x[None], t)[0]))(x)
    other = scale * np.abs(np.asarray(jacobian[:, 0, 1]))[:, None]
    assert np.all(np.abs(np.exp(many[:, 2:]) - whole) < 4 * other / np.sqrt(4000) + 1e-12)
    # and an example has the same ones whatever the batch
    np.testing.assert_allclose(
        covariance.hutchinson(sde)(denoiser)(x, t, s)[1:],
        covariance.hutchinson(sde)(denoiser)(x[1:], t, s),
        rtol=1e-12,
    )


def test_the_objective_hybrid_learns_the_same_variance():
    """The bound of a step, averaged over x_0 given x_t, is least at the log variance of
    `diagonal`: its slope in v is 0 there, and has another sign on either side."""
    sde, count, step = DDPM(num_steps=50, beta_max=8.0), 50, 20
    t, s = jnp.asarray([step / (count - 1)]), jnp.asarray([(step - 1) / (count - 1)])
    l_0, x_t = 0.3, jnp.asarray([[0.7]])
    law = Gaussian(jnp.zeros(1), jnp.full((1, 1), l_0))
    alpha2, sigma2 = sde.alpha(t) ** 2, sde.sigma(t) ** 2
    of_x0 = l_0 * sigma2 / (alpha2 * l_0 + sigma2)  # Var(x_0 | x_t)
    denoised, log_variance = jnp.split(
        covariance.diagonal(sde)(law.denoiser(sde))(x_t, t, s), 2, axis=-1
    )
    of_step = posterior(sde, t, s)
    low, high = of_step.log_variance[:, None], of_step.log_transition[:, None]
    best = 2 * (log_variance - low) / (high - low) - 1
    assert -1 < float(best[0, 0]) < 1
    nodes, weights = np.polynomial.hermite_e.hermegauss(9)  # exact: the bound is square in x_0
    x_0 = denoised + jnp.sqrt(of_x0)[:, None] * jnp.asarray(nodes)[:, None]
    model = Model(None, sde, eps(time(999.0)))  # pyright: ignore[reportArgumentType]

    def bound(v):
        wide = [jnp.broadcast_to(a, (9, *a.shape[1:])) for a in (t, denoised, v)]
        terms = bound_terms(model, count, 256, x_0, *wide)
        return jnp.sum(terms[:, 0] * jnp.asarray(weights / weights.sum()))

    slope = [float(jax.grad(bound)(best + shift)[0, 0]) for shift in (-0.1, 0.0, 0.1)]
    assert slope[0] < -1e-5
    assert slope[2] > 1e-5
    assert abs(slope[1]) < 1e-9


def test_draws_have_the_law(x64):
    """20,000 samples in two steps of correlated data: the variance of each number is right."""
    cov = jnp.array([[1.0, 0.6], [0.6, 0.5]])
    sde, n = VP(t_min=1e-4), 20_000
    denoiser = covariance.diagonal(sde)(Gaussian(jnp.zeros(2), cov).denoiser(sde))
    times = jnp.asarray(grids.log_snr(sde, 1), float)
    x = jax.random.normal(jax.random.key(0), (n, 2))
    run = jax.jit(
        lambda key: sampling.sample(key, solvers.ancestral(sde, "learned"), denoiser, x, times).x
    )
    drawn = np.asarray(run(jax.random.key(1)))
    np.testing.assert_allclose(drawn.var(axis=0), np.diag(cov), rtol=4 * np.sqrt(2 / n))


def test_a_file_of_evaluate_is_read(tmp_path):
    path = tmp_path / "evaluate.json"
    levels = {"log_snr": [-8.0, 0.0, 8.0], "value": [0.01, 0.3, 1.0]}
    path.write_text(json.dumps({"loss": {"noise_error": levels}}))
    denoiser = Gaussian(jnp.zeros(1), jnp.ones((1, 1))).denoiser(SDE)
    x, t, s = jnp.ones((1, 1)), jnp.asarray(1.0), jnp.asarray(0.5)
    found = covariance.measured(SDE, str(path))(denoiser)(x, t, s)
    step = posterior(SDE, t, s)
    truth = np.exp(step.log_variance) + step.from_x0**2 * 0.3  # log-SNR 0, sigma/alpha 1
    assert float(jnp.exp(found[0, 1])) == pytest.approx(float(truth), rel=1e-9)
    path.write_text("{}")
    with pytest.raises(DataError, match=r"evaluate\.parts"):
        covariance.measured(SDE, str(path))


def test_bad_options_are_one_line():
    for spec, message in (
        ("hutchinson(probes=0)", "probes must be at least 1"),
        ("by_level(log_snr=(1.0, 0.0), noise_error=(1.0, 1.0))", "must increase"),
        ("by_level(log_snr=(1.0,), noise_error=(1.0, 1.0))", "must increase"),
    ):
        with pytest.raises(ConfigError, match=message):
            build("models.covariance", spec, SDE)
