"""Exact distributions against SciPy and against differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from score_sde.config import build
from score_sde.exact import Dataset, Gaussian, Mixture
from score_sde.sde import EDM, VP, Flow, SubVP

pytestmark = pytest.mark.usefixtures("x64")
SDES = [VP(), SubVP(), EDM(), Flow()]


def mixture():
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(3, 2, 2))
    covs = roots @ roots.transpose(0, 2, 1) + 0.1 * np.eye(2)
    return jnp.array([0.2, 0.3, 0.5]), jnp.asarray(rng.normal(size=(3, 2)) * 2), jnp.asarray(covs)


@pytest.mark.parametrize("sde", SDES, ids=lambda s: type(s).__name__)
def test_mixture_density_is_scipys(sde):
    weights, means, covs = mixture()
    x = np.random.default_rng(1).normal(size=(7, 2)) * 2
    t = jnp.linspace(0.05, 0.9, 7)
    alpha, sigma = np.asarray(sde.alpha(t)), np.asarray(sde.sigma(t))
    truth = [
        np.log(
            sum(
                w * stats.multivariate_normal.pdf(x[i], a * m, a**2 * c + s**2 * np.eye(2))
                for w, m, c in zip(weights, np.asarray(means), np.asarray(covs), strict=True)
            )
        )
        for i, (a, s) in enumerate(zip(alpha, sigma, strict=True))
    ]
    ours = Mixture(weights, means, covs)
    np.testing.assert_allclose(ours.log_prob(sde, jnp.asarray(x), t), truth, rtol=1e-10)
    clean = np.log(
        sum(
            w * stats.multivariate_normal.pdf(x, m, c)
            for w, m, c in zip(weights, np.asarray(means), np.asarray(covs), strict=True)
        )
    )
    np.testing.assert_allclose(ours.log_density(jnp.asarray(x)), clean, rtol=1e-10)


@pytest.mark.parametrize("sde", SDES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("kind", ["gaussian", "mixture", "dataset", "blurred dataset"])
def test_score_is_the_gradient_of_the_density(sde, kind):
    weights, means, covs = mixture()
    distribution = {
        "gaussian": Gaussian(means[0], covs[0]),
        "mixture": Mixture(weights, means, covs),
        "dataset": Dataset(means),
        "blurred dataset": Dataset(means, std=0.3),
    }[kind]
    x = jax.random.normal(jax.random.key(2), (6, 2))
    t = jnp.linspace(0.2, 0.9, 6)
    gradient = jax.grad(lambda x: jnp.sum(distribution.log_prob(sde, x, t)))(x)
    np.testing.assert_allclose(distribution.score(sde, x, t), gradient, rtol=1e-8, atol=1e-10)


def test_dataset_denoiser_is_the_weighted_mean():
    points = np.random.default_rng(3).normal(size=(150, 2, 2))
    x = np.random.default_rng(4).normal(size=(5, 2, 2))
    sde, t = VP(), jnp.asarray(0.4)
    alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
    logits = -np.sum((x[:, None] - alpha * points) ** 2, axis=(2, 3)) / (2 * sigma**2)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    truth = np.einsum("bn,nij->bij", weights / weights.sum(axis=1, keepdims=True), points)
    ours = Dataset(jnp.asarray(points)).denoiser(sde)(jnp.asarray(x), t)
    np.testing.assert_allclose(ours, truth, rtol=1e-9)


def test_samples_follow_the_density():
    """The mean of ln p over samples is -entropy; of a Gaussian that is known."""
    _, means, covs = mixture()
    gaussian = Gaussian(means[0], covs[0])
    n = 20_000
    log_prob = gaussian.log_density(gaussian.sample(jax.random.key(5), n))
    entropy = stats.multivariate_normal(np.asarray(means[0]), np.asarray(covs[0])).entropy()
    # ln p is -chi2(2)/2 + const, of variance 1 in two dimensions; four standard errors
    assert abs(float(jnp.mean(log_prob)) + entropy) < 4 / np.sqrt(n)


def test_a_ring_is_its_mixture():
    """Equal isotropic Gaussians on a circle, by the other implementation."""
    angles = 2 * np.pi * np.arange(5) / 5
    means = jnp.asarray(2.0 * np.stack([np.cos(angles), np.sin(angles)], axis=1))
    mixture = Mixture(jnp.full(5, 0.2), means, jnp.tile(0.09 * jnp.eye(2), (5, 1, 1)))
    x = jax.random.normal(jax.random.key(0), (20, 2))
    sde, t = VP(), jnp.asarray(0.3)
    ours = build("exact", "ring(components=5, radius=2.0, std=0.3)")
    np.testing.assert_allclose(ours.denoiser(sde)(x, t), mixture.denoiser(sde)(x, t), rtol=1e-9)
    np.testing.assert_allclose(ours.log_density(x), mixture.log_density(x), rtol=1e-9)


def test_three_gaussians_are_a_centred_distribution():
    ours = build("exact", "three_gaussians")
    np.testing.assert_allclose(ours.weights @ ours.means, 0, atol=1e-15)
    assert float(jnp.sum(ours.weights)) == pytest.approx(1)
    assert np.all(np.linalg.eigvalsh(ours.covs) > 0)
