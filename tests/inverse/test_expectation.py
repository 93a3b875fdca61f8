"""Expectation maximisation of a Gaussian: against posteriors one by one, and in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import inverse, sampling, solvers
from score_sde.inverse import Observation
from score_sde.inverse.expectation import Moments, em, em_round, first
from score_sde.inverse.operators import masks
from score_sde.processes import VP
from score_sde.processes.exact import Gaussian
from score_sde.sampling import grids

pytestmark = pytest.mark.usefixtures("x64")


def examples(n, d=4, seed=0):
    """Correlated numbers, and which of them are known: at least one of each example."""
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)
    known = rng.random((n, d)) < 0.6
    known[np.arange(n), np.arange(n) % d] = True
    return y, known


def test_a_round_is_the_mean_of_exact_posteriors():
    y, known = examples(6)
    law, noise = Moments(np.arange(4.0), np.cov(examples(50, seed=1)[0].T)), 0.3
    prior, means, covs = Gaussian(*map(jnp.asarray, law)), [], []
    for one, seen in zip(y, known, strict=True):
        matrix = jnp.asarray(np.eye(4)[seen])
        posterior = prior.posterior(matrix, jnp.asarray(one[seen]), noise)
        means.append(posterior.means[0])
        covs.append(posterior.covs[0])
    mean = np.mean(means, axis=0)
    cov = np.mean(covs, axis=0) + np.cov(np.stack(means).T, bias=True)
    unknown = np.where(known, y, np.nan)  # is not looked at
    found = em_round(law, unknown, known, noise)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.cov, cov, rtol=1e-12, atol=1e-12)


def halves(n=300, correlation=0.6):
    """Points of variance 1 and this covariance, exactly, with all, the first or the second number
    known in a third each."""
    z = np.random.default_rng(2).normal(size=(n, 2))
    z -= z.mean(axis=0)
    z = z @ np.linalg.inv(np.linalg.cholesky(z.T @ z / n)).T
    x = z @ np.linalg.cholesky(np.array([[1, correlation], [correlation, 1]])).T
    return np.tile(x, (3, 1)), np.repeat([[True, True], [True, False], [False, True]], n, axis=0)


def test_a_covariance_rises_as_its_recursion_says():
    """c' = 0.6/3 + 2c/3, so c = 0.6 (1 - (2/3)^n) after n rounds from independence."""
    y, known = halves()
    law = first(y, known)
    for i in range(1, 33):
        law = em_round(law, y, known)
        np.testing.assert_allclose(law.cov[0, 1], 0.6 * (1 - (2 / 3) ** i), rtol=1e-10)
        np.testing.assert_allclose([*law.mean, *np.diag(law.cov)], [0, 0, 1, 1], atol=1e-10)


def test_the_likelihood_rises_and_its_gradient_vanishes():
    y, known = examples(60)
    weights = jnp.asarray(known, float)

    @jax.jit
    def log_likelihood(mean, cov):
        """Of the known numbers; others are as if independent, of variance 1, and at 0."""

        def one(y, seen):
            away = jnp.where(seen > 0, y - mean, 0)
            evidence = seen[:, None] * cov * seen[None] + jnp.diag(1 - seen)
            return -(away @ jnp.linalg.solve(evidence, away) + jnp.linalg.slogdet(evidence)[1]) / 2

        return jnp.sum(jax.vmap(one)(jnp.asarray(y), weights))

    laws = [em(y, known, rounds) for rounds in (0, 1, 3, 10, 30)]
    found = [float(log_likelihood(*law)) for law in laws]
    assert found == sorted(found)
    assert found[1] - found[0] > 1
    last = em(y, known, 3000)
    for gradient in jax.grad(log_likelihood, argnums=(0, 1))(*map(jnp.asarray, last)):
        np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_a_round_of_draws_by_mmps_is_within_standard_errors():
    y, known = halves(n=4000)
    law = Moments(np.array([0.2, -0.1]), np.array([[1.2, 0.3], [0.3, 0.8]]))
    truth = em_round(law, y, known)
    sde, seen = VP(t_min=1e-4), jnp.asarray(known)
    observation = Observation(masks(seen), jnp.where(seen, y, 0), 0.0)
    method = inverse.mmps(sde, observation, iterations=2)
    denoiser = method.denoiser(Gaussian(*map(jnp.asarray, law)).denoiser(sde))

    @jax.jit
    def draw(key):
        x = sde.prior_sample(key, y.shape)
        times, solver = grids.log_snr(sde, 40), solvers.dpmpp(sde, order=3)
        return sampling.sample(key, solver, denoiser, x, times, denoise=True).x

    x = np.asarray(draw(jax.random.key(0)))
    np.testing.assert_allclose(x[known], y[known], atol=1e-5)  # as t_min leaves them
    away = x - truth.mean
    products = np.stack([away[:, 0], away[:, 1], *(away[:, i] * away[:, j] for i, j in PAIRS)])
    errors = products.std(axis=1) / np.sqrt(len(x))
    expected = np.array([0, 0, *(truth.cov[i, j] for i, j in PAIRS)])
    # given y only the unknown numbers vary, so these errors are on the safe side
    assert np.all(np.abs(products.mean(axis=1) - expected) < 3 * errors)
    assert np.max(np.abs(np.cov(y.T) - truth.cov)) > 10 * errors[2:].max()  # it could fail


PAIRS = ((0, 0), (0, 1), (1, 1))


def test_a_number_that_is_never_known_is_told():
    y, known = examples(10)
    known[:, 2] = False
    with pytest.raises(ValueError, match="1 of 4 numbers are known of no example"):
        em(y, known, 1)


def test_masks_keep_other_numbers_of_each_example():
    x = jnp.asarray(examples(5)[0])
    known = jnp.asarray(examples(5)[1])
    operator = masks(known)
    y = operator.apply(x)
    np.testing.assert_array_equal(y, np.where(known, x, 0))
    v = jnp.ones_like(x) * 2
    assert operator.adjoint is not None
    np.testing.assert_allclose(jnp.sum(y * v), jnp.sum(x * operator.adjoint(v)), rtol=1e-12)
