"""The field `sampling.noise`: what a stochastic solver draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.errors import ConfigError
from score_sde.experiment import build, samplers
from tests import perceptron


def sampler(noise, steps, n):
    """Draws n images as reals [n, ...], with untrained parameters."""
    config = perceptron.get_config()
    config.sampling.update({"solver": "ancestral", "grid": "log_snr", "steps": steps})
    config.sampling.noise = noise
    experiment = build.build_experiment(config)
    zeros = jnp.zeros((1, *experiment.codec.shape))
    params = experiment.model.init(jax.random.key(0), zeros)
    draw = samplers.build_paths(config, experiment, n, jax.tree_util.Partial(lambda ends: ends.x))
    return lambda key, first=0: np.asarray(draw(params, key, first))


def test_samples_along_paths():
    """A sample depends on its number and not on its batch, to float32's rounding; a finer grid
    changes it less than with independent noise."""
    key = jax.random.key(3)
    whole = sampler("path", 8, 16)(key)
    half = sampler("path", 8, 8)
    parts = np.concatenate([half(key), half(key, 8)])
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-4 * np.abs(whole).max())

    def change(noise):
        """That from 64 to 128 steps."""
        coarse, fine = (sampler(noise, steps, 8)(key) for steps in (64, 128))
        return np.std(fine - coarse)

    assert change("path") < 0.3 * change("independent")


def test_a_wrong_name_is_told():
    with pytest.raises(ConfigError, match=r"unknown name 'paths'; did you mean 'path'\?"):
        sampler("paths", 2, 8)
