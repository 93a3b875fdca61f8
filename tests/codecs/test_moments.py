"""The Gaussian of an autoencoder against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.codecs.moments import kl, mean_and_std, sample

MEANS = np.random.default_rng(0).normal(size=(3, 2, 5, 4))
STDS = np.exp(np.random.default_rng(1).normal(size=MEANS.shape))
MOMENTS = jnp.asarray(np.concatenate([MEANS, 2 * np.log(STDS)], -1), jnp.float32)


def test_mean_and_std():
    mean, std = mean_and_std(MOMENTS)
    np.testing.assert_allclose(mean, MEANS, rtol=1e-6)
    np.testing.assert_allclose(std, STDS, rtol=1e-6)


def test_log_variances_are_clipped():
    """At -30 and 20, in each of the functions."""
    moments = jnp.array([[0.0, 0.0, -1e4, 1e4]])
    ends = np.array([-30.0, 20.0])
    np.testing.assert_allclose(mean_and_std(moments)[1][0], np.exp(ends / 2), rtol=1e-5)
    np.testing.assert_allclose(kl(moments), [np.sum(np.exp(ends) - 1 - ends) / 2], rtol=1e-5)
    z = jax.random.normal(jax.random.key(0), (1, 2))
    found = sample(jax.random.key(0), moments)
    np.testing.assert_allclose(found, np.asarray(z) * np.exp(ends / 2), rtol=1e-5)


def test_divergence_is_the_integral():
    """Of log q - log p under q, by Gauss and Hermite's quadrature, which is exact for it."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    z = MEANS[..., None] + STDS[..., None] * nodes
    log_ratio = -(nodes**2) / 2 - np.log(STDS)[..., None] + z**2 / 2
    truth = (log_ratio @ (weights / weights.sum())).sum((1, 2, 3))
    np.testing.assert_allclose(kl(MOMENTS), truth, rtol=1e-5)
    half = MOMENTS.astype(jnp.bfloat16)
    assert kl(half).dtype == jnp.float32
    np.testing.assert_array_equal(kl(half), kl(half.astype(jnp.float32)))


def test_samples():
    """They are mean + std z, with z standard normal; the standard error of n numbers is 1/sqrt n,
    and that of their variance sqrt(2/n)."""
    n = 40_000
    moments = jnp.broadcast_to(jnp.array([3.0, -1.0, np.log(4.0), np.log(0.25)]), (n, 4))
    z = (np.asarray(sample(jax.random.key(1), moments)) - [3, -1]) / [2, 0.5]
    assert np.abs(z.mean(0)).max() < 4 / np.sqrt(n)
    assert np.abs(z.var(0) - 1).max() < 4 * np.sqrt(2 / n)
    assert abs(np.mean(z[:, 0] * z[:, 1])) < 4 / np.sqrt(n)


def test_a_key_for_each_example():
    """An example's sample depends on its own key alone."""
    keys = jax.random.split(jax.random.key(2), 3)
    drawn = sample(keys, MOMENTS)
    np.testing.assert_array_equal(sample(keys[1:2], MOMENTS[1:2])[0], drawn[1])
    assert not np.array_equal(sample(jax.random.key(2), MOMENTS), drawn)


@pytest.mark.parametrize("shape", [(4, 6), (4, 3, 2)])
def test_latents_of_any_shape(shape):
    moments = jnp.zeros(shape).at[..., : shape[-1] // 2].set(2.0)
    np.testing.assert_allclose(kl(moments), np.full(4, 2.0 * np.prod(shape[1:]) / 2), rtol=1e-6)
