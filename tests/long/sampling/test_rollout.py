"""Long clips: their law is that of the chain which goes on from the first frame."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.processes import Flow
from score_sde.processes.exact_frames import StateSpace
from score_sde.sampling import grids
from score_sde.sampling.rollout import rollout

SDE = Flow(t_min=1e-4, t_max=0.9999)


def walk(frames):
    """x_{f+1} = 0.8 x_f + 0.6 z, which is N(0, 1) for ever if x_0 is."""
    one = jnp.ones((1, 1))
    return StateSpace(jnp.zeros(1), one, 0.8 * one, 0.36 * one, one, 0 * one, frames)


@pytest.mark.parametrize("delay", [0.0, 1.0])
def test_the_law_of_a_long_walk(x64, delay):
    """Three windows of two new frames each, after x_0 = 2: x_f has mean 2 0.8^f and covariance
    0.8^|f - g| (1 - 0.64^min(f, g)). Within five standard errors of 20,000 walks, and 1 % for the
    steps."""
    n, frames = 20_000, 3
    first, times = jnp.full((n, 1, 1), 2.0), jnp.asarray(grids.uniform(SDE, 240))
    denoiser = walk(frames).denoiser(SDE)
    x = jax.jit(
        lambda key: rollout(key, SDE, denoiser, first, times, frames=frames, windows=3, delay=delay)
    )(jax.random.key(0))
    assert x.shape == (n, 7, 1)
    np.testing.assert_array_equal(x[:, 0], first[:, 0])
    f = np.arange(1, 7)
    mean = 2 * 0.8**f
    cov = 0.8 ** np.abs(f[:, None] - f) * (1 - 0.64 ** np.minimum(f[:, None], f))
    ours, variance = np.asarray(x[:, 1:, 0]), np.diag(cov)
    assert np.all(np.abs(ours.mean(0) - mean) < 5 * np.sqrt(variance / n) + 0.01)
    error = np.sqrt((variance[:, None] * variance + cov**2) / n)
    assert np.all(np.abs(np.cov(ours.T) - cov) < 5 * error + 0.01)


def test_wrong_numbers_are_named():
    def run(given, windows):
        first, times = jnp.zeros((1, given, 1)), jnp.asarray(grids.uniform(SDE, 4))
        denoiser = walk(3).denoiser(SDE)
        rollout(jax.random.key(0), SDE, denoiser, first, times, frames=3, windows=windows)

    with pytest.raises(ValueError, match="of 3 frames 3 are given: give fewer, and at least 1"):
        run(3, 1)
    with pytest.raises(ValueError, match="windows must be at least 1, not 0"):
        run(1, 0)
