"""Bits per dimension of images from a known law, from the file on disk to the mode's result."""

import jax.numpy as jnp
import numpy as np
from scipy import stats

from score_sde.models.model import Model
from score_sde.modes import likelihood
from score_sde.processes import VP
from score_sde.processes.exact import Histograms
from tests.modes.test_train import small, untrained

LEVELS, D = 256, 2


def law():
    """Dark and bright images, so that pixels know of each other: [2, d, levels], their
    levels unequal."""
    rng = np.random.default_rng(0)
    probabilities = np.zeros((2, D, LEVELS))
    probabilities[0, :, 10:110] = rng.dirichlet(np.full(100, 2.0), D)
    probabilities[1, :, 150:220] = rng.dirichlet(np.full(70, 2.0), D)
    return np.array([0.3, 0.7]), probabilities


def draw(n, seed):
    weights, probabilities = law()
    rng = np.random.default_rng(seed)
    k = rng.choice(2, n, p=weights)
    pixels = [[rng.choice(LEVELS, p=probabilities[i, j]) for j in range(D)] for i in k]
    return np.array(pixels, np.uint8).reshape(n, D, 1, 1)


def smoothed(sde):
    """Mean and variance over u of -log2 of the density at t_min for each pixel and level, in bits
    of a level: -log2 P, but for the edges of the cells, which sigma(t_min) has rounded."""
    alpha, sigma = (float(f(jnp.asarray(sde.t_min))) for f in (sde.alpha, sde.sigma))
    _, probabilities = law()
    u = (np.arange(32) + 0.5) / 32
    x = (2 * (np.arange(LEVELS)[:, None] + u) / LEVELS - 1).ravel()
    edges = alpha * np.linspace(-1, 1, LEVELS + 1)
    mass = np.diff(stats.norm.cdf((edges - x[:, None]) / sigma), axis=1)
    density = probabilities @ mass.T / (alpha * 2 / LEVELS)
    bits = -np.log2(np.maximum(density, 1e-300)) + np.log2(LEVELS) - 1
    bits = bits.reshape(2, D, LEVELS, -1)
    return bits.mean(axis=3), bits.var(axis=3)


def test_bits_per_dim_is_the_entropy_of_the_images(tmp_path, monkeypatch):
    n = 32
    images = draw(n, seed=1)
    np.savez(tmp_path / "images.npz", train_images=draw(8, seed=2), test_images=images)
    config = small()
    config.data = {"name": "npz", "path": str(tmp_path / "images.npz"), "augment": "none"}
    config.likelihood.update(probes=0, batch_size=n)
    untrained(config, tmp_path / "run")

    # the denoiser of the law itself in the place of the network's
    weights, probabilities = law()
    exact = Histograms(*(jnp.asarray(a, jnp.float32) for a in (weights, probabilities)))
    monkeypatch.setattr(Model, "denoiser", lambda self, *_: exact.denoiser(self.sde))
    result = likelihood.likelihood(config, tmp_path / "run")
    assert result["num_examples"] == n

    # The components have no level in common, so entropies add.
    entropy = -np.sum(weights * np.log2(weights)) / D
    mean, variance = smoothed(VP())
    surprise = np.einsum("k,kdv,kdv->", weights, probabilities, mean) / D
    assert abs(result["bits_per_dim"] - entropy - surprise) < 2 * result["standard_error"]
    plain = np.where(probabilities > 0, np.log2(np.maximum(probabilities, 1e-300)), 0)
    lost = surprise + np.einsum("k,kdv,kdv->", weights, probabilities, plain) / D
    assert 0 < lost < 0.1

    # Of these very images it is known better: only u is left to chance.
    levels = images.reshape(n, D)
    k = (levels[:, 0] > 127).astype(int)
    of_pixels = (k[:, None], np.arange(D)[None], levels)
    known = np.mean(-np.log2(weights[k]) / D + mean[of_pixels].mean(axis=1))
    error = np.sqrt(variance[of_pixels].mean() / (n * D))
    assert abs(result["bits_per_dim"] - known) < 4 * error + 1e-3  # of the ODE
