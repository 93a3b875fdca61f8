"""Tilted and multiplied mixtures against quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from score_sde.models.tilting import with_classifier
from score_sde.processes import EDM, VP, Flow
from score_sde.processes.exact import Gaussian, Mixture
from score_sde.processes.exact_tilted import powers, tilted, times

pytestmark = pytest.mark.usefixtures("x64")


def mixture(seed=0, k=3, d=1):
    rng = np.random.default_rng(seed)
    roots = rng.normal(size=(k, d, d)) / 2
    covs = roots @ roots.transpose(0, 2, 1) + 0.1 * np.eye(d)
    weights = rng.dirichlet(np.ones(k))
    return Mixture(jnp.asarray(weights), jnp.asarray(rng.normal(size=(k, d))), jnp.asarray(covs))


def density(law, x):
    parts = zip(law.weights, np.asarray(law.means), np.asarray(law.covs), strict=True)
    return sum(float(w) * stats.multivariate_normal.pdf(x, m, c) for w, m, c in parts)


def moments(function):
    """ln of the integral of a density over the line, its mean and its variance."""
    z, mean, square = (
        integrate.quad(lambda x, k=k: x**k * function(x), -12, 12, epsabs=1e-13, limit=400)[0]
        for k in range(3)
    )
    return np.log(z), mean / z, square / z - (mean / z) ** 2


def moments_of(law):
    mean = law.weights @ law.means[:, 0]
    return mean, law.weights @ (law.covs[:, 0, 0] + (law.means[:, 0] - mean) ** 2)


@pytest.mark.parametrize("k", [0.7, -0.6])
def test_a_quadratic_reward_makes_a_mixture(k):
    law = mixture()
    found = tilted(law, jnp.array([0.8]), jnp.array([[k]]))
    truth = moments(lambda x: density(law, x) * np.exp(0.8 * x - k * x**2 / 2))
    np.testing.assert_allclose([found.log_z, *moments_of(found.law)], truth, rtol=1e-9)


def test_two_dimensions_are_those_of_bayes():
    """A measurement y = A x + noise is the reward y'A x/s^2 - |A x|^2/2s^2, but for a constant."""
    law, a, y, noise = mixture(d=2), jnp.array([[1.0, -0.5]]), jnp.array([0.7]), 0.4
    posterior = law.posterior(a, y, noise)
    found = tilted(law, a.T @ y / noise**2, a.T @ a / noise**2)
    np.testing.assert_allclose(found.law.weights, posterior.weights, rtol=1e-10)
    np.testing.assert_allclose(found.law.means, posterior.means, rtol=1e-10)
    np.testing.assert_allclose(found.law.covs, posterior.covs, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("sde", [VP(), EDM(), Flow()], ids=lambda sde: type(sde).__name__)
def test_the_value_gives_the_denoiser_of_the_tilted_law(sde):
    """V_t = ln E[e^r(x_0) | x_t] by quadrature, and D + (sigma^2/alpha) grad V_t is the denoiser of
    the tilted law."""
    law = mixture()
    found = tilted(law, jnp.array([0.8]), jnp.array([[0.7]]))
    x, t = jnp.array([[-1.0], [0.3], [2.0]]), jnp.array([0.2, 0.5, 0.7])

    def value(x, t):
        return found.value(sde, x, t)

    for i in range(3):
        alpha, sigma = float(sde.alpha(t[i])), float(sde.sigma(t[i]))

        def joint(x_0, i=i, alpha=alpha, sigma=sigma):
            return density(law, x_0) * stats.norm.pdf(float(x[i, 0]), alpha * x_0, sigma)

        whole, _, _ = moments(joint)
        with_reward, _, _ = moments(
            lambda x_0, joint=joint: joint(x_0) * np.exp(0.8 * x_0 - 0.35 * x_0**2)
        )
        np.testing.assert_allclose(value(x, t)[i], with_reward - whole, rtol=1e-8)
    changed = jax.jit(with_classifier(sde, law.denoiser(sde), value))(x, t)
    np.testing.assert_allclose(changed, found.law.denoiser(sde)(x, t), rtol=1e-9)


def test_a_product_of_mixtures_has_their_pairs():
    first, second = mixture(), mixture(seed=1, k=2)
    found = times(first, second)
    truth = moments(lambda x: density(first, x) * density(second, x))
    np.testing.assert_allclose([found.log_z, *moments_of(found.law)], truth, rtol=1e-9)


def test_powers_of_gaussians():
    """Guidance of weight 2 in one dimension, and in two dimensions the product of two experts."""
    pair = (Gaussian(jnp.array([0.0]), jnp.eye(1)), Gaussian(jnp.array([1.0]), jnp.eye(1) / 4))
    law, log_z = powers(pair, (-1.0, 2.0))
    truth = moments(lambda x: density(pair[1], x) ** 2 / density(pair[0], x))
    np.testing.assert_allclose([log_z, *moments_of(law)], truth, rtol=1e-9)
    np.testing.assert_allclose(moments_of(law), (8 / 7, 1 / 7), rtol=1e-12)
    two = mixture(d=2, k=2)
    parts = [Gaussian(two.means[i], two.covs[i]) for i in range(2)]
    law, log_z = powers(tuple(parts), (1.0, 1.0))
    truth = times(*parts)
    np.testing.assert_allclose(log_z, truth.log_z, rtol=1e-10)
    np.testing.assert_allclose(law.means, truth.law.means, rtol=1e-10)
    np.testing.assert_allclose(law.covs, truth.law.covs, rtol=1e-10)


def test_powers_without_a_finite_integral_are_refused():
    pair = (Gaussian(jnp.array([0.0]), jnp.eye(1) / 4), Gaussian(jnp.array([1.0]), jnp.eye(1)))
    with pytest.raises(ValueError, match="no finite integral"):
        powers(pair, (-1.0, 2.0))
