"""Noise of a solver: by the interval, and by the example."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.types import Noise

N = 4096


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_noise_belongs_to_its_interval(x64, dtype):
    """Equal for equal intervals, also where a program knows them later; of neighbouring intervals,
    of the reverse one and of a fold all correlations are within five standard errors of 0."""
    noise = Noise(jax.random.key(0))
    t, s, r = jnp.asarray([0.7, 0.5, 0.5 * (1 + 2e-7)], dtype)
    z = noise(t, s, (N,))
    assert z.dtype == dtype
    np.testing.assert_array_equal(z, jax.jit(lambda t, s: noise(t, s, (N,)))(t, s))
    others = [noise(t, r, (N,)), noise(s, t, (N,)), noise(s, r, (N,))]
    others += [noise.fold(i)(t, s, (N,)) for i in (0, 1)]
    for a, b in itertools.combinations([z, *others], 2):
        assert abs(np.mean(np.asarray(a) * np.asarray(b))) < 5 / np.sqrt(N)
    for a in (z, *others):
        assert abs(np.mean(np.square(a)) - 1) < 5 * np.sqrt(2 / N)


def test_noise_of_an_example_is_that_of_its_key(x64):
    keys = jax.random.split(jax.random.key(1), 3)
    t, s = jnp.asarray([0.7, 0.5])
    for number in (None, 4):
        of_all, *of_each = (Noise(key) for key in (keys, *keys))
        if number is not None:
            of_all, *of_each = (noise.fold(number) for noise in (of_all, *of_each))
        together = of_all(t, s, (3, 8))
        alone = [noise(t, s, (8,)) for noise in of_each]
        np.testing.assert_array_equal(together, np.stack(alone))
