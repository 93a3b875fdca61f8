"""Clouds without a centre: the noise, the density and the network have (n - 1) 3 dimensions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.codecs.codec import Codec
from score_sde.config import build
from score_sde.data.harmonic import cluster
from score_sde.errors import ConfigError, DataError
from score_sde.nets.centred import CentredDiT
from score_sde.processes import EDM, VP, exact
from score_sde.sampling.likelihood import log_likelihood
from score_sde.types import Feature

FEATURES = {"points": Feature((5, 3)), "signal": Feature((9,)), "token": Feature((5, 3), 7)}


def codec(**options):
    return build("codecs", {"name": "centred", **options}, FEATURES)


def test_the_centre_is_taken_away_and_lengths_stay():
    ours = codec(std=2.0)
    assert isinstance(ours, Codec)
    assert (ours.shape, ours.feature.shape) == ((4, 3), (5, 3))
    raw = np.random.default_rng(0).normal(3.0, 1.0, size=(6, 5, 3)).astype(np.float32)
    x = ours.encode(jax.random.key(0), raw)
    away = raw - raw.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(ours.decode(x), away, atol=1e-5)
    np.testing.assert_allclose(np.sum(np.square(x)) * 4, np.sum(np.square(away)), rtol=1e-5)
    np.testing.assert_allclose(ours.encode(jax.random.key(0), raw[2]), x[2], atol=1e-6)


def test_noise_is_that_of_points_without_their_mean(x64):
    """The covariance of n points is (I - 1 1^T/n) along each axis, and 0 across axes."""
    z = jax.random.normal(jax.random.key(0), (200_000, 4, 3))
    points = np.asarray(codec().decode(z)).reshape(len(z), 15)
    np.testing.assert_allclose(points.reshape(-1, 5, 3).mean(axis=1), 0, atol=1e-12)
    truth = np.kron(np.eye(5) - 1 / 5, np.eye(3))
    # of a covariance of n draws the standard error is at most sqrt(2/n)
    np.testing.assert_allclose(points.T @ points / len(z), truth, atol=5 * np.sqrt(2 / len(z)))


def test_a_permutation_of_atoms_permutes_what_the_network_makes_of_them(x64):
    """Through the codec, to rounding; with positions it does not."""
    raw = jax.random.normal(jax.random.key(0), (2, 5, 3))
    order = np.array([3, 1, 4, 0, 2])
    noise = jnp.array([0.3, -1.0])
    for positions, alike in (("none", True), ("sines", False)):
        net = CentredDiT(patch_size=1, width=16, depth=2, num_heads=2, positions=positions)

        def atoms(params, raw, net=net):
            x = codec().middle(raw).astype(jnp.float64)
            return codec().decode(net.apply(params, x, noise))

        params = net.init(jax.random.key(1), jnp.zeros((1, 4, 3)), noise[:1])
        params = jax.tree.map(  # the output of a new network is 0
            lambda a: a + 0.3 * jax.random.normal(jax.random.key(a.size), a.shape, a.dtype), params
        )
        out, permuted = atoms(params, raw), atoms(params, raw[:, order])
        error = np.max(np.abs(permuted - out[:, order])) / np.max(np.abs(out))
        assert (error < 1e-6) == alike
        moved = atoms(params, raw + jnp.array([[[5.0, 0.0, -1.0]]]))
        np.testing.assert_allclose(moved, out, atol=1e-5)


@pytest.mark.parametrize("springs", ["chain", "all"])
@pytest.mark.parametrize("sde", [VP(), EDM()], ids=lambda sde: type(sde).__name__)
def test_the_likelihood_of_a_harmonic_cluster(x64, springs, sde):
    """By the ODE and the exact denoiser, within .01 nats of the closed form, which for springs
    between all pairs is that of N(0, I/(n k)) in 12 dimensions. In 15 it would be 3/2 ln(2 pi e/5)
    more, about 1.8 nats."""
    law = cluster(5, springs, 1.0)
    normal = np.random.default_rng(0).normal(size=(8, 4, 3))
    raw = law.atoms(normal) + 7.0
    truth = law.log_density(raw)
    if springs == "all":
        by_hand = -np.sum(normal**2, axis=(1, 2)) / 2 - 6 * math.log(2 * math.pi / 5)
        np.testing.assert_allclose(truth, by_hand, rtol=1e-9)
    cov = jnp.asarray(np.kron(np.linalg.inv(law.precision), np.eye(3)))
    denoiser = exact.Gaussian(jnp.zeros(12), cov).denoiser(sde)
    x = codec().middle(raw).astype(jnp.float64)
    found = log_likelihood(jax.random.key(0), sde, denoiser, x, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.log_prob, truth, atol=0.01)


def test_draws_have_the_covariance_of_the_springs():
    data = build("data", {"name": "harmonic", "atoms": 4, "stiffness": 2.0, "test": 3})
    points = data.train.parts["points"].astype(float)
    truth = np.linalg.pinv(
        2 * np.array([[1, -1, 0, 0], [-1, 2, -1, 0], [0, -1, 2, -1], [0, 0, -1, 1]])
    )
    n = 3 * len(points)
    found = np.einsum("bic,bjc->ij", points, points) / n
    np.testing.assert_allclose(found, truth, atol=5 * np.max(truth) * np.sqrt(2 / n))
    assert not np.any(data.test.parts["points"] == data.train.parts["points"][:3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"part": "signal"}, r"signal has the shape \(9,\), and centred clouds are \[n, 3\]"),
        ({"part": "token"}, "token has 7 values, and reals are real numbers"),
        ({"std": 0.0}, r"std must be above 0, not 0\.0"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        codec(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"atoms": 1}, "atoms must be at least 2 and stiffness above 0, got 1 and 1.0"),
        ({"springs": "none"}, "there are no springs 'none': one of chain, all"),
        ({"test": 0}, "train and test must be at least 1, got 20000 and 0"),
    ],
)
def test_wrong_clusters_are_named(options, message):
    with pytest.raises(DataError, match=message):
        build("data", {"name": "harmonic", **options})
