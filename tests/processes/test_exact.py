"""Exact distributions against SciPy and against differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from score_sde.config import build
from score_sde.processes import EDM, VP, Flow, SubVP
from score_sde.processes.exact import Dataset, Gaussian, Histograms, Mixture, dequantized

pytestmark = pytest.mark.usefixtures("x64")
SDES = [VP(), SubVP(), EDM(), Flow()]


def mixture():
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(3, 2, 2))
    covs = roots @ roots.transpose(0, 2, 1) + 0.1 * np.eye(2)
    return jnp.array([0.2, 0.3, 0.5]), jnp.asarray(rng.normal(size=(3, 2)) * 2), jnp.asarray(covs)


def histograms(n, d=2):
    rng = np.random.default_rng(7)
    probabilities = rng.dirichlet(np.ones(n), (2, d))
    return Histograms(jnp.array([0.3, 0.7]), jnp.asarray(probabilities), low=-1.0, high=1.0)


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
    noisy, without = jax.jit(lambda x, t: (ours.log_prob(sde, x, t), ours.log_density(x)))(x, t)
    np.testing.assert_allclose(noisy, truth, rtol=1e-10)
    clean = np.log(
        sum(
            w * stats.multivariate_normal.pdf(x, m, c)
            for w, m, c in zip(weights, np.asarray(means), np.asarray(covs), strict=True)
        )
    )
    np.testing.assert_allclose(without, clean, rtol=1e-10)


@pytest.mark.parametrize("kind", ["gaussian", "mixture", "dataset", "blurred dataset"])
def test_score_is_the_gradient_of_the_density(kind):
    weights, means, covs = mixture()
    distribution = {
        "gaussian": Gaussian(means[0], covs[0]),
        "mixture": Mixture(weights, means, covs),
        "dataset": Dataset(means),
        "blurred dataset": Dataset(means, std=0.3),
    }[kind]

    @jax.jit
    def of_every_process(x, t):
        return [
            (
                distribution.score(sde, x, t),
                jax.grad(lambda x, sde=sde: jnp.sum(distribution.log_prob(sde, x, t)))(x),
            )
            for sde in SDES
        ]

    x = jax.random.normal(jax.random.key(2), (6, 2))
    found = of_every_process(x, jnp.linspace(0.2, 0.9, 6))
    for sde, (score, gradient) in zip(SDES, found, strict=True):
        np.testing.assert_allclose(score, gradient, rtol=1e-8, atol=1e-10, err_msg=str(sde))


def test_histograms_are_the_sum_over_their_cells():
    """Density and score by scipy, of cells that are wide and narrow beside the noise."""
    n, sde = 256, EDM()
    ours = histograms(n)
    t = np.repeat([1e-4, 3e-3, 0.03, 0.2, 0.9, 50.0], 3)
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, (18, 2)) + t[:, None] * rng.normal(size=(18, 2))
    z = (np.linspace(-1, 1, n + 1) - x[..., None]) / t[:, None, None]  # [b, d, edges]
    below, above = stats.norm.cdf(z), stats.norm.sf(z)
    right = z[..., :-1] > 0  # where the upper tail has the digits
    mass = np.where(right, -np.diff(above), np.diff(below)) * n / 2
    change = -np.diff(stats.norm.pdf(z)) / t[:, None, None] * n / 2
    w, p = np.asarray(ours.weights), np.asarray(ours.probabilities)
    density, slope = (np.einsum("kdn,bdn->bkd", p, a) for a in (mass, change))
    joint = w * density.prod(axis=2)
    responsibility = joint / joint.sum(axis=1, keepdims=True)
    score = np.einsum("bk,bkd->bd", responsibility, slope / density)

    @jax.jit
    def both(weights, probabilities, x, t):
        ours = Histograms(weights, probabilities)
        return ours.log_prob(sde, x, t), ours.denoiser(sde)(x, t)

    arrays = [jnp.asarray(a) for a in (w, p, x, t)]
    log_prob, x_0 = both(*arrays)
    # the truth itself loses digits in differences over narrow cells
    np.testing.assert_allclose(log_prob, np.log(joint.sum(axis=1)), rtol=1e-9, atol=1e-9)
    eps = (x - np.asarray(x_0)) / t[:, None]
    np.testing.assert_allclose(eps, -score * t[:, None], rtol=1e-7, atol=1e-7)

    with jax.enable_x64(False):
        _, rough = both(*(jnp.asarray(a, jnp.float32) for a in arrays))
    # float32 tells x from an edge of a cell to 6e-8, which is 6e-8 / t of the noise
    error = np.abs(np.asarray(rough, float) - np.asarray(x_0)) / t[:, None]
    assert np.all(error < 1e-5 + 20 * 6e-8 / t[:, None])


def test_histograms_hold_their_probabilities():
    ours = histograms(8)
    levels = np.array([[0, 7], [3, 3], [5, 1]])
    x = jnp.asarray((levels + np.random.default_rng(2).uniform(size=(3, 2))) / 4 - 1)
    p = np.asarray(ours.probabilities)
    each = p[:, np.arange(2), levels].prod(axis=2)  # [k, b]
    truth = np.log(np.asarray(ours.weights) @ each) + 2 * np.log(4)
    np.testing.assert_allclose(jax.jit(ours.log_density)(x), truth, rtol=1e-10)


def test_dequantized_images_are_boxes():
    """Without noise the density of an image's box is its share over the volume."""
    images = np.array([[[0, 3]], [[2, 1]], [[2, 1]]], np.uint8)
    ours = dequantized(images, 4)
    x = jnp.array([[-0.9, 0.7], [0.1, -0.3], [0.1, 0.3]])
    truth = np.log(np.array([1, 2, 0]) / 3 / 0.5**2 + 1e-300)
    found = np.maximum(jax.jit(ours.log_density)(x), truth[2])
    np.testing.assert_allclose(found, truth, rtol=1e-9)


def test_dataset_denoiser_is_the_weighted_mean():
    points = np.random.default_rng(3).normal(size=(150, 2, 2))
    x = np.random.default_rng(4).normal(size=(5, 2, 2))
    sde, t = VP(), jnp.asarray(0.4)
    alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
    logits = -np.sum((x[:, None] - alpha * points) ** 2, axis=(2, 3)) / (2 * sigma**2)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    truth = np.einsum("bn,nij->bij", weights / weights.sum(axis=1, keepdims=True), points)
    ours = jax.jit(Dataset(jnp.asarray(points)).denoiser(sde))(jnp.asarray(x), t)
    np.testing.assert_allclose(ours, truth, rtol=1e-9)


def test_samples_follow_the_density():
    """The mean of ln p over samples is -entropy; of a Gaussian that is known."""
    _, means, covs = mixture()
    gaussian = Gaussian(means[0], covs[0])
    n = 20_000
    log_prob = jax.jit(lambda key: gaussian.log_density(gaussian.sample(key, n)))(jax.random.key(5))
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
    ours = build("processes.exact", "ring(components=5, radius=2.0, std=0.3)")

    @jax.jit
    def both(x, t):
        return [(law.denoiser(sde)(x, t), law.log_density(x)) for law in (ours, mixture)]

    for found, truth in zip(*both(x, t), strict=True):
        np.testing.assert_allclose(found, truth, rtol=1e-9)


def test_three_gaussians_are_a_centred_distribution():
    ours = build("processes.exact", "three_gaussians")
    np.testing.assert_allclose(ours.weights @ ours.means, 0, atol=1e-15)
    assert float(jnp.sum(ours.weights)) == pytest.approx(1)
    assert np.all(np.linalg.eigvalsh(ours.covs) > 0)
