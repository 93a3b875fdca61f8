"""Resampling: shares, and a fair draw at every place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.solvers.particles import effective_size, fair, of_groups, systematic, take

pytestmark = pytest.mark.usefixtures("x64")


def test_resampling_keeps_shares():
    """Systematic: p w copies but for rounding up or down; and 1/sum w^2 particles count."""
    log_weights = jnp.asarray(np.random.default_rng(0).normal(size=(3, 50)) * 2)
    weights = np.exp(log_weights)
    weights /= weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(effective_size(log_weights), 1 / (weights**2).sum(axis=1))
    np.testing.assert_allclose(effective_size(jnp.zeros((1, 50))), 50)
    for seed in range(5):
        places = np.asarray(systematic(jax.random.key(seed), log_weights))
        copies = np.stack([np.bincount(row, minlength=50) for row in places])
        assert np.all(np.abs(copies - 50 * weights) < 1)


def test_each_place_turned_is_a_draw_by_the_weights():
    """The first place of `systematic` is not, since it comes from the first of the sums: of weights
    .2 .8 0 it is the first particle with probability .6. The frequencies of 20,000 draws are within
    four standard errors of the weights."""
    weights, n = np.array([0.2, 0.8, 0.0]), 20_000
    log_weights = jnp.log(jnp.tile(jnp.asarray(weights), (n, 1)))
    places = systematic(jax.random.key(0), log_weights)
    error = 4 * np.sqrt(weights * (1 - weights) / n)
    first = np.bincount(places[:, 0], minlength=3) / n
    np.testing.assert_allclose(first, [0.6, 0.4, 0.0], atol=4 * np.sqrt(0.24 / n))
    turned = fair(jax.random.key(1), places)
    for place in range(3):
        found = np.bincount(turned[:, place], minlength=3) / n
        assert np.all(np.abs(found - weights) <= error), (place, found)
    np.testing.assert_array_equal(np.sort(turned, axis=1), np.sort(places, axis=1))


def test_a_group_with_a_key_of_its_own_does_not_depend_on_the_others():
    keys = jax.random.split(jax.random.key(0), 6)
    log_weights = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)))
    both = systematic(of_groups(keys, 2), log_weights)
    alone = systematic(of_groups(keys[2:4], 2), log_weights[1:2])
    np.testing.assert_array_equal(both[1:2], alone)
    x = jnp.arange(6.0)
    np.testing.assert_array_equal(
        take(both, x), x.reshape(3, 2)[np.arange(3)[:, None], both].ravel()
    )
    one = jax.random.PRNGKey(0)
    assert of_groups(one, 2) is one
